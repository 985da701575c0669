"""Our mask updates and HAM against what public code of others made of the same numbers (`make parity`)."""

import subprocess

import numpy as np
import pytest

from parity import __main__ as parity
from parity import methods, peers, traces
from parity.ours import mirrored, steps, trace
from parity.peers import PEERS, Peer
from support.runs import ROOT

CASES = [(peer, case) for peer in PEERS for case in peer.cases]


@pytest.fixture(scope="module")
def updates():
    return trace()


@pytest.fixture(scope="module")
def stored(updates):
    return traces.read(ROOT / "parity" / "traces.npz", updates)


def test_the_inputs_are_those_that_the_peers_had(updates, stored):
    assert len(updates) == 22 * 5 * 2
    np.testing.assert_allclose(traces.sums(updates), stored.sums, rtol=1e-5)


@pytest.mark.parametrize(("peer", "case"), CASES, ids=[case for _, case in CASES])
def test_our_masks_agree_with_a_peers_as_the_table_says(peer, case, updates, stored):
    counts = parity._counts(updates, stored.masks, {}, case)
    assert peer.row(case, counts) in (ROOT / "results" / "parity.md").read_text().splitlines()
    same, *_, other = map(int, counts.split(" | "))
    assert other == 0 or case == "google", "only its noise gives masks that no number of ours gives"
    assert same == len(updates) or case != "google-quiet"


@pytest.mark.parametrize("case", methods.CASES)
def test_methods_agree_with_their_authors_code_as_the_table_says(case):
    updates = methods.inputs(case)
    mine = methods.answered(case, updates)
    theirs = methods.kept(case, mine, updates)
    row = methods.row(case, methods.compared(case, updates, mine, theirs))
    assert row in (ROOT / "results" / "parity-methods.md").read_text().splitlines()
    for update, ours, other in zip(updates, mine, theirs, strict=True):
        if case == "srigl" and not np.array_equal(ours, other):
            before, after, same = (mask.reshape(len(mask), -1).sum(1) for mask in (update.mask, ours, other))
            assert np.array_equal(after, same), "the same neurons are taken away, with one fan-in"
            rounded = update.fraction * update.mask.sum() % 1 > 1 - 1e-9
            assert before.max() > after.max() or rounded, "only where the fan-in falls, any of the weights stay"


def test_ham_takes_its_authors_steps(stored):
    np.testing.assert_allclose(mirrored(steps()), stored.ham, rtol=1e-5)
    assert np.count_nonzero(stored.ham) == np.count_nonzero(steps().mask)


def git(place, *words):
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *words], cwd=place, check=True, capture_output=True, text=True).stdout


def test_a_peer_is_fetched_at_its_commit(tmp_path, monkeypatch):
    """From where PEERS says, and nothing of it but the part that is run."""
    source = tmp_path / "somebody+else"
    source.mkdir()
    git(source, "init", "--quiet")
    for text in ("old", "new"):
        (source / "code.py").write_text(text)
        (source / "data.bin").write_text(text)
        git(source, "add", ".")
        git(source, "commit", "--quiet", "--message", text)
    commit = git(source, "rev-parse", "HEAD~1").strip()
    monkeypatch.setattr(peers, "PLACE", tmp_path / "peers")
    monkeypatch.setenv("PEERS", str(tmp_path / "{owner}+{name}"))
    place = peers.fetch(Peer("somebody", "else", commit, "code.py", {}))
    assert [path.name for path in place.iterdir() if path.name != ".git"] == ["code.py"]
    assert (place / "code.py").read_text() == "old"


def test_a_peer_that_is_not_there_is_said(tmp_path, monkeypatch):
    for module in (peers, parity):
        monkeypatch.setattr(module, "PLACE", tmp_path / "peers")
    monkeypatch.setenv("PEERS", str(tmp_path / "nowhere" / "{name}"))
    monkeypatch.setattr(parity, "PEERS", [peer for peer in PEERS if not peer.own_environment])
    monkeypatch.setattr(parity, "trace", list)
    table, kept = tmp_path / "parity.md", tmp_path / "traces.npz"
    monkeypatch.setattr("sys.argv", ["parity", "--out", str(table), "--traces", str(kept)])
    with pytest.raises(SystemExit, match=r"rigl-torch: not compared: fatal: .*rigl-torch"):
        parity.main()
    assert table.read_text().count("not compared: fatal: ") == len(parity.PEERS) + 1
    assert not kept.exists(), "what is kept for the tests is whole"


def test_masks_of_ours_that_have_changed_are_not_taken_for_those_that_were_compared(updates):
    mine = methods.answered("mest", updates)
    mine[3] = ~mine[3]
    with pytest.raises(ValueError, match="our masks of mest have changed since they were compared"):
        methods.kept("mest", mine, updates)

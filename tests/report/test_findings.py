"""What is said of our runs in words is what the drawn tables say."""

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from scipy.stats import binomtest, t

from sparse_train.errors import ConfigError
from sparse_train.report import sweeps
from sparse_train.report.evidence import claims, comparisons, family, registration, statements
from sparse_train.report.page import compared
from sparse_train.report.page.content import view
from sparse_train.report.results import Results
from sparse_train.report.views import statistics
from support.records import leave_records

RESULTS = sweeps.ROOT / "results"
INTERVAL = re.compile(r"[+-]\d+\.\d\d\s\[[+-]\d+\.\d\d,\s[+-]\d+\.\d\d\]")
MEAN = re.compile(r"\d+\.\d\d\s±\s\d+\.\d\d")
NUMBER = re.compile(r"(?<![\d.])\d+\.\d\d(?![\d.])")  # a sign may stand in words: "1.73 points below"

FINDINGS, STUDIES = (RESULTS / f"{name}.md" for name in ("findings", "studies"))
HEAD, *SECTIONS = STUDIES.read_text().split("\n## ")
PARTS = {"findings": FINDINGS.read_text()} | {text.splitlines()[0]: text for text in SECTIONS}
WORDS = {path: re.sub(r"\s+", " ", path.read_text()) for path in (FINDINGS, STUDIES)}
COMPUTED = {  # numbers that no table has; a test of their own computes all but 2.25
    "The paper's protocol": {"0.89", "1.74", "1.95", "2.10", "7.49", "11.52"},
    "Calibration": {"2.25", "1.74"},  # a difference without a prediction, and the bound
    "D alone after 30 epochs": {"0.91", "1.27", "3.10"},
    "findings": {"1.42", "1.74", "2.10", "7.49", "11.52"},  # three of the paper's own differences
    "The paper's steps at 16x16": {"1.42"},
}


def tables(text):
    """The drawn tables that a text links."""
    linked = [RESULTS / target for target in re.findall(r"\]\(([\w/-]+\.md)", text)]
    return [path for path in linked if path.name not in ("theory.md", "findings.md", "studies.md")]


def measured_claims():
    return [one for claim in statements.scoreboard(RESULTS) for one in claim["ours"]]


def numbers(pattern, text):
    return {re.sub(r"\s+", " ", found) for found in pattern.findall(text)}


@pytest.mark.parametrize("part", PARTS)
def test_every_number_stands_in_a_table_that_its_section_links(part):
    text = PARTS[part]
    drawn = "\n".join(table.read_text() for table in tables(text))
    assert drawn
    assert numbers(INTERVAL, text) - numbers(INTERVAL, drawn) == set()
    assert numbers(MEAN, text) - numbers(MEAN, drawn) == set()
    assert numbers(NUMBER, text) - numbers(NUMBER, drawn) <= COMPUTED.get(part, set())


def test_findings_are_one_page_and_every_study_of_theirs_has_a_section():
    prose = [line for line in FINDINGS.read_text().splitlines() if not line.startswith("|")]
    assert len(" ".join(prose).split()) <= 900
    assert not numbers(NUMBER, HEAD)
    first = {tables(text)[0].stem for text in SECTIONS}
    assert first >= {one["at"] for one in measured_claims() if one["scale"] != sweeps.PAPER}
    anchors = [re.sub(r"[^\w -]", "", text.splitlines()[0]).lower().replace(" ", "-") for text in SECTIONS]
    assert re.findall(r"\]\(#([\w-]+)\)", HEAD) == anchors


def test_the_verdict_is_the_same_in_readme_and_findings():
    readme = re.sub(r"\s+", " ", (sweeps.ROOT / "README.md").read_text())
    found = statements.verdict(RESULTS)
    assert len(found) == 3
    for one in found:
        assert f"**{one['question']}** {one['answer']}" in readme.split("## Start")[0]
        assert f"**{one['question']}** {one['answer']}" in WORDS[FINDINGS].split("## In short")[0]
        if one["number"] in one["answer"]:
            assert f"{one['number']} {one['interval']}".strip() in one["answer"]
    assert sum(one["number"] in one["answer"] for one in found) == 2, (
        "the third is a difference of two numbers of the answer"
    )
    assert statements.verdict(RESULTS / "nowhere") == []


@pytest.mark.parametrize("text", ["why?: because\n", "- question: 'x\n", "- {question: why?}\n"])
def test_a_verdict_that_cannot_be_shown_is_named(tmp_path, text):
    (tmp_path / "verdict.yaml").write_text(text)
    with pytest.raises(ConfigError, match="must be a list of questions with answers"):
        statements.verdict(tmp_path)


def test_the_words_say_at_which_scale():
    for path in (FINDINGS, STUDIES):
        assert "**REDUCED SCALE cpu.**" in path.read_text()
        reduced = [path for path in tables(path.read_text()) if path.parent.name == "cpu"]
        assert len(reduced) > 3
        for table in reduced:
            assert sweeps.reduced("cpu") in table.read_text().splitlines()[0]


def test_links_of_the_findings_lead_somewhere():
    for path in (FINDINGS, STUDIES, sweeps.ROOT / "docs" / "readings.md", RESULTS / "README.md"):
        for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s:]*)\)", path.read_text())):
            page = path.parent / target if target else path
            assert page.exists(), (path.name, target)
            if anchor and page.suffix == ".md":
                heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
                assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, anchor


def test_the_spread_of_the_papers_baseline_bounds_a_further_seed():
    table = pd.read_csv(RESULTS / "paper" / "table2.csv").query("sparsity == 0.97 and epochs == 100")
    paper = table.set_index("optimizer").loc["sgd"]
    bound = t.ppf(0.975, 2) * paper["std"] * (1 + 1 / 3) ** 0.5
    assert paper["mean"] == 52.53
    assert f"within {bound:.2f} points of {paper['mean']}" in WORDS[FINDINGS]
    assert f"within {bound:.2f} points of its mean" in WORDS[STUDIES]
    [near] = [one for one in statements.scoreboard(RESULTS) if "shortcuts dense" in one["says"]]
    for one, (number, sparsity) in zip(near["ours"], ((2, 0.9), (2, 0.95), (8, 0.97)), strict=True):
        cells = pd.read_csv(RESULTS / "paper" / f"table{number}.csv").query("epochs == 100 and optimizer == 'sgd'")
        std = cells.set_index("sparsity").loc[sparsity, "std"]
        assert abs(one["effect"][0]) < t.ppf(0.975, 2) * std * (1 + 1 / 3) ** 0.5


def test_what_is_said_of_the_papers_protocol_is_in_its_records():
    runs = Results(RESULTS).runs(sweeps.load("protocol"))
    done = runs[(runs["status"] == "complete") & runs["renorm"].isna()]
    sparse, dense = (done[done["topology.exclude"].isna() == kind] for kind in (True, False))
    done = sparse.set_index(["optimizer", "seed"])
    (sgd, ours), seed = (done.loc[name, "0"] for name in ("sgd", "sparseopt")), 1
    text = " ".join(WORDS.values())
    assert f"{sgd['test_acc'] - 52.53:+.2f} (every layer sparse, paper, n={seed})" in text
    assert f"{ours['test_acc'] - sgd['test_acc']:+.2f} (every layer sparse, paper, n={seed})" in text
    assert f"{100 * (ours['itop_rate'] - sgd['itop_rate']):+.2f} (every layer sparse, paper, n={seed})" in text
    dense = dense.set_index(["optimizer", "seed"])
    columns = ["test_acc", "itop_rate"]
    corrected = dense.loc[("sparseopt", "0"), columns] - dense.loc[("sgd", "0"), columns]
    assert f"{corrected['test_acc']:+.2f} (dense classifier, paper, n={seed})" in text
    accuracy = dense.loc["sparseopt", "0"]["test_acc"]
    assert (
        f"With a dense classifier SparseOpt has {accuracy:.2f}, {-corrected['test_acc']:.2f} points below SGD" in text
    )
    assert f"SparseOpt's ITOP rate is {100 * corrected['itop_rate']:+.2f} points above" in text
    assert f"{100 * (ours['itop_rate'] - sgd['itop_rate']):+.2f} with a sparse classifier" in text
    classifier = dense.loc["sgd", "0"]["test_acc"]
    assert f"SGD reaches {classifier:.2f}, {classifier - sgd['test_acc']:+.2f} points against a sparse one" in text
    assert f"it stays {52.53 - classifier:.2f} below" in text


def test_what_is_said_of_the_bound_at_the_papers_protocol_is_in_its_records():
    runs = Results(RESULTS).runs(sweeps.load("protocol"))
    done = runs[runs["status"] == "complete"]
    free = done[done["renorm"].isna() & done["topology.exclude"].isna()].set_index("optimizer")["test_acc"]["sgd"]
    bounded = done[done["renorm"] == "unit"].set_index("optimizer")["test_acc"]
    text = " ".join(WORDS.values())
    for cost, paper in (
        (bounded["sgd"] - free, f"{41.01 - 52.53:+.2f}"),
        (bounded["sparseopt"] - bounded["sgd"], f"{48.50 - 41.01:+.2f}"),
    ):
        assert f"| {paper} | {cost:+.2f} (every layer sparse, paper, n=1)" in text
        assert f"{abs(cost):.2f} {'below' if cost < 0 else 'points above'} the" in text
    assert f"the baseline has {bounded['sgd']:.2f}" in text
    assert f"D alone has {bounded['sparseopt']:.2f}" in text
    assert f"by {41.01 - bounded['sgd']:.2f} and {48.50 - bounded['sparseopt']:.2f} points" in text


def test_what_is_said_of_d_alone_after_more_epochs_is_in_its_records():
    """Its effect without a bound after 30 epochs, minus that after 10."""
    found = []
    for name, renorm in (("why-longer", {"renorm": "none"}), ("why-readings", {})):
        sweep = sweeps.load(name, "cpu")
        runs = Results(RESULTS, "cpu").runs(sweep)
        both = {"dst": "rigl", "sparsity": "0.97", **renorm}
        alone = {"optimizer": "sparseopt", "optimizer.precondition.average": "none"}
        pair = {"says": name, "a": both | alone, "b": both | {"optimizer": "sgd"}}
        found.append(comparisons.Study(sweep, runs).difference(pair, "test_acc"))
    change = statistics.mean(found[0] - found[1])
    assert change.n == 5
    text = " ".join(WORDS.values())
    assert (
        f"The deficit shrank by {change.mean:.2f} points, with an interval from {change.low:.2f} to {change.high:+.2f}"
        in text
    )


def test_what_is_said_of_the_papers_spread_is_in_its_tables(monkeypatch):
    """Read as a standard deviation, and as a standard error."""
    stated = {claim["id"]: claim for claim in claims.stated()}
    welch, found = statistics.welch, {}
    for factor in (1.0, 3**0.5):
        monkeypatch.setattr(
            statistics, "welch", lambda terms, f=factor: welch([(sign, m, f * std, n) for sign, m, std, n in terms])
        )
        for name in ("renormalized", "sparseopt-beats-baseline"):
            p = [c.adjusted for c in claims.on_the_papers(stated[name]) if c.adjusted == c.adjusted]
            found[name, factor] = (sum(value < 0.05 for value in p), len(p))
    assert [count for count, _ in found.values()] == [24, 0, 9, 0]
    assert {of for _, of in found.values()} == {24}
    text = " ".join(WORDS.values())
    assert "cell by cell after Holm: 0 and 24 of 24 |" in text
    gains = pd.concat(
        table.pivot(index=["sparsity", "epochs"], columns="optimizer", values="mean").eval("sparseopt - sgd")
        for table in (pd.read_csv(RESULTS / "paper" / f"table{number}.csv") for number in (2, 3))
    )
    assert (len(gains), int((gains > 0).sum())) == (24, 23)
    assert "Tables 2, 3: positive in 23 of 24 cells" in text
    assert f"sign test p {binomtest(23, 24).pvalue:.0e}".replace("e-0", "e-") in text


def measured(name):
    return Results(RESULTS).rows(sweeps.load(name))


def test_what_is_said_of_single_seeds_of_the_amplification_is_in_its_rows():
    rows = measured("fig2").query("`task.norm` == 'batch'")
    worst = (rows["ratio"] / rows["theory"] - 1).abs().groupby(rows["task.init"]).max()
    words = f"off by {worst['library_default']:.1%} under torch's initialization and by {worst['kaiming_normal']:.1%}"
    assert words in re.sub(r"\s+", " ", (RESULTS / "theory.md").read_text())


def test_what_is_said_of_gradients_across_mask_updates_is_in_their_rows():
    updates = measured("mask-updates").query("kind == 'update'")
    turned = updates["angle_corrected"] - updates["angle_raw"]
    early, late = turned[updates["step"] <= 75], turned[updates["step"] >= 100]
    assert len(early) + len(late) == len(turned)
    text = re.sub(r"\s+", " ", (RESULTS / "theory.md").read_text())
    assert f"by {-early.mean():.1f} degrees on average and in {(early < 0).sum()} of {len(early)} updates" in text
    assert f"it turns more, by {late.mean():.1f} degrees and in {(late > 0).sum()} of {len(late)} updates" in text


def test_the_effects_as_committed_are_those_of_the_records():
    page = (RESULTS / "cpu" / "effects.md").read_text()
    assert page == family.markdown(RESULTS, "cpu")
    assert family.markdown(RESULTS / "nowhere", "cpu") == family.markdown(RESULTS, "smoke") == ""
    fixed, explored = (part.splitlines() for part in page.split("## Exploratory"))
    rows = [[text.strip() for text in line.split("|")[1:-1]] for line in fixed if line.startswith("| ")][2:]
    p, adjusted = [float(row[4]) for row in rows], [float(row[6]) for row in rows]
    assert adjusted == pytest.approx(statistics.holm(p), abs=2e-3)
    assert not any("Holm" in line for line in explored[1:]), "their p is not adjusted"
    assert sum("from the reference" in line for line in explored) > 10
    assert not {row[2] for row in rows} & {line.split("|")[3].strip() for line in explored if line.startswith("| ")}


def test_the_confirmatory_family_is_fixed_and_was_registered_before_its_runs():
    """Its p do not drift: data of other studies do not enter, and a test without data counts as one."""
    results = Results(RESULTS, "cpu")
    found = family.confirmatory(results)
    assert list(found) == [(study, says) for study, named in family.CONFIRMATORY.items() for says in named]
    assert len(found) == 7
    for study in family.CONFIRMATORY:
        sweep = sweeps.load(study, "cpu")
        [listed] = comparisons.compared(comparisons.Study(sweep, results.runs(sweep)))
        made = {line[0]: line[-1] for line in listed}
        assert {made[says] for of, says in found if of == study} <= {registration.REGISTERED, registration.UNKNOWN}
    bare = Results(RESULTS / "nowhere", "cpu")
    updates = {row["id"] for row in results.runs(sweeps.load("why-updates", "cpu")).to_dict("records")}
    bare.committed = {name: row for name, row in results.committed.items() if name in updates}
    one = ("why-updates", "RigL, SparseOpt minus SGD")
    assert found[one][1] == family.confirmatory(bare)[one][1]


def test_what_is_said_of_the_papers_cells_together_follows_from_its_tables():
    [claim] = [claim for claim in claims.stated() if claim["id"] == "sparseopt-beats-baseline"]
    found = claims.jointly(claim)
    assert (found.positive, found.n, found.survive) == (23, 24, 6)
    assert (found.mean, found.error) == pytest.approx((0.76, 0.07), abs=0.005)
    assert found.sign == pytest.approx(25 / 2**23)
    assert f"; mean {found.mean:+.2f} ± {found.error:.2f}; pooled SD: {found.survive};" in FINDINGS.read_text()


def test_the_tables_at_the_heads_are_the_scoreboard():
    assert statements.markdown(RESULTS) in FINDINGS.read_text()
    assert statements.markdown(RESULTS, headline=True) in (sweeps.ROOT / "README.md").read_text()
    for one in measured_claims():
        assert (RESULTS / sweeps.scale_dir(Path(), one["scale"]) / f"{one['at']}.md").exists() or one["at"] == "table8"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"verdict": "true"}, "verdict=true: must be one of agrees, disagrees, open, new"),
        ({"ours": [{"at": "table99", "a": {}, "b": {}}]}, "at=table99"),
        ({"ours": [{"at": "table2", "a": {"sparsity": 0.5}, "b": {}}]}, "must match one setting of the study"),
        ({"paper": {"a": {"table": "table2", "sparsity": 0.5}, "b": {}}}, "must be a cell of the paper's tables"),
        ({"ours": "more"}, "must be a list of claims: KeyError"),
        ({"colour": "red"}, "no such key"),
    ],
)
def test_a_claim_that_cannot_be_shown_is_named(tmp_path, change, named):
    a, b = ({"sparsity": 0.97, "optimizer": name, "epochs": 100} for name in ("sparseopt", "sgd"))
    whole = {"says": "it gains", "verdict": "new", "paper": "+1.0", "sure": "so"}
    whole["ours"] = [{"at": "table2", "a": a, "b": b}]
    (tmp_path / "statements.yaml").write_text(yaml.safe_dump([whole]))
    assert statements.scoreboard(tmp_path)[0]["ours"][0]["words"] == "not run"
    (tmp_path / "statements.yaml").write_text(yaml.safe_dump([whole | change]))
    with pytest.raises(ConfigError, match=named):
        statements.scoreboard(tmp_path)


def test_a_claim_has_the_differences_of_the_records_and_of_the_papers_tables(tmp_path):
    gains = {"0": 1.0, "1": 2.0, "2": 3.0}
    for name, seeds in (("table2", "012"), ("protocol", "0")):
        leave_records(
            tmp_path,
            name,
            accuracy=lambda cell, seeds=seeds: (
                50.0 + gains[cell.factors["seed"]] * (cell.factors["optimizer"] == "sparseopt")
                if cell.factors["seed"] in seeds
                else None
            ),
        )
    cells = [{"sparsity": 0.97, "optimizer": optimizer, "epochs": 100} for optimizer in ("sparseopt", "sgd")]
    pair = dict(zip("ab", cells, strict=True))
    bare = {side: {"optimizer": cell["optimizer"], "renorm": "unit"} for side, cell in pair.items()}
    bare["a"]["optimizer.precondition.average"] = "none"
    claim = {"says": "it gains", "verdict": "open", "sure": "so", "headline": True, "claim": "exploration"}
    claim["paper"] = {side: {"table": "table2"} | cell for side, cell in pair.items()}
    claim["ours"] = [{"at": "table2", "under": "here", **pair}, {"at": "protocol", **bare}]
    words = {"says": "it shows", "verdict": "new", "paper": "+0.9 to +2.9", "ours": "yes", "n": 4, "at": "fig2"}
    (tmp_path / "statements.yaml").write_text(yaml.safe_dump([claim, words | {"measured": "a toy", "sure": "so"}]))
    claim, words = statements.scoreboard(tmp_path)
    (first, second), [third] = claim["ours"], words["ours"]
    reach = t.ppf(0.975, 2) / 3**0.5
    assert first["effect"] == pytest.approx((2.0, 2 - reach, 2 + reach), abs=0.006)
    assert (first["n"], second["n"], second["words"], first["facets"][0]["sparsity"]) == (3, 1, "+1.00", "0.97")
    assert (claim["paper"], claim["published"]) == ("+1.42", (1.42,))
    error = ((0.40**2 + 0.35**2) / 3) ** 0.5
    freedom = (0.40**2 + 0.35**2) ** 2 / ((0.40**4 + 0.35**4) / 2)
    assert claim["spread"][1] - 1.42 == pytest.approx(t.ppf(0.975, freedom) * error, abs=0.006)
    assert (third["words"], words["published"], third["measured"]) == ("yes", (0.9, 2.9), "a toy")
    table = statements.markdown(tmp_path)
    assert f"| {first['words']} (here, paper, n=3)<br>+1.00 (paper, n=1) |" in table
    assert ("it shows" in table, "it shows" in statements.markdown(tmp_path, headline=True)) == (True, False)
    assert statements.scoreboard(tmp_path / "nowhere") == []


def test_pages_do_not_contradict_each_other():
    """The counts of runs, of numbers and of claims are those of the one store, wherever they stand."""
    index, readme = ((place / "README.md").read_text() for place in (RESULTS, sweeps.ROOT))
    for name, scale, count in re.findall(r"^\| \[([\w-]+)\]\(\S+\) +\| (\w+) +\| (\d+ of \d+) ", index, re.MULTILINE):
        page = sweeps.scale_dir(RESULTS, scale) / f"{name}.md"
        assert f"\n{count} runs complete" in page.read_text(), (name, scale)
    for name, scale in (("table2", "paper"), ("protocol", "paper"), ("fig10", "cpu"), ("why-steps", "size16")):
        runs = Results(RESULTS, scale).runs(Results(RESULTS, scale).shown(name))
        page = (sweeps.scale_dir(RESULTS, scale) / f"{name}.md").read_text()
        assert f"\n{sum(runs['status'] == 'complete')} of {len(runs)} runs complete" in page
    tables = ["table1", "table2", "table3", "table6", "table7", "table8", "table9"]
    shown = compared([view(name, "paper", RESULTS) for name in tables])
    published = sum(len(pd.read_csv(RESULTS / "paper" / f"{name}.csv")) for name in tables)
    ours = claims.our_numbers(tables, "test_acc", RESULTS, "paper").drop_duplicates([*claims.FACTORS])
    assert (shown["done"], shown["cells"]) == (len(ours), published)
    assert f"{len(ours)} of the {published} accuracies" in readme
    assert f"{len(ours)} of the paper's {published} accuracies" in index
    known = {claim["id"] for claim in claims.stated()} | {""}
    every = statements.scoreboard(RESULTS)
    assert {one["claim"] for one in every} <= known
    for scale in ("paper", "cpu"):
        judged = (sweeps.scale_dir(RESULTS, scale) / "claims.md").read_text()
        for claim in filter(lambda one: one["claim"], every):
            section = judged.partition(f"## {claim['claim']}\n")[2].partition("\n## ")[0]
            assert all(statements.brief(one) in section for one in claim["ours"])
    assert not [path for path in RESULTS.rglob("*.md") if re.search(r"\| inconclusive +\| 0 of", path.read_text())]

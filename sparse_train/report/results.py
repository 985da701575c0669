"""What runs have left: the records of run directories, and the table of runs that is committed for each scale.

`Records` reads run directories. `Results` joins them with `records/runs.csv`: one row a run, by its id, whichever
artifacts ask for it. Beside it, `records/<task>.rows.csv` has the epochs or measured rows that figures are drawn from.
"""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path

import pandas as pd

from sparse_train.config import run_id
from sparse_train.errors import ConfigError
from sparse_train.record import segments
from sparse_train.record.files import read_json, read_json_lines
from sparse_train.record.integrity import HISTORY, numbers
from sparse_train.record.lock import Lock
from sparse_train.report import sweeps
from sparse_train.report.files import unguarded, write_table
from sparse_train.report.schema import metrics
from sparse_train.report.sweeps import PAPER, Cell, Sweep, scale_dir

FORMAT = 1  # of records, as `sparse_train.record.record` writes them
COMPLETE, MISSING, INTERRUPTED, DAMAGED = "complete", "missing", "interrupted", "damaged"
UNREADABLE = "unreadable"
TIMES = ("seconds", "images_per_second", "data_wait", "started")  # columns that differ when the same run is made again
MALFORMED = (KeyError, TypeError, AttributeError, ValueError, RecursionError)
FACTS = ("best_test_acc", "images_per_second", "seconds", "started", "threads", "device", "torch", "git")
# Where not the default.
MADE = ("code", "processes", "sync_bn", "compile", "execution", "instructions", "cudnn", "environment", "mixture")
COUNTS = ("trained_epochs", "step", "threads", "processes", "cudnn")  # whole numbers, also where others have none
# pandas reads numbers to the last bit from 3.1 on; before, only when told to.
EXACTLY = {} if tuple(map(int, pd.__version__.split(".")[:2])) >= (3, 1) else {"float_precision": "round_trip"}


@dataclass
class Records:
    """All records under some run directories, read once.

    Attributes:
        found: id -> the run's directory and record: where there are several, a complete one before any other.
        problems: records passed over, each with its reason.
        unreadable: the ids of their directories.
    """

    dirs: Sequence[Path]
    found: dict[str, tuple[Path, dict]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    unreadable: set[str] = field(default_factory=set)

    def __post_init__(self):
        for path in sorted(p for parent in self.dirs for p in Path(parent).glob("*/record.json")):
            try:
                record = read(path)
            except ValueError as error:
                self.problems.append(f"{path}: {error}")
                self.unreadable.add(path.parent.name)
                continue
            known = self.found.get(record["id"])
            if known is None or (known[1]["status"] != COMPLETE and record["status"] == COMPLETE):
                self.found[record["id"]] = (path.parent, record)

    def again(self) -> "Records":
        """The same places, read now."""
        return Records(self.dirs)

    def status(self, cell: Cell) -> str:
        if cell.id in self.found:
            return self.found[cell.id][1]["status"]
        return UNREADABLE if cell.id in self.unreadable else MISSING

    def complete(self, cell: Cell) -> tuple[Path, dict] | None:
        """The cell's directory and record, if the run is complete.

        Raises:
            ConfigError: for a record whose configuration does not give its id: two configurations under one id.
        """
        if self.status(cell) != COMPLETE:
            return None
        run_dir, record = self.found[cell.id]
        if not record.get("checked"):
            try:
                actual = run_id(record["config"], record.get("foreign"))
            except MALFORMED as error:
                passed_over(run_dir / "record.json", f"its configuration cannot be read ({type(error).__name__})")
                del self.found[cell.id]
                self.unreadable.add(cell.id)
                return None
            if actual != cell.id:
                raise ConfigError("record", str(run_dir), f"its configuration is that of run {actual}; move it away")
            record["checked"] = True
        return run_dir, record


@cache
def passed_over(path: Path, why: str) -> None:
    """Name a file that does not count, once, on a line of its own; the others do."""
    print(f"passed over: {path}: {why}", file=sys.stderr, flush=True)


def read(path: Path) -> dict:
    """A run's record; raises ValueError for one that cannot be used, with the reason."""
    try:
        record = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot be read ({type(error).__name__})") from error
    if not isinstance(record, dict) or not {"id", "status", "format"} <= set(record):
        raise ValueError("is not a record")
    if record["format"] != FORMAT:
        raise ValueError(f"has format {record['format']}; this version reads {FORMAT}")
    if not isinstance(record["id"], str) or not isinstance(record["status"], str):
        raise ValueError("is not a record: its id and status must be words")
    if record["status"] == COMPLETE:
        try:
            _row(record)
        except MALFORMED as error:
            raise ValueError(f"is not a whole record ({type(error).__name__}: {error})") from error
    if record["status"] == "running" and Lock(path.with_name("lock")).holder() is None:
        record["status"] = INTERRUPTED  # stopped or killed; the same command resumes it
    if record["status"] == COMPLETE and (wrong := numbers(path.parent, record)) is not None:
        passed_over(path.with_name(HISTORY), wrong)
        record |= {"status": DAMAGED, "reason": f"{HISTORY} {wrong}"}  # the run itself names it and what helps
    return record


def _row(record: dict) -> dict:
    """The row of a complete run: the last epoch's metrics, and how it was made; raises one of MALFORMED.

    `code`: the hash of the training code, or several, joined by "+". `processes`: if more than one, with `sync_bn` if
    used. `compile`: if used. `execution`: if not dense, as it is. `instructions`: the CPU's, where it computed.
    `cudnn`: the version, where a GPU did. `environment`: variables that chose other kernels. `mixture`: what changed on
    the way.
    """
    final = {key: _number(value) for key, value in record["final"].items()}
    row = {"trained_epochs" if key == "epoch" else key: final[key] for key in final if key not in TIMES}
    if shares := record.get("flops"):
        row |= {f"flops/{of}": _number(shares[f"{of}_ratio"]) for of in ("training", "inference")}
    if "best" in record:
        row |= {"best_test_acc": _number(record["best"]["test_acc"]), "images_per_second": final["images_per_second"]}
    hardware, processes = record["hardware"], record.get("processes", 1)
    on_cpu = hardware["device"] == "cpu"
    row |= {
        "seconds": _number(record["seconds"]),
        "started": str(record["started"]),
        "threads": record["threads"],
        "device": hardware.get("cpu", "cpu") if on_cpu else hardware["device"],
        "torch": record["versions"]["torch"],
        "git": record["git"],
    }
    made = {
        "code": "+".join(segments.codes(record)),
        "processes": processes if processes > 1 else None,
        "sync_bn": processes > 1 and record["config"].get("sync_bn"),
        "compile": record["config"].get("compile"),
        "execution": None if (how := record.get("execution")) == "dense" else how,
        "instructions": hardware.get("instructions") if on_cpu else None,
        "cudnn": None if on_cpu else hardware.get("cudnn"),
        "environment": segments.variables(record),
        "mixture": segments.mixture(record),
    }
    return row | {key: value for key, value in made.items() if value}


def _number(value: object) -> object:
    if value is not None and not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


class Results:
    """All that is known at one scale: records, and the runs that are committed in a directory of results.

    A complete record counts before the committed row of the same run. After a clone the committed rows are there and
    the records are not.

    Args:
        results_dir: holds `records/runs.csv`, a smaller scale's in a directory of its own.
        records: those to join.
    """

    def __init__(self, results_dir: Path, scale: str = PAPER, records: Records | None = None):
        self.place = scale_dir(results_dir, scale)
        self.scale = scale
        self.records = Records([]) if records is None else records
        self.path = self.place / "records" / "runs.csv"

    @cached_property
    def committed(self) -> dict[str, dict]:
        """id -> what the table has of the run.

        Raises:
            ConfigError: for a file that is not a table of runs.
        """
        return {row["id"]: row for row in map(_known, _table(self.path).to_dict("records"))}

    def drawn(self, name: str) -> bool:
        """Whether this directory shows the artifact."""
        return (self.place / f"{name}.md").exists()

    def shown(self, name: str) -> Sweep:
        """The artifact's sweep, with those of the references that it offers whose runs are committed."""
        sweep, offered = (sweeps.load(name, self.scale, references=given) for given in (False, True))
        expected = {cell.id for cell in sweep.cells}
        return replace(sweep, grids=[[c for c in offered.cells if c.id in expected or c.id in self.committed]])

    def complete(self, sweep: Sweep) -> set[str]:
        """The ids of the sweep's runs that are complete, here or in the table."""
        return {cell.id for cell in sweep.cells if cell.id in self.committed or self.records.complete(cell)}

    def runs(self, sweep: Sweep) -> pd.DataFrame:
        """One row per cell of the sweep: factors, id, status, and where the run is complete what is known of it.

        A cell without a record has the status "missing", and with one that is no record "unreadable": holes stay
        visible. A factor stays what the sweep asks for, if anything: not the last step's learning rate. Of metrics by
        group, such as `step_ratio/affine`, there are those that the artifact asks for.
        """
        asked, owned, rows = _asked(sweep), {*sweep.factors, "options", "id"}, []
        for cell in sweep.cells:
            found = self._found(cell)
            row = {**cell.factors, "id": cell.id, "status": self.records.status(cell) if found is None else COMPLETE}
            known = _of_groups(found or {}, asked)
            rows.append(row | {key: value for key, value in known.items() if key not in owned})
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["id", "status"])

    def metrics(self, sweep: Sweep) -> set[str]:
        """What the sweep's records here report, whether it is a number in any of them or not."""
        records = (self.records.complete(cell) for cell in sweep.cells)
        return {key for found in records if found is not None for key in found[1]["final"]}

    def _found(self, cell: Cell) -> dict | None:
        """What is known of the run; None if it is not complete."""
        complete = self.records.complete(cell)
        return self.committed.get(cell.id) if complete is None else _known(_row(complete[1]))

    def rows(self, sweep: Sweep) -> pd.DataFrame:
        """One row per committed epoch, or measured row, of every run: factors, id, and what is kept of it.

        Fresh records count once `keep` has committed them, so a figure is the same before and after a clone.
        """
        cells = pd.DataFrame([cell.factors | {"id": cell.id} for cell in sweep.cells])
        tables = [_table(self._rows_path(task)) for task in dict.fromkeys(cell.task for cell in sweep.cells)]
        found = [rows for table in tables if len(rows := table[table["id"].isin(cells["id"])])]
        if not found:
            return pd.DataFrame()
        rows = pd.concat(found).dropna(axis="columns", how="all")
        return cells[["id", *(key for key in cells if key not in rows)]].merge(rows, on="id")

    def _histories(
        self, sweep: Sweep, columns: Sequence[str], more: Mapping[str, Sequence[str]]
    ) -> Iterator[tuple[str, pd.DataFrame]]:
        """(id, its epochs) of every complete record, with what `more` names for an id where the history has it.

        A history that cannot be read is named, and left out.
        """
        for cell in sweep.cells:
            if (complete := self.records.complete(cell)) is None:
                continue
            path = complete[0] / HISTORY
            try:
                rows = [_columns(row, columns, more.get(cell.id, ())) for row in read_json_lines(path)]
                yield cell.id, pd.DataFrame(rows).assign(id=cell.id)
            except (OSError, *MALFORMED) as error:
                passed_over(path, f"cannot be read ({type(error).__name__})")

    def _rows_path(self, task: str) -> Path:
        return self.path.with_name(f"{task}.rows.csv")

    def keep(self, sweep: Sweep, columns: Sequence[str] | None, replace: bool = False) -> None:
        """Commit the sweep's complete records: into the table of runs, and their histories beside it.

        Args:
            columns: of the history; () for all but times, None to keep none.
            replace: also take out committed runs of the sweep that no record has.
        """
        fresh = {cell.id: cell for cell in sweep.cells if self.records.complete(cell) is not None}
        gone = {cell.id for cell in sweep.cells if cell.id not in fresh} if replace else set()
        table = {name: row for name, row in self.committed.items() if name not in gone}
        for name, cell in fresh.items():
            options = " ".join(f"{key}={value}" for key, value in cell.options.items() if key != "scale")
            before = table.get(name, {"options": options})
            found = _of_groups(self._found(cell), {*_asked(sweep), *before})
            table[name] = {"id": name, "options": before["options"], **found}
        if table != self.committed:
            _write(self.path, pd.DataFrame(list(table.values())).sort_values(["options", "id"], kind="stable"))
            self.committed = table
        for task in dict.fromkeys(cell.task for cell in sweep.cells) if columns is not None else ():
            path = self._rows_path(task)
            before = _table(path)
            # What other artifacts keep of the same runs stays, and nothing is added for runs that they do not have.
            kept = {name: [*rows.dropna(axis="columns", how="all")] for name, rows in before.groupby("id")}
            shown = sorted(_asked(sweep))  # so that each can be drawn over epochs later
            histories = self._histories(sweep, columns, {name: [*kept.get(name, ()), *shown] for name in fresh})
            made = [rows for name, rows in histories if fresh[name].task == task]
            written = {rows["id"].iloc[0] for rows in made if len(rows)}
            after = pd.concat([before[~before["id"].isin(written | gone)], *made], ignore_index=True)
            if len(after) and (written or len(after) < len(before)):
                after = after.sort_values("id", kind="stable")
                write_table(path, after[["id", *(key for key in after if key != "id")]], "%.6g")


def complete(runs: pd.DataFrame) -> pd.DataFrame:
    """Those of `Results.runs` that are complete."""
    return runs[runs["status"] == COMPLETE]


def scales_of(name: str, results_dir: Path) -> list[str]:
    """Where to look: the scale that the artifact is made for, and every one that shows it."""
    made_for = sweeps.artifact(name).get("at", PAPER)
    return [one for one in sweeps.every_scale() if one == made_for or Results(results_dir, one).drawn(name)]


def _asked(sweep: Sweep) -> set[str]:
    """The metrics that an artifact names."""
    return {value for named in metrics(sweep.artifact).values() for value in named}


def _columns(row: dict, columns: Sequence[str], more: Sequence[str]) -> dict:
    """Of a row of the history the named columns, or all but times; with others that it may have."""
    if not columns:
        return {key: value for key, value in row.items() if key not in TIMES}
    return {key: row[key] for key in columns} | {key: row[key] for key in more if key in row}


def _of_groups(row: dict, asked: Collection[str]) -> dict:
    """Of metrics by group of parameters, such as `step_ratio/affine`, those that are asked for; all others."""
    return {key: value for key, value in row.items() if "/" not in key or key in asked}


def _table(path: Path) -> pd.DataFrame:
    """A committed table, its numbers to the last bit; an empty one where there is no file."""
    try:
        state = path.stat()
    except FileNotFoundError:
        return pd.DataFrame({"id": pd.Series(dtype=str)})
    return _read(path, state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=32)
def _read(path: Path, *_state: int) -> pd.DataFrame:
    right = "move it away, or restore it with git"
    if not path.is_file():
        raise ConfigError("records", str(path), f"is not a file: {right}")
    words = dict.fromkeys(("id", "options", "git", "code", "torch"), str)
    try:
        table = pd.read_csv(path, dtype=words | dict.fromkeys(COUNTS, "Int64"), **EXACTLY)
    except (OSError, ValueError) as error:
        raise ConfigError("records", str(path), f"cannot be read ({type(error).__name__}): {right}") from error
    if "id" not in table:
        raise ConfigError("records", str(path), f"is not a table of runs, for it has no column id: {right}")
    return unguarded(table)


def _known(row: dict) -> dict:
    """Without what is not known."""
    return {key: value for key, value in row.items() if not pd.isna(value)}


def _write(path: Path, table: pd.DataFrame) -> None:
    """In an order of columns that does not depend on the order in which runs came."""
    first = ["id", "options", *(key for key in (*FACTS, *MADE) if key in table)]
    table = table[[*first, *sorted(key for key in table if key not in first)]]
    write_table(path, table.astype({key: "Int64" for key in COUNTS if key in table}))


NAMED = 3  # so many runs are named


def mixtures(complete: pd.DataFrame) -> str:
    """A sentence for each way in which these runs were made differently; empty where they were made alike."""
    return " ".join(_sentences(complete))


def _sentences(complete: pd.DataFrame) -> Iterator[str]:
    if "code" in complete and len(counts := complete["code"].fillna(segments.UNKNOWN).value_counts()) > 1:
        versions = {version for codes in counts.index for version in codes.split("+")}
        yield f"Made by {len(versions)} versions of the code: {_counted(counts)}."
    if "processes" in complete and len(counts := complete["processes"].fillna(1).astype(int).value_counts()) > 1:
        yield f"Made by different numbers of processes, each normalizing its share of a batch: {_counted(counts)}."
    if "sync_bn" in complete and (synced := complete["sync_bn"].notna().sum()):
        yield f"Of these, normalizing over the whole batch (sync_bn): {synced} {'run' if synced == 1 else 'runs'}."
    if "compile" in complete and 0 < (compiled := complete["compile"].notna().sum()) < len(complete):
        yield f"Made by torch.compile, which rounds differently: {compiled} of {len(complete)} runs."
    if "execution" in complete and len(counts := complete["execution"].fillna("dense").value_counts()) > 1:
        yield f"Executed in different ways (docs/performance.md), which round differently: {_counted(counts)}."
    if "instructions" in complete and len(counts := complete["instructions"].value_counts()) > 1:
        yield f"Made by CPUs with different instructions, which round differently: {_counted(counts)}."
    if "environment" in complete and len(counts := complete["environment"].fillna("none").value_counts()) > 1:
        yield f"Made with variables that choose other kernels, which round differently: {_counted(counts)}."
    if "mixture" in complete and len(mixed := complete.dropna(subset="mixture")):
        named = [f"{run['id']} ({run['mixture']})" for run in mixed.to_dict("records")]
        more = [f"{len(named) - NAMED} more"] if len(named) > NAMED else []
        yield f"Not made in one way: {', '.join([*named[:NAMED], *more])}."


def _counted(counts: pd.Series) -> str:
    return ", ".join(f"{value} ({count} {'run' if count == 1 else 'runs'})" for value, count in counts.items())

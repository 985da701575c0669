"""`python -m sparse_train.report COMMAND [ARTIFACT ...]`: what is there, what is missing, and how it looks."""

import argparse
import sys
from dataclasses import replace
from math import inf
from pathlib import Path

from sparse_train.errors import ConfigError, closest, require, require_one_of
from sparse_train.process.console import piped
from sparse_train.record.files import typed_path
from sparse_train.report import cost, index, page, screen, sweeps
from sparse_train.report.draw import draw
from sparse_train.report.evidence import claims, family, statements
from sparse_train.report.evidence.beside import beside
from sparse_train.report.figures import front
from sparse_train.report.launch import overview, queue, watch
from sparse_train.report.launch.child import overrides
from sparse_train.report.launch.overview import plan, status
from sparse_train.report.launch.reproduce import Placement, made_before, reproduce
from sparse_train.report.launch.rerun import rerun
from sparse_train.report.results import Records
from sparse_train.report.tracking import dashboard, uploads


@piped()
def main() -> None:
    summary = "; ".join(f"{name}: {command.__doc__}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(prog="python -m sparse_train.report", description=__doc__)
    parser.add_argument("command", choices=COMMANDS, help=summary)
    parser.add_argument("artifacts", nargs="*", metavar="ARTIFACT", help=f"all, or some of {', '.join(sweeps.names())}")
    parser.add_argument("--scale", default=sweeps.PAPER, help="paper, or a smaller one (sweeps/_scales.yaml)")
    parser.add_argument("--references", action="store_true", help="with the dense and static runs a figure offers")
    parser.add_argument("--config-dir", type=typed_path, help="a directory of your own, with groups and sweep files")
    parser.add_argument("--runs-dir", type=typed_path, default=Path("runs"), help="where runs are and go")
    parser.add_argument("--more-runs", type=typed_path, nargs="*", default=[], help="other places to read records from")
    where = "where tables and figures go; default: the project's, with --config-dir the working directory's results"
    parser.add_argument("--results-dir", type=typed_path, help=where)
    parser.add_argument("--launch", default="", help="further overrides for the training runs, space-separated")
    parser.add_argument("--run", metavar="ID", help="rerun: which; default: the first that is complete")
    parser.add_argument("--launcher", choices=("serial", "local", "slurm"), default="serial", help="how runs start")
    parser.add_argument("--jobs", type=_count, help="local: concurrent runs; default: PACK for each GPU in --gpus")
    parser.add_argument("--pack", type=_count, default=1, help="local: concurrent runs per GPU")
    parser.add_argument("--gpus", type=_numbers, default=(), help="local: which, such as 0,1,2,3; plan: how many")
    parser.add_argument("--cpus", type=_count, help="plan: CPUs that load ImageNet for each GPU; default: enough")
    parser.add_argument("--once", action="store_true", help="watch: look once")
    parser.add_argument("--every", type=_seconds, default=5.0, help="watch: seconds between two looks")
    parser.add_argument("--project", default="sparse_train", help="of W&B")
    parser.add_argument("--entity", help="of W&B: a team, where it is not your own")
    parser.add_argument("--repository", help="page: the address of the repository, which runs are linked to")
    parser.add_argument("--replace", action="store_true", help="drop committed rows that are not among the records")
    args = parser.parse_args()
    try:
        _check(args)
        sys.exit(COMMANDS[args.command](args) or 0)
    except KeyboardInterrupt:
        parser.exit(130)
    except ConfigError as error:
        parser.exit(1, f"error: {error}\n")


def _check(args: argparse.Namespace) -> None:
    """Refuse names that do not exist, before anything is read or made."""
    if args.config_dir is not None:
        require(args.config_dir.is_dir(), "--config-dir", args.config_dir, "must be a directory")
        sweeps.take(args.config_dir)
    if args.results_dir is None:
        args.results_dir = sweeps.RESULTS if args.config_dir is None else Path("results")
    require_one_of("scale", args.scale, sweeps.every_scale())
    _names(args)


def _reproduce(args: argparse.Namespace) -> int:
    """train what is missing of each artifact, then draw it"""
    placement = Placement(args.launcher, args.jobs, args.gpus, args.pack)
    records, problems = _records(args), []
    for sweep in _sweeps(args):
        owed, records = reproduce(sweep, _runs_dir(args), records, placement, overrides(args.launch))
        problems += owed
        if placement.name == "slurm":
            print(f"{status(sweep, records.again(), _runs_dir(args))}; then make draw-{sweep.name}")
        else:
            _show(sweep, records, args)
            index.write(args.results_dir)
        if (words := made_before(sweep, records)) is not None:
            print(words, file=sys.stderr)
    for problem in problems:
        print(f"without a result: {problem}", file=sys.stderr)
    return int(bool(problems))


def _rerun(args: argparse.Namespace) -> int:
    """train one committed run of each artifact again and compare it, to the bit where the machine is the same"""
    fine = True
    for sweep in _sweeps(args):
        same, found = rerun(sweep, args.results_dir, args.run, overrides(args.launch))
        print(found)
        fine &= same
    return int(not fine)


def _draw(args: argparse.Namespace) -> None:
    """draw each artifact from its records"""
    records = _records(args)
    for sweep in _sweeps(args):
        _show(sweep, records, args)
    index.write(args.results_dir)


def _status(args: argparse.Namespace) -> None:
    """count complete, running, interrupted, failed, diverged and missing runs, of one artifact in a grid"""
    chosen, records = _sweeps(args), _records(args)
    if len(chosen) > 1:
        overview.statuses(chosen, records, _runs_dir(args), args.results_dir)
    else:
        print(status(chosen[0], records, _runs_dir(args), args.results_dir))
        overview.grid(chosen[0], records, args.results_dir)


def _cancel(args: argparse.Namespace) -> None:
    """take what is left of each artifact out of SLURM's queue"""
    for sweep in _sweeps(args):
        print(f"{sweep.name}: {queue.cancel(queue.jobs_dir(_runs_dir(args), sweep.name))} jobs cancelled")


def _plan(args: argparse.Namespace) -> None:
    """count the runs of each artifact and their cost, on so many GPUs, and list those of one; launch nothing"""
    chosen, records = _sweeps(args), _records(args)
    speeds = replace(cost.measured(records), loader=cost.loader(args.results_dir), cpus=args.cpus)
    gpus = max(1, args.gpus[0] if len(args.gpus) == 1 else len(args.gpus))
    if len(chosen) > 1:
        overview.costs(chosen, records, speeds, gpus)
    else:
        print(*overview.listed(chosen[0], records), plan(chosen[0], records, speeds, gpus), sep="\n")
    print(f"({speeds})")


def _claims(args: argparse.Namespace) -> None:
    """judge the paper's claims and the effects of our studies, and draw our effects beside the paper's"""
    print(claims.write(args.results_dir, args.scale))
    print(family.write(args.results_dir, args.scale))
    front.write(args.results_dir, statements.scoreboard(args.results_dir))
    index.write(args.results_dir)


def _page(args: argparse.Namespace) -> None:
    """write report.html: everything above for a browser, in one file"""
    wandb = f"{args.entity}/{args.project}" if args.entity else None
    print(page.write(_names(args), args.results_dir, page.Links(args.repository, wandb)))


def _watch(args: argparse.Namespace) -> None:
    """show the progress of sweeps and keep refreshing; without an artifact, of those that are training"""
    watch.watch(_sweeps(args), _runs_dir(args), args.more_runs, args.every, args.once)


def _dashboard(args: argparse.Namespace) -> None:
    """save the W&B workspace, and a report for every table"""
    print(dashboard.save(args.project, args.entity))


def _wandb_sync(args: argparse.Namespace) -> int:
    """upload what finished runs left offline, each once"""
    said, fine = uploads.sync(args.runs_dir)
    print(said)
    return int(not fine)


def _wandb_backfill(args: argparse.Namespace) -> None:
    """make a W&B run of every committed training run, once"""
    for line in uploads.backfill(_names(args), args.results_dir, args.project, args.entity):
        print(line, flush=True)


COMMANDS = {
    "reproduce": _reproduce,
    "draw": _draw,
    "rerun": _rerun,
    "status": _status,
    "cancel": _cancel,
    "plan": _plan,
    "claims": _claims,
    "page": _page,
    "watch": _watch,
    "dashboard": _dashboard,
    "wandb-sync": _wandb_sync,
    "wandb-backfill": _wandb_backfill,
}


def _names(args: argparse.Namespace) -> list[str]:
    known = sweeps.names()
    if args.artifacts in ([], ["all"]):
        return known
    for name in args.artifacts:
        require(name in known, "artifact", name, f"no such artifact{closest(name, known)} (all, {', '.join(known)})")
    return args.artifacts


def _sweeps(args: argparse.Namespace) -> list[sweeps.Sweep]:
    names = screen.progress(_names(args), "reading sweep files")
    return [sweeps.load(name, args.scale, args.references) for name in names]


def _runs_dir(args: argparse.Namespace) -> Path:
    return sweeps.scale_dir(args.runs_dir, args.scale)


def _show(sweep: sweeps.Sweep, records: Records, args: argparse.Namespace) -> None:
    """Draw, and print: beside the committed numbers if it is drawn elsewhere, the page, and where the picture is."""
    page = draw(sweep, records, args.results_dir, args.replace)
    screen.show(beside(sweep, args.results_dir, sweeps.ROOT / "results") + page)
    if sweep.artifact.get("figure"):
        print(f"picture: {sweeps.scale_dir(args.results_dir, sweep.scale) / f'{sweep.name}.png'}")


def _records(args: argparse.Namespace) -> Records:
    """As they are now; names those that cannot be read."""
    records = Records([_runs_dir(args), *args.more_runs])
    for problem in records.problems:
        print(f"passed over: {problem}", file=sys.stderr)
    return records


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < inf:
        raise argparse.ArgumentTypeError("must be a number of seconds above 0")
    return seconds


def _numbers(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(number.isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError("must be numbers, such as 0,1,2,3")
    return tuple(map(int, numbers))


if __name__ == "__main__":
    main()

"""`python -m sparse_train.report COMMAND [ARTIFACT ...]`: what is there, what is missing, and how it looks."""

import argparse
import sys
from pathlib import Path

from sparse_train.errors import ConfigError
from sparse_train.report import claims, cost, index, page, reproduce, sweeps, uploads, wandb_views, watch
from sparse_train.report.collect import Records
from sparse_train.report.draw import draw

COMMANDS = {
    "reproduce": "train what is missing of each artifact, then draw it",
    "draw": "draw each artifact from the records that are there",
    "status": "count complete, running, failed, diverged and missing runs",
    "watch": "show how sweeps are getting on, again and again; without an artifact, those that are training",
    "claims": "judge the paper's claims on its numbers and on ours",
    "page": "write report.html: everything above for a browser, in one file",
    "plan": "count the runs of each artifact and their cost; launch nothing",
    "dashboard": "save the W&B workspace, and a report for every table",
    "wandb-sync": "upload what finished runs left offline, each once",
    "wandb-backfill": "make a W&B run of every committed training run, once",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sparse_train.report", description=__doc__)
    parser.add_argument("command", choices=COMMANDS, help="; ".join(f"{k}: {v}" for k, v in COMMANDS.items()))
    parser.add_argument("artifacts", nargs="*", metavar="ARTIFACT", help=f"all, or some of {', '.join(sweeps.names())}")
    parser.add_argument("--scale", default=sweeps.PAPER, help="paper, or a smaller one (sweeps/_scales.yaml)")
    parser.add_argument("--references", action="store_true", help="with the dense and static runs a figure offers")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"), help="where runs are and go")
    parser.add_argument("--more-runs", type=Path, nargs="*", default=[], help="other places to read records from")
    parser.add_argument("--results-dir", type=Path, default=sweeps.ROOT / "results")
    parser.add_argument("--launch", default="", help="further overrides for the training runs, space-separated")
    parser.add_argument("--once", action="store_true", help="watch: look once")
    parser.add_argument("--every", type=float, default=5.0, help="watch: seconds between two looks")
    parser.add_argument("--project", default="sparse_train", help="of W&B")
    parser.add_argument("--entity", help="of W&B: a team, where it is not your own")
    args = parser.parse_args()
    try:
        sys.exit(0 if run(args) else 1)
    except KeyboardInterrupt:
        parser.exit(130)
    except ConfigError as error:
        parser.exit(1, f"error: {error}\n")


def run(args: argparse.Namespace) -> bool:
    """True if all went well."""
    if args.command == "claims":
        print(claims.write(args.results_dir, args.scale))
        return True
    if args.command == "dashboard":
        print(wandb_views.save(args.project, args.entity))
        return True
    if args.command == "wandb-sync":
        said, fine = uploads.sync(args.runs_dir)
        print(said)
        return fine
    chosen = sweeps.names() if args.artifacts in ([], ["all"]) else args.artifacts
    if args.command == "page":
        print(page.write(chosen, args.results_dir))
        return True
    if args.command == "wandb-backfill":
        for line in uploads.backfill(chosen, args.results_dir, args.project, args.entity):
            print(line, flush=True)
        return True
    loaded = [sweeps.load(name, args.scale, args.references) for name in chosen]
    runs_dir = reproduce.place(args.runs_dir, args.scale)
    places = [runs_dir, *args.more_runs]
    if args.command == "watch":
        watch.watch(loaded, places, args.every, args.once)
        return True
    records = Records(places)
    for problem in records.problems:
        print(f"passed over: {problem}", file=sys.stderr)
    fine, seen = True, {}
    for sweep in loaded:
        if args.command == "status":
            print(reproduce.status(sweep, records))
        elif args.command == "plan":
            print(reproduce.plan(sweep, records, before=set(seen)))
        else:
            if args.command == "reproduce" and reproduce.todo(sweep, records):
                fine &= reproduce.launch(sweep, records, runs_dir, args.launch.split())
                records = Records(places)
            print(draw(sweep, records, args.results_dir))
        seen |= {cell.id: cell for cell in sweep.cells}
    if args.command in ("reproduce", "draw"):
        index.write(args.results_dir)
    elif len(loaded) > 1:
        print(f"together, each run counted once: {cost.of(list(seen.values()))}")
    return fine


if __name__ == "__main__":
    main()

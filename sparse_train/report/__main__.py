"""`python -m sparse_train.report ARTIFACT`: draw one artifact from records, print its table."""

import argparse
from pathlib import Path

from sparse_train.errors import ConfigError
from sparse_train.report import collect, figures, sweeps, tables


def draw(artifact: str, runs_dir: Path, results_dir: Path) -> str:
    """Write the artifact's CSV, table and figure under `results_dir`; returns the table."""
    sweep = sweeps.load(artifact)
    show = sweep.artifact
    runs, histories = collect.runs(sweep, runs_dir), collect.histories(sweep, runs_dir)
    (results_dir / "records").mkdir(parents=True, exist_ok=True)
    runs.to_csv(results_dir / "records" / f"{artifact}.csv", index=False)
    table = tables.markdown(runs, show["rows"], show["columns"], show["value"])
    page = f"# {show['title']}\n\n{table}\nFinal test accuracy in %, mean ± standard deviation over seeds.\n"
    if not histories.empty:
        figure = figures.curves(histories, show["columns"], show["rows"], show["curves"], show["title"])
        for ending in ("png", "pdf"):
            figure.savefig(results_dir / f"{artifact}.{ending}", dpi=150)
        page += f"\n![{show['title']}]({artifact}.png)\n"
    (results_dir / f"{artifact}.md").write_text(page)
    return f"{show['title']}\n\n{table}\nwritten: {results_dir / artifact}.md, .png, .pdf"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sparse_train.report", description=__doc__)
    parser.add_argument("artifact", help=f"one of {', '.join(sweeps.names())}")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    args = parser.parse_args()
    try:
        print(draw(args.artifact, args.runs_dir, args.results_dir))
    except ConfigError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()

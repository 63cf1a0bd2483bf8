"""`etl-assets experiments …`: the system as a script."""

import sys
from datetime import date
from pathlib import Path

import typer

from etl_assets.settings import load_settings

app = typer.Typer(no_args_is_help=True)


@app.callback()
def experiments() -> None:
    """User features from three messy CSV files."""


@app.command()
def load(
    folder: Path | None = typer.Argument(
        None,
        help="Folder with users.csv, user_experiments.csv and compounds.csv; by default EXPERIMENTS_DIR.",
        metavar="[DIR]",
        show_default=False,
    ),
    as_of: str | None = typer.Option(None, metavar="DATE", help="Day of the features; by default today, in UTC."),
) -> None:
    """Read the files, store their tables, derive the features of each user."""
    from etl_assets.systems.experiments.script import load as run

    done = run(folder, as_of=_day(as_of), settings=load_settings())
    for outcome in done.tables:
        told = ("inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined")
        counts = ", ".join(f"{outcome.counts()[name]:,} {name}" for name in told if outcome.counts()[name])
        print(f"{outcome.slice}: {counts or 'no rows'}")
    repeated, quarantined = done.repeated_compound_ids, done.quarantined
    if repeated:
        one = repeated == 1
        said = (
            "compound id stands again in its list and counts"
            if one
            else "compound ids stand again in their list and count"
        )
        print(f"{repeated:,} {said} once")
    if quarantined:
        rows = "row" if quarantined == 1 else "rows"
        print(f"{quarantined:,} {rows} in quarantine: see `etl-assets quarantine list`", file=sys.stderr)


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--as-of {text!r} is no day: give one like 2023-12-31") from None

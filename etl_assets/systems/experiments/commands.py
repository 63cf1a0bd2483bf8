"""`etl-assets experiments …`: the system as a script."""

import sys
from datetime import date
from pathlib import Path

import typer

from etl_assets.core.results import DRY_RUN, say_dry_run, with_json
from etl_assets.errors import given_by_a_person
from etl_assets.systems.experiments.settings import ExperimentsSettings

app = typer.Typer(no_args_is_help=True)
COUNTS = ("inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined")


@app.callback()
def experiments() -> None:
    """User features from three messy CSV files."""


@app.command()
@with_json
def load(
    folder: Path | None = typer.Argument(
        None,
        help="Folder with users.csv, user_experiments.csv and compounds.csv; by default EXPERIMENTS_DIR.",
        metavar="[DIR]",
        show_default=False,
    ),
    as_of: str | None = typer.Option(None, metavar="DATE", help="Day of the features; by default today, in UTC."),
    allow_rejected: bool = typer.Option(
        False,
        "--allow-rejected",
        help="Load the good rows of a file even if more than four fifths are bad; what it has lost is deleted.",
    ),
    dry_run: bool = DRY_RUN,
) -> object:
    """Read the files, store their tables, derive the features of each user."""
    from etl_assets.core.servers import platform_database
    from etl_assets.core.slices.acceptance import ALL
    from etl_assets.systems.experiments.script import load as run

    settings = ExperimentsSettings.load()
    database = platform_database(settings)
    with given_by_a_person():
        done = run(
            folder,
            as_of=_day(as_of),
            max_rejected=ALL if allow_rejected else None,
            settings=settings,
            database=database.for_dry_run() if dry_run else database,
        )
    if dry_run:
        say_dry_run()
    for outcome in done.tables:
        numbers = [(outcome.counts()[name], name) for name in COUNTS]
        counts = ", ".join(f"{number:,} {name}" for number, name in numbers if number)
        print(f"{outcome.slice}: {counts or 'no rows'}")
    repeated, quarantined = done.repeated_compound_ids, done.quarantined
    if repeated:
        words = ("id stands", "its", "counts") if repeated == 1 else ("ids stand", "their", "count")
        print("{:,} compound {} again in {} list and {} once".format(repeated, *words))
    if quarantined:
        rows = "row" if quarantined == 1 else "rows"
        print(f"{quarantined:,} {rows} in quarantine: see `etl-assets quarantine list`", file=sys.stderr)
    return {
        "dry_run": dry_run,
        "as_of": done.as_of,
        "tables": [outcome.as_dict() for outcome in done.tables],
        "repeated_compound_ids": repeated,
        "quarantined": quarantined,
    }


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"--as-of {text!r} is no day: give one like 2023-12-31") from None

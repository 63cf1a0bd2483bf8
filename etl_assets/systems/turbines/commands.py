"""`etl-assets turbines …`: the system as a script."""

import re
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from etl_assets.core.results import DRY_RUN, say_dry_run, with_json
from etl_assets.errors import ConfigurationError
from etl_assets.systems.turbines.settings import TurbinesSettings

if TYPE_CHECKING:
    from etl_assets.systems.turbines.script import LoadResult

app = typer.Typer(no_args_is_help=True)
COLUMNS = "--columns"
DAY = re.compile(r"\d{4}-")


@app.callback()
def turbines() -> None:
    """Ten-minute statistics of wind turbines, by day."""


@app.command()
@with_json
def load(
    days: list[str] = typer.Argument(help="Days in UTC, like 2024-05-20.", metavar="DAY..."),
    to: str | None = typer.Option(None, "--to", metavar="DAY", help="All days from the one given to this one."),
    columns: list[str] = typer.Option(
        ["wind_speed", "power"], COLUMNS, help="Signals to ask for: --columns power wind_speed ambient_temperature."
    ),
    replace_empty: bool = typer.Option(
        False, "--replace-empty", help="Delete the statistics of what the source has no value of; by default they stay."
    ),
    dry_run: bool = DRY_RUN,
) -> object:
    """Fetch days from the source, replace their statistics in the target database, draw their pages."""
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.turbines.answers import UnknownColumns
    from etl_assets.systems.turbines.databases import turbines_target
    from etl_assets.systems.turbines.page import DAYS_DRAWN
    from etl_assets.systems.turbines.script import load as run

    settings = TurbinesSettings.load()
    try:
        database, target = platform_database(settings), turbines_target(settings)
        if dry_run:
            database, target = database.for_dry_run(), target.for_dry_run()
            say_dry_run()
        done = run(
            _days(days, to),
            columns=columns,
            replace_empty=replace_empty,
            settings=settings,
            database=database,
            target=target,
        )
    except UnknownColumns as error:
        raise ConfigurationError(str(error)) from None
    for stored in done.stored:
        change = stored.data.change
        print(
            f"{stored.day}: {stored.count:,} bins, {stored.data.received:,} values"
            f" ({change.inserted:,} inserted, {change.updated:,} updated, {change.deleted:,} deleted, {change.unchanged:,} unchanged)"
        )
    for line in _remarks(done, replace_empty=replace_empty):
        print(line, file=sys.stderr)
    draws = len(done.stored) <= DAYS_DRAWN and not dry_run
    pages = _draw([stored.day for stored in done.stored], settings) if draws else {}
    return {
        "dry_run": dry_run,
        "days": [
            {"day": one.day, "bins": one.count, "statistics": one.data.as_dict(), "page": pages.get(one.day)}
            for one in done.stored
        ],
        "missing": done.missing,
        "without_value": done.without_value,
        "outside": done.outside,
        "others": done.others,
        "quarantined": done.quarantined,
        "incomplete": done.incomplete,
    }


def _remarks(done: "LoadResult", *, replace_empty: bool) -> Iterator[str]:
    """What is to be known of a load besides what it stored."""
    from etl_assets.systems.turbines.transform import left_out

    then = "what there was of that is deleted" if replace_empty else "statistics that are there stay as they are"
    for day in sorted({*done.missing, *done.without_value}):
        yield f"{day}: the source has no value of {done.without_value.get(day, 'it')}; {then}"
    yield from left_out(done.outside, done.others)
    if done.quarantined:
        elements = "1 element" if done.quarantined == 1 else f"{done.quarantined:,} elements"
        yield f"{elements} in quarantine: see `etl-assets quarantine list`"
    if done.incomplete:
        rows = "1 row has" if done.incomplete == 1 else f"{done.incomplete:,} rows have"
        yield f"{rows} a value that is no number, and nothing in its place: see `etl-assets quarantine list`"


@app.command()
@with_json
def page(days: list[str] = typer.Argument(help="Days in UTC, like 2024-05-20.", metavar="DAY...")) -> object:
    """Draw the page of days that are in the target database; asks no source."""
    from etl_assets.systems.turbines.transform import require_days

    settings, wanted = TurbinesSettings.load(), _days(days, None)
    require_days(wanted, first=settings.turbines_start_date, last=settings.turbines_end_date, now=datetime.now(UTC))
    return {"pages": _draw(wanted, settings)}


def expanded(arguments: Sequence[str]) -> list[str]:
    """A command line in which `--columns a b` is written `--columns a --columns b`, as the parser wants it."""
    if list(arguments[:2]) != ["turbines", "load"]:
        return list(arguments)
    given: list[str] = []
    listing = False
    for argument in arguments:
        if listing and not argument.startswith("-") and not DAY.match(argument):
            # The first of a list has its option already.
            given += [argument] if given[-1] == COLUMNS else [COLUMNS, argument]
        else:
            # Without a single column the option stays as it is: the parser says what is missing.
            listing = argument == COLUMNS
            given.append(argument)
    return given


def _draw(days: Sequence[date], settings: TurbinesSettings) -> dict[date, Path]:
    """Draw the pages of days; gives where they are."""
    from etl_assets.systems.turbines.databases import turbines_target
    from etl_assets.systems.turbines.page import write_day_page

    target, pages = turbines_target(settings), {}
    for day in days:
        page = write_day_page(target, day, settings=settings)
        print(f"{day}: {page.html}" + ("" if page.bins else " (the target has nothing of it)"))
        pages[day] = page.html
    return pages


def _days(texts: Sequence[str], to: str | None) -> list[date]:
    days = [_day(text) for text in texts]
    if to is None:
        return days
    if len(days) != 1 or _day(to) < days[0]:
        raise typer.BadParameter("--to goes with one day, and is not before it")
    return [days[0] + timedelta(days=number) for number in range((_day(to) - days[0]).days + 1)]


def _day(text: str) -> date:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        day = None
    # Python reads other forms as well: 20240520, 2024-W21-1.
    if day is None or text != day.isoformat():
        raise typer.BadParameter(f"{text!r} is no day: give one like 2024-05-20")
    return day

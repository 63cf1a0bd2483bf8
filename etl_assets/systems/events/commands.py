"""`etl-assets events …`: the system as a script."""

import re
import sys
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from etl_assets.core.charts.numbers import counted
from etl_assets.core.results import DRY_RUN, Ended, say_dry_run, with_json
from etl_assets.systems.events.files import INTERVAL, YEARS

if TYPE_CHECKING:
    from etl_assets.core.database.connections import Database
    from etl_assets.systems.events.manifest import Entry
    from etl_assets.systems.events.script import FileRejected, LoadResult

app = typer.Typer(no_args_is_help=True)
INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}:\d{2})(?::00)?(?:Z|\+00:00))?")
WHEN = "like 2019-01-21T22:00Z; a day alone is its midnight"


@app.callback()
def events() -> None:
    """US events from a public feed of files, one every 15 minutes."""


@app.command()
@with_json
def load(
    file: list[Path] = typer.Option([], "--file", help="A file of the feed, by its own name; may be repeated."),
    interval: str | None = typer.Option(None, "--interval", help=f"One interval, {WHEN}."),
    first: str | None = typer.Option(None, "--from", help=f"The first interval, {WHEN}."),
    last: str | None = typer.Option(None, "--to", help="The end, which is not in it; without it until now."),
    dry_run: bool = DRY_RUN,
) -> object:
    """Fetch files of the feed that are not stored as they are, and store their US events; by default the newest.

    A dry run covers the files; their US events are derived from what is stored, and so not of what is not.
    """
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.events.settings import EventsSettings

    if sum((bool(file), interval is not None, first is not None)) > 1 or (last is not None and first is None):
        raise typer.BadParameter("give --file, or --interval, or --from with or without --to")
    database = platform_database(EventsSettings.load())
    if dry_run:
        database = database.for_dry_run()
        say_dry_run()
    if file:
        results, refused = _of_files(file, database)
    else:
        results, refused = [_of_feed(interval, first, last, database)], []
    entries = _entries(results)
    result = {"dry_run": dry_run, **_print_outcome(results, entries)}
    for error in refused:
        print(f"error: {error}", file=sys.stderr)
    if refused:
        raise Ended(2, result)
    if not entries:
        print(
            f"{interval or first} is not over yet, and the feed does not list a file of it: ask again later",
            file=sys.stderr,
        )
    if not any(entry.stored or entry.accepted for entry in entries):
        raise Ended(1, result)
    return result


@app.command()
@with_json
def accept(
    reason: str = typer.Option(..., "--reason", help="Why, for those who come after you."),
    interval: str | None = typer.Option(None, "--interval", help=f"One interval, {WHEN}."),
    first: str | None = typer.Option(None, "--from", help=f"The first interval, {WHEN}."),
    last: str | None = typer.Option(None, "--to", help="The end, which is not in it."),
) -> object:
    """Accept that the files of lost intervals are not to be had: the check `no_interval_is_lost` names them no more."""
    from etl_assets.core.servers import platform_database
    from etl_assets.systems.events.manifest import accept as accept_lost
    from etl_assets.systems.events.settings import EventsSettings

    if (interval is None) == (first is None) or (first is None) != (last is None):
        raise typer.BadParameter("give --interval, or --from and --to")
    if not reason.strip():
        raise typer.BadParameter("--reason is empty: say why")
    begin = _instant(interval or first or "")
    end = _instant(last) if last else begin + INTERVAL
    _require_order(begin, end)
    accepted = accept_lost(platform_database(EventsSettings.load()), begin, end, reason=reason.strip())
    print(f"{counted(len(accepted), 'interval')} accepted as lost: {reason.strip()}")
    return {"accepted": accepted}


def _of_files(paths: list[Path], database: "Database") -> tuple[list["LoadResult"], list["FileRejected"]]:
    """What became of the files that were taken, and why others were not."""
    from etl_assets.systems.events.script import FileRejected, load_file

    results, refused = [], []
    for path in paths:
        try:
            results.append(load_file(path, database=database))
        except FileRejected as error:
            refused.append(error)
    return results, refused


def _of_feed(interval: str | None, first: str | None, last: str | None, database: "Database") -> "LoadResult":
    """What became of an interval, of a stretch, or of the newest file."""
    from etl_assets.systems.events.script import load as run

    now = datetime.now(UTC)
    if interval is None and first is None:
        return run(database=database)
    begin = _instant(interval or first or "")
    end = _instant(last) if last else now
    if begin > now:
        raise typer.BadParameter(f"{begin:%Y-%m-%dT%H:%MZ} is still to come")
    if interval is not None:
        return run(begin, database=database)
    _require_order(begin, end)
    return run(begin, end, database=database)


def _require_order(begin: datetime, end: datetime) -> None:
    if end <= begin:
        raise typer.BadParameter(f"--to {end:%Y-%m-%dT%H:%MZ} is not after --from {begin:%Y-%m-%dT%H:%MZ}")


def _entries(results: list["LoadResult"]) -> list["Entry"]:
    """What there is of the intervals that were asked for, in their order; one that may still come is not in the manifest."""
    found = {one.entry.interval: one.entry for result in results for one in result.taken}
    found |= {entry.interval: entry for result in results for entry in result.manifest}
    return [found[interval] for interval in sorted(found)]


def _print_outcome(results: list["LoadResult"], entries: list["Entry"]) -> dict[str, object]:
    """Print what was stored on the one hand, what was not and why on the other; gives it for programs."""
    from etl_assets.systems.events.us_events import totals

    counts, _ = totals(one for result in results for one in result.stored)
    fetched = [one.entry.rows_raw or 0 for result in results for one in result.taken if one.outcome]
    print(
        f"{counted(len(fetched), 'file')} taken with {counted(sum(fetched), 'event')}; {counts['inserted']:,} US events inserted,"
        f" {counts['updated']:,} updated, {counts['deleted']:,} deleted, {counts['unchanged']:,} unchanged"
        + (f", {repeated:,} stored with another file" if (repeated := counts["deduplicated"]) else "")
    )
    for line in _troubles(entries):
        print(line, file=sys.stderr)
    if quarantined := sum(result.quarantined for result in results):
        print(f"{counted(quarantined, 'row')} in quarantine: see `etl-assets quarantine list`", file=sys.stderr)
    return {
        "files": len(fetched),
        "events": sum(fetched),
        "us_events": counts,
        "quarantined": quarantined,
        "intervals": entries,
    }


def _troubles(entries: list["Entry"]) -> list[str]:
    """What became of intervals without their file, and why: a line for those that follow each other with the same outcome."""
    lines = []
    troubled = enumerate(entry for entry in entries if entry.reason)
    for (state, _), same in groupby(troubled, lambda pair: (_state_of(pair[1]), pair[1].interval - pair[0] * INTERVAL)):
        stretch = [entry.interval for _, entry in same]
        end = stretch[-1] + INTERVAL
        until = f" until {end:%Y-%m-%dT%H:%MZ}, {len(stretch)} intervals," if len(stretch) > 1 else ""
        lines.append(f"{stretch[0]:%Y-%m-%dT%H:%MZ}{until} {state}")
    return lines


def _state_of(entry: "Entry") -> str:
    kept = ", as it was" if entry.stored else ""
    accepted = f", accepted ({entry.accepted})" if entry.accepted else ""
    return f"{entry.state}{kept}{accepted}: {entry.reason}"


def _instant(text: str) -> datetime:
    matched = INSTANT.fullmatch(text)
    try:
        if matched is None:
            raise ValueError(text)
        begin = datetime.fromisoformat(f"{matched[1]}T{matched[2] or '00:00'}:00+00:00")
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant in UTC: give one {WHEN}") from None
    if begin.year not in YEARS:
        raise typer.BadParameter(f"{text!r} is of the year {begin.year}, which no file of the feed is of")
    if begin.minute % 15:
        raise typer.BadParameter(f"{text!r} is not on a quarter of an hour: files are named by :00, :15, :30 and :45")
    return begin

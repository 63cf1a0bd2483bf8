"""The quarters of an hour, in UTC, that the files of the feed are named by."""

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from etl_assets.systems.events.feed.rejected import FileRefused, shown

INTERVAL = timedelta(minutes=15)
# The feed began in 2015; what is named beyond these is a mistake, and near the end of the calendar no day follows.
YEARS = range(2015, 2100)

INSTANT = re.compile(r"[0-9]{14}")
NAME = re.compile(r"([0-9]{14})\.export\.CSV\.zip")
LEADS_AWAY = re.compile(r"[/\\]|^[A-Za-z]:|^\.{1,2}$")
REMEDY = "a file of events is named by its begin in UTC, like 20190121220000.export.CSV.zip"


def instant(text: str) -> datetime:
    """An instant as the feed writes it, YYYYMMDDHHMMSS in UTC.

    Raises:
        ValueError: if it is written in another way, or none of the calendar.
    """
    if INSTANT.fullmatch(text):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(f"{text[:8]}T{text[8:]}Z")
    raise ValueError("not an instant (YYYYMMDDHHMMSS)")


def interval_of(name: str) -> datetime:
    """When the interval begins that a file is named by, aware UTC.

    Raises:
        FileRefused: if the name is a path or none of a file of events (the feed has others beside them), or its instant is
            none of the calendar or not on a quarter of an hour.
    """
    if LEADS_AWAY.search(name):
        raise FileRefused(shown(name), "is a path, not a name", REMEDY, "path")
    matched = NAME.fullmatch(name)
    if matched is None:
        raise FileRefused(shown(name), "is no name of a file of events", REMEDY, "name")
    try:
        interval = instant(matched[1])
    except ValueError:
        raise FileRefused(name, "has no instant of the calendar in its name", REMEDY, "name") from None
    if interval.year not in YEARS:
        raise FileRefused(name, f"is of the year {interval.year}, which no file of the feed is of", REMEDY, "name")
    if not _on_a_quarter(interval):
        raise FileRefused(name, "has a name that is not on a quarter of an hour", REMEDY, "name")
    return interval


def file_name(interval: datetime) -> str:
    """The file of an interval.

    Raises:
        ValueError: if the instant is naive or not on a quarter of an hour.
    """
    return f"{member_name(interval)}.zip"


def member_name(interval: datetime) -> str:
    """The one member of the file of an interval; raises as `file_name`."""
    if interval.tzinfo is None:
        raise ValueError(f"{interval} is naive: an interval begins at an instant in UTC")
    begin = interval.astimezone(UTC)
    if not _on_a_quarter(begin):
        raise ValueError(f"{begin} is not on a quarter of an hour: no file is named by it")
    # `%Y` does not fill up years before 1000.
    return f"{begin.year:04}{begin:%m%d%H%M%S}.export.CSV"


def quarters(first: datetime, last: datetime) -> Iterator[datetime]:
    """The intervals in [first, last), in UTC.

    Raises:
        ValueError: if one of the two is naive, the first is not on a quarter of an hour, or no file of the feed can be of its year.
    """
    for bound in (first, last):
        if bound.tzinfo is None:
            raise ValueError(f"{bound} is naive: an interval begins at an instant in UTC")
    begin = first.astimezone(UTC)
    if not _on_a_quarter(begin):
        raise ValueError(f"{begin} is not on a quarter of an hour: no file is named by it")
    if begin.year not in YEARS:
        raise ValueError(f"{begin:%Y-%m-%dT%H:%MZ} is of the year {begin.year}, which no file of the feed is of")
    return _every_quarter(begin, last)


def _every_quarter(begin: datetime, end: datetime) -> Iterator[datetime]:
    while begin < end:
        yield begin
        begin += INTERVAL


def _on_a_quarter(instant: datetime) -> bool:
    return instant.minute % 15 == 0 and instant.second == 0 and instant.microsecond == 0

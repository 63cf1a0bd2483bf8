"""The files of the feed: one of each quarter of an hour in UTC, how it is named, and why one is rejected."""

import contextlib
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from etl_assets.errors import PermanentError

INTERVAL = timedelta(minutes=15)
# The feed began in 2015; what is named beyond these is a mistake, and near the end of the calendar no day follows.
YEARS = range(2015, 2100)

INSTANT = re.compile(r"[0-9]{14}")
NAME = re.compile(r"([0-9]{14})\.export\.CSV\.zip")
LEADS_AWAY = re.compile(r"[/\\]|^[A-Za-z]:|^\.{1,2}$")
REMEDY = "a file of events is named by its begin in UTC, like 20190121220000.export.CSV.zip"
LONGEST_QUOTE = 60

Reason = Literal[
    "name",  # no name of a file of the feed
    "path",  # a name, of the file or of its member, that would lead somewhere
    "unreadable",  # missing, no regular file, or the system gives no bytes
    "size",  # not as large as the feed says, or too large for any file of the feed
    "md5",  # not the bytes that the feed says
    "archive",  # no ZIP archive, cut off, damaged, or with more in it than one member
    "members",  # none, or several
    "member",  # not the one that is expected
    "link",
    "encrypted",
    "method",  # neither stored nor deflated
    "bomb",  # becomes larger than any file of the feed, or than its archive can explain
    "nested",  # an archive in the archive
    "format",  # text in another layout: format 1.0, saved again by a spreadsheet, a web page
    "fields",  # most rows do not have the number of fields
    "encoding",  # most rows are not clean UTF-8
    "values",  # most rows have fields that cannot be read
]


class FileRejected(PermanentError):
    """A file is not taken, and nothing of it.

    The text is `<name>: <what is wrong>: <what to do>`.

    Attributes:
        name: the file.
        reason: what is wrong, as one of a few words, to count and to decide by.
    """

    def __init__(self, name: str, what: str, remedy: str, reason: Reason) -> None:
        # All four are the arguments of the exception, so that it gets through a pool of processes.
        super().__init__(name, what, remedy, reason)
        self.name, self.reason = name, reason
        self._text = f"{name}: {what}: {remedy}"

    def __str__(self) -> str:
        return self._text


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
        FileRejected: if the name is a path or none of a file of events (the feed has others beside them), or its instant is
            none of the calendar or not on a quarter of an hour.
    """
    if LEADS_AWAY.search(name):
        raise FileRejected(quoted(name), "is a path, not a name", REMEDY, "path")
    matched = NAME.fullmatch(name)
    if matched is None:
        raise FileRejected(quoted(name), "is no name of a file of events", REMEDY, "name")
    try:
        interval = instant(matched[1])
    except ValueError:
        raise FileRejected(name, "has no instant of the calendar in its name", REMEDY, "name") from None
    if interval.year not in YEARS:
        raise FileRejected(name, f"is of the year {interval.year}, which no file of the feed is of", REMEDY, "name")
    if not _on_a_quarter(interval):
        raise FileRejected(name, "has a name that is not on a quarter of an hour", REMEDY, "name")
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


def quoted(text: str) -> str:
    """Text of somebody else's making in quotes, on one line, and not too much of it."""
    return repr(text if len(text) <= LONGEST_QUOTE else f"{text[: LONGEST_QUOTE - 1]}…")

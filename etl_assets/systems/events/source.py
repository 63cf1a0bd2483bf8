"""The feed as Python calls: its newest file, its files in a stretch of time, a file on the disk.

The feed is at one address, and everything is fetched below it. What its lists say of other addresses is not followed: of an
address only the name of the file counts, so that a list, whoever wrote it, sends nobody anywhere.
"""

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, Limits
from etl_assets.core.sources.http.files import Expected, FileClient, FileDiffers, temporary_folder
from etl_assets.core.sources.http.outcomes import MalformedAnswer
from etl_assets.errors import ConfigurationError, PlatformError, TransientError
from etl_assets.systems.events.files import INTERVAL, LARGEST_FILE_BYTES, FileRejected, interval_of, quoted, too_large
from etl_assets.systems.events.settings import EventsSettings

_log = logging.getLogger(__name__)

_NAME = "events"
LATEST, LIST = "lastupdate.txt", "masterfilelist.txt"
# The list names a million files, with a hundred bytes for each: it may take so many times as long as a file.
LIST_TIMEOUT_FACTOR = 15
LARGEST_LIST_BYTES = 2**30
_LONGEST_LINE_BYTES = 4_096
_NOT_THERE = (404, 410)
# With this the client refuses a file for its length alone.
_WHOLE = 200

_LINE = re.compile(
    rb"\s*(\d{1,15})\s+([0-9A-F]{32})\s+https?://[^\s/]+/(?:[^\s/]+/)*((\d{14})\.([^\s/]+)\.zip)\s*", re.IGNORECASE
)
_PARTS = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (rb"\d{1,15}", rb"[0-9A-F]{32}", rb"https?://[^\s/]+/(?:[^\s/]+/)*\d{14}\.[^\s/]+\.zip")
)
# What a line that cannot be read says all the same.
_OF_EVENTS = re.compile(rb"\b((\d{14})\.export\.csv\.zip)\b", re.IGNORECASE)
_EVENTS = b"export.csv"
_FORM = "`size md5 url` of a file"


@dataclass(frozen=True)
class FeedFile:
    """A file of events, as a list of the feed says it.

    Attributes:
        name: what it is called.
        interval: begin of the quarter of an hour that it is of, aware UTC.
        size: how many bytes it has.
        md5: its MD5 in hexadecimal.
        unread: why it is not known what size and MD5 it has: the list names it in a line that cannot be read.
    """

    name: str
    interval: datetime
    size: int
    md5: str
    unread: str | None = None


# What the feed says that it has, by interval; two files where its lists disagree: one of them is out of date.
Listing = Mapping[datetime, Sequence[FeedFile]]


class FileMissing(TransientError):
    """The feed does not have a file, or not as it says; it may still bring it."""


class EventsFeed:
    """The public feed; safe to use from several threads, of which each has a connection of its own.

    Args:
        base_url: the folder that the lists and the files are in.
        limits: time-outs and retries of each call; the master list has `LIST_TIMEOUT_FACTOR` times as long.

    Raises:
        ConfigurationError: if the base URL cannot be right.
    """

    def __init__(self, base_url: str, *, limits: Limits | None = None) -> None:
        self._public_url = without_credentials(_NAME, base_url)[0]
        self._new_client = partial(FileClient, _NAME, base_url, url_variable="EVENTS_FEED_URL")
        limits = limits or Limits()
        self._limits = replace(limits, max_body_bytes=LARGEST_FILE_BYTES)
        self._list_limits = replace(
            limits, max_body_bytes=LARGEST_LIST_BYTES, deadline_s=limits.deadline_s * LIST_TIMEOUT_FACTOR
        )
        self._of_thread = threading.local()

    @classmethod
    def from_settings(cls, settings: EventsSettings, *, limits: Limits | None = None) -> "EventsFeed":
        """The feed that the settings name.

        Raises:
            ConfigurationError: if its URL cannot be right.
        """
        try:
            return cls(settings.required("events_feed_url"), limits=limits)
        except ConfigurationError as error:
            raise ConfigurationError(f"EVENTS_FEED_URL: {error}") from None

    def latest(self) -> FeedFile:
        """The newest file of events, which the first line of `lastupdate.txt` names.

        Raises:
            ApiUnavailable, ApiRefused: as the client classifies; another first line counts as no answer and is asked for
                again, and the failure quotes it.
        """
        return self._client().get_parsed(LATEST, lambda _, body: _first_line(body), accept="text/plain")

    def listed(self, first: datetime, last: datetime) -> Iterator[FeedFile]:
        """The files of events with an interval in [first, last), in the order of the master list.

        Each call fetches the list, which is some 100 MB of all files since 2015, to a temporary file on the disk, and
        reads all of it: the list promises no order, and a file that it names late may stand anywhere. That takes one to two
        seconds of work beside the transfer, and constant memory. A file that the list names twice is given twice.

        A line that cannot be read and names a file of events gives that as one of which size and MD5 are not known. Other lines that say
        nothing of a file are passed over; the number of both is logged once, with the first of them.

        Args:
            first, last: aware, in any zone.

        Raises:
            ApiUnavailable, ApiRefused, NotStored: as the client classifies, before the first file is given; a list without a single line
                that names a file counts as no answer.
            ValueError: if a time is naive.
        """
        if first.utcoffset() is None or last.utcoffset() is None:
            raise ValueError(f"from {first} to {last}: give two aware times")
        return self._in_list(_label(first), _label(last))

    def downloaded(self, file: FeedFile, folder: Path) -> Path:
        """The file in a folder, whole, under its own name; what cannot be fetched leaves nothing there.

        Its size and MD5 are verified. One that differs may be half published: it is fetched again,
        as often as the limits allow.

        Raises:
            FileMissing: the feed answers that there is no such file, or size or MD5 differ at the last attempt too.
            FileRejected: the name is none of a file of events, or the file is too large for one.
            ApiUnavailable, ApiRefused, NotStored: as the client classifies.
            ValueError: if the name is that of another interval.
        """
        if interval_of(file.name) != file.interval:
            raise ValueError(f"{file.name} is not the file of {file.interval}")
        try:
            return self._client().download(file.name, folder / file.name, Expected(file.size, file.md5))
        except FileDiffers as error:
            what = f"{error.what} ({error.attempts} attempts)"
        except ApiRefused as error:
            if error.status == _WHOLE:
                raise too_large(file.name, f"more than {LARGEST_FILE_BYTES:,} bytes") from None
            if error.status not in _NOT_THERE:
                raise
            what = f"the feed does not have it ({error.status} for {self._public_url}/{file.name})"
        raise FileMissing(f"{file.name}: {what}: ask again later")

    def _client(self) -> FileClient:
        """The client of this thread; its connections end with the thread."""
        if not hasattr(self._of_thread, "client"):
            self._of_thread.client = self._new_client(limits=self._limits)
        client: FileClient = self._of_thread.client
        return client

    def _in_list(self, first: bytes, last: bytes) -> Iterator[FeedFile]:
        # The list is in a file without a name, which is gone as soon as it is closed, however that comes.
        with temporary_folder() as folder, self._new_client(limits=self._list_limits) as client:
            lines = client.download(LIST, folder / LIST).open("rb")
        good, bad, first_bad = 0, 0, ""
        with lines:
            for number, line in enumerate(iter(partial(lines.readline, _LONGEST_LINE_BYTES), b""), 1):
                matched = _LINE.fullmatch(line)
                if matched and not (matched[5].lower() == _EVENTS and first <= matched[4] < last):
                    good += 1
                elif file := matched and _named(matched):
                    good += 1
                    yield file
                elif line.strip():
                    bad += 1
                    which = f"line {number}, {_quoted(line)}"
                    first_bad = first_bad or which
                    found = _OF_EVENTS.search(line)
                    if found and first <= found[2] < last and (file := _unread(found[1], which)):
                        yield file
        what = (
            f"{bad:,} of the {good + bad:,} lines of {self._public_url}/{LIST} are no {_FORM}, the first is {first_bad}"
        )
        if not good:
            raise ApiUnavailable(
                f"{_NAME} API, GET /{LIST}: {what}: check that {self._public_url} is the feed", status=200, attempts=1
            )
        if bad:
            _log.warning("%s: not taken", what)


def _first_line(body: bytes) -> FeedFile:
    line = next(iter(body.splitlines()), b"")
    matched = _LINE.fullmatch(line)
    file = _named(matched) if matched else None
    if file is None:
        raise MalformedAnswer(f"a first line that is no {_FORM} of events: {_difference(line)}, in {_quoted(line)}")
    return file


def _difference(line: bytes) -> str:
    """The part of a line by which it is no line of the feed, as it is written."""
    parts = line.split()
    if len(parts) != 3:
        return f"it has {len(parts)} parts, not three"
    for part, form, what in zip(parts, _PARTS, ("size", "MD5", "url"), strict=True):
        if not form.fullmatch(part):
            return f"its {what} is {_quoted(part)}"
    return f"its file is {_quoted(parts[2].rpartition(b'/')[2])}"


def _named(matched: re.Match[bytes]) -> FeedFile | None:
    """The file of events that a line names; None if it names another, or no interval begins at the instant in its name."""
    size, md5, name, *_ = (part.decode("ascii") for part in matched.groups())
    try:
        return FeedFile(name, interval_of(name), int(size), md5.lower())
    except FileRejected:
        return None


def _unread(name: bytes, line: str) -> FeedFile | None:
    try:
        interval = interval_of(name.decode("ascii"))
    except FileRejected:
        return None
    return FeedFile(
        name.decode("ascii"), interval, 0, "", unread=f"the feed's list names it in a line that is no {_FORM}: {line}"
    )


def _label(instant: datetime) -> bytes:
    """The begin of names of files at or after an instant; two of them compare as the instants do."""
    # An instant within a second comes after the name of that second.
    whole = instant.astimezone(UTC) + timedelta(microseconds=-instant.microsecond % 1_000_000)
    return f"{whole.year:04}{whole:%m%d%H%M%S}".encode()


def _quoted(line: bytes) -> str:
    return quoted(line.removesuffix(b"\n").decode("ascii", "backslashreplace"))


def newest(feed: EventsFeed) -> Listing:
    """The newest file, by its interval."""
    file = feed.latest()
    return {file.interval: [file]}


def all_listed(feed: EventsFeed, intervals: Sequence[datetime]) -> Listing:
    """The files of some intervals, of each the one that the list names last, and the newest.

    The newest file is asked for after the list, and goes before what that says of its interval: it may have been republished in
    between. Which of the two is out of date only the file can tell, so that both are given. Without the newest the list
    suffices.
    """
    if not intervals:
        return {}
    listed: dict[datetime, list[FeedFile]] = {}
    for file in feed.listed(min(intervals), max(intervals) + INTERVAL):
        if file.unread is None or file.interval not in listed:
            listed[file.interval] = [file]
    try:
        file = feed.latest()
        others = [other for other in listed.get(file.interval, []) if other.unread is None and other.md5 != file.md5]
        listed[file.interval] = [file, *others]
    except PlatformError as error:
        _log.warning("the list of all files is taken as it is: %s", error)
    return {interval: listed[interval] for interval in set(intervals) & listed.keys()}


def listed_alone(feed: EventsFeed, interval: datetime) -> Listing:
    """The file of one interval; where the list of all files is not to be had the newest is enough, if it is that."""
    try:
        return all_listed(feed, [interval])
    except PlatformError as error:
        known = newest(feed)
        if interval not in known:
            raise
        _log.warning("the newest file is taken without the list of all: %s", error)
        return known

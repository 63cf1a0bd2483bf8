"""From the feed to the raw layer: each file fetched, verified, read, stored as one slice, and recorded in the manifest."""

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pyarrow as pa

from etl_assets.core.contracts import Split
from etl_assets.core.database.connections import Database
from etl_assets.core.prefetch import prefetched
from etl_assets.core.slices.copies import write_manifest
from etl_assets.core.slices.lock import Lock, LookOutdated, draw
from etl_assets.core.slices.parquet import FileLoad, ParquetRoot, is_stored, store_files
from etl_assets.core.slices.session import Session
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Outcome, Write, given_parts
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable
from etl_assets.core.sources.http.files import temporary_folder
from etl_assets.errors import PermanentError
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.files import INTERVAL, FileRejected, file_name, verified
from etl_assets.systems.events.format import valid_events
from etl_assets.systems.events.manifest import Entry, entries, entry_of, part, record_unless_changed
from etl_assets.systems.events.source import EventsFeed, FeedFile, FileMissing, Listing

Clock = Callable[[], datetime]
# So many intervals without a file are recorded in one transaction; a year that the feed does not have is 35,000.
RECORDED_TOGETHER = 480
# A feed that fails may over a file that it lists and nobody has given up; not over all of these, nor be away for so many in a row.
AWAY_IN_A_ROW = 5
# What is wrong with the bytes that came, and not with the file that the feed has.
NOT_THE_FILE = ("size", "md5", "unreadable")


@dataclass(frozen=True)
class Stores:
    """Where the events go.

    Attributes:
        database: with the US events, the manifest, ledger and quarantine.
        root: of the raw layer.
        run_id: who writes.
    """

    database: Database
    root: ParquetRoot
    run_id: str = "script"


class ReadFile(NamedTuple):
    """A file that was verified and read.

    Attributes:
        rows: in the contract of `RawEvents`, bad lines beside them.
        size, md5: of the archive.
    """

    rows: Split[pa.Table]
    size: int
    md5: str


class NotTaken(NamedTuple):
    """Why there is no file.

    Attributes:
        reason: for people.
        listed: the feed says that it has it.
        refused: there is one, and it is not taken; else the feed does not have it, or does not give it.
        md5: of the refused file, as the feed says it.
        failure: of the feed, over this file.
    """

    reason: str
    listed: bool = True
    refused: bool = False
    md5: str | None = None
    failure: ApiUnavailable | ApiRefused | None = None


class Taken(NamedTuple):
    """What became of an interval.

    Attributes:
        entry: in the manifest.
        outcome: of its rows; None where nothing was stored.
    """

    entry: Entry
    outcome: Outcome | None = None


def interval_slice(interval: datetime) -> Slice:
    """The rows of an interval in the raw layer."""
    return Slice(RawEvents, f"{interval.astimezone(UTC):%Y%m%d%H%M%S}", {"file_interval": interval})


def read_file(path: Path, interval: datetime, *, size: int | None = None, md5: str | None = None) -> ReadFile:
    """Verify and read a file of the feed.

    Raises:
        FileRejected: for a file that is not taken, with the reason.
    """
    archive = verified(path, interval=interval, size=size, md5=md5)
    return ReadFile(valid_events(archive.content, interval=interval), archive.size, archive.md5)


def take(
    feed: EventsFeed,
    stores: Stores,
    intervals: Sequence[datetime],
    *,
    known: Listing,
    clock: Clock,
    late: timedelta,
) -> Iterator[Taken]:
    """Bring intervals into the raw layer, as far as the feed has them, and record in the manifest what became of each.

    An interval whose rows are stored is left alone unless the feed has a file of another MD5, which replaces it. One that the feed
    does not have is missing, and absent once its time is up; before its end it is neither where the feed does not list it. A file that cannot be
    taken is refused, and what is stored stays. Where the feed fails over one file, that is missing and the others are taken.

    Args:
        intervals: aware, on quarters of an hour.
        known: what the feed says that it has.
        clock: gives the present instant, aware.
        late: so long after the end of an interval the feed may bring its file.

    Raises:
        ApiUnavailable, ApiRefused: as the feed, if it fails over all of the files, or is away for several in a row; what was recorded before stays.
        NotStored: if the disk does not take a file.
        TransientError, PermanentError: of the stores.
    """
    if not intervals:
        return
    # What is as it was is looked at, too: who has fetched an earlier version of it, and was paused, must not store it any more; and may
    # just have done so.
    news = {*_news(stores, intervals, known, clock)[2]}
    draw(stores.database, [interval_slice(at) for at in intervals if at in known and at not in news])
    manifest, stored, wanted = _news(stores, intervals, known, clock)
    outcomes = [
        replace(entry, reason=None, refused_md5=None, accepted=None)
        for at, entry in manifest.items()
        if at in stored and entry.reason and at in known and all(one.md5 == entry.md5 for one in known[at])
    ]
    expected = {at for at in wanted if at in known and not (at in manifest and manifest[at].accepted)}
    failed = away = 0
    # What is fetched ahead ends before the last of it is stored, so that the locks are given back here.
    held = set[Lock]()
    try:
        with (
            contextlib.closing(_asked(feed, stores, wanted, known, manifest, stored, held)) as asked,
            contextlib.closing(prefetched(asked)) as coming,
        ):
            for at, found, since, lock in coming:
                now = clock()
                if isinstance(found, ReadFile):
                    away = 0
                    assert lock
                    with contextlib.closing(lock):
                        held.discard(lock)
                        try:
                            taken = store_raw(stores, at, found, lock=lock, now=now)
                        except LookOutdated:
                            # Somebody else has looked since, and says what there is of it.
                            taken = Taken(since or Entry(at))
                        yield taken
                    continue
                if lock:
                    held.discard(lock)
                    lock.close()
                if found is None:
                    yield Taken(since or Entry(at))
                    continue
                manifest |= {at: since} if since else {}
                entry = _not_taken(_attempted(since, at, now), found, now=now, late=late)
                outcomes.append(entry)
                if at in expected:
                    failed += found.failure is not None
                    away = away + 1 if isinstance(found.failure, ApiUnavailable) else 0
                    if found.failure and (failed == len(expected) or away == AWAY_IN_A_ROW):
                        raise found.failure
                if len(outcomes) >= RECORDED_TOGETHER:
                    record_unless_changed(stores.database, outcomes, run_id=stores.run_id, since=manifest)
                    outcomes = []
                yield Taken(entry)
    finally:
        for lock in held:
            lock.close()
        record_unless_changed(stores.database, outcomes, run_id=stores.run_id, since=manifest)
    write_manifest(stores.root, stores.database, RawEvents)


def _news(
    stores: Stores, intervals: Sequence[datetime], known: Listing, clock: Clock
) -> tuple[dict[datetime, Entry], set[datetime], list[datetime]]:
    """The manifest of intervals, those of which there are rows, and those of which the feed has something else or is to be asked."""
    manifest = entries(stores.database, min(intervals), max(intervals) + INTERVAL)
    had = [at for at, entry in manifest.items() if entry.stored]
    stored = {at for at, there in zip(had, _are_stored(stores, had), strict=True) if there}
    wanted = [
        at
        for at in intervals
        # What is not over yet cannot be missing.
        if (at in known or at + INTERVAL <= clock())
        and _is_news(manifest.get(at), known.get(at, ()), stored=at in stored)
    ]
    return manifest, stored, wanted


Asked: TypeAlias = tuple[datetime, ReadFile | NotTaken | None, Entry | None, Lock | None]


def _asked(
    feed: EventsFeed,
    stores: Stores,
    wanted: Sequence[datetime],
    known: Listing,
    manifest: Mapping[datetime, Entry],
    stored: Collection[datetime],
    held: set[Lock],
) -> Generator[Asked]:
    """What the feed gives of intervals, with what the manifest says of each, and its lock, held since before the feed was asked.

    Nothing is given where somebody else has stored meanwhile what the feed lists.

    Args:
        held: gets the locks; who is given one gives it back.
    """
    with temporary_folder() as folder, stores.database.connect(autocommit=True) as connection:
        for at in wanted:
            files, entry = known.get(at, ()), manifest.get(at)
            if not files:
                yield at, NotTaken("the feed does not list it", listed=False), entry, None
                continue
            lock = Lock(stores.database, [interval_slice(at)])
            held.add(lock)
            lock.begin()
            now = entry_of(connection, at)
            if now != entry and not _is_news(now, files, stored=bool(now and now.stored)):
                yield at, None, now, lock
                continue
            yield at, _fetched(feed, files, folder, now, stored=at in stored or now != entry), now, lock


def store_raw(stores: Stores, interval: datetime, file: ReadFile, *, lock: Lock, now: datetime | None = None) -> Taken:
    """Store the rows of a file as the slice of its interval, and in the same commit what the manifest says of that.

    Args:
        lock: of the slice, held since before the feed was asked.
        now: when the feed was asked; None for a file that somebody has.
    """
    slice_ = interval_slice(interval)
    how = Write("partition", run_id=stores.run_id, source=file_name(interval), lock=lock)
    (given,) = given_parts(file.rows, [slice_], source=how.source)
    recorded: list[Entry] = []

    def taken(entry: Entry) -> Entry:
        asked = _attempted(entry, interval, now) if now else entry
        fetched = replace(asked, state="fetched", size=file.size, md5=file.md5, rows_raw=rows.loaded.rows)
        recorded.append(replace(fetched, reason=None, refused_md5=None, accepted=None))
        return recorded[-1]

    rows = FileLoad(stores.root, given, how)
    with Session(stores.database) as session:
        outcome, _ = store_files(session, stores.root, [rows], how, beside=[part(interval, taken)])
    return Taken(recorded[-1], outcome)


def _are_stored(stores: Stores, intervals: Sequence[datetime]) -> list[bool]:
    """Whether the raw layer has a file of each interval; who derives one says so of what this process may not read."""
    try:
        return is_stored(stores.root, stores.database, [interval_slice(at) for at in intervals])
    except PermanentError:
        return [True for _ in intervals]


def _is_news(entry: Entry | None, files: Sequence[FeedFile], *, stored: bool) -> bool:
    """Whether the feed has to be asked, or has something that we do not have."""
    if entry is None or not (stored or (entry.state == "refused" and not entry.stored)):
        return True
    if any(file.unread is None and file.md5 not in (entry.md5, entry.refused_md5) for file in files):
        return True
    return entry.sought and (not files or entry.md5 is None)


def _attempted(entry: Entry | None, interval: datetime, now: datetime | None) -> Entry:
    entry = entry or Entry(interval)
    return replace(entry, attempts=entry.attempts + 1, first_asked_at=entry.first_asked_at or now, last_asked_at=now)


def _fetched(
    feed: EventsFeed, files: Sequence[FeedFile], folder: Path, entry: Entry | None, *, stored: bool
) -> ReadFile | NotTaken:
    """The file that the feed has; where its lists disagree the one of them that is right, what is new to the manifest first.

    The version that is stored is not fetched again: it would hide that the newer one could not be had.
    """
    found: ReadFile | NotTaken = NotTaken("the feed does not list it", listed=False)
    known = (entry.md5, entry.refused_md5) if entry else ()
    others = [file for file in files if not (stored and entry and file.md5 == entry.md5)]
    for file in sorted(others, key=lambda other: other.md5 in known):
        found = NotTaken(file.unread) if file.unread else _fetched_as(feed, file, folder)
        if isinstance(found, ReadFile) or found.refused or found.failure:
            break
    return found


def _fetched_as(feed: EventsFeed, file: FeedFile, folder: Path) -> ReadFile | NotTaken:
    try:
        path = feed.downloaded(file, folder)
    except FileMissing as missing:
        return NotTaken(str(missing))
    except FileRejected as refused:
        return NotTaken(str(refused), refused=True, md5=file.md5)
    except (ApiUnavailable, ApiRefused) as failure:
        return NotTaken(str(failure), failure=failure)
    try:
        return read_file(path, file.interval, size=file.size, md5=file.md5)
    except FileRejected as refused:
        is_file = refused.reason not in NOT_THE_FILE
        return NotTaken(str(refused), refused=is_file, md5=file.md5 if is_file else None)
    finally:
        path.unlink()


def _not_taken(entry: Entry, found: NotTaken, *, now: datetime, late: timedelta) -> Entry:
    another = found.md5 != entry.refused_md5
    if another and (found.refused or (found.listed and entry.refused_md5)):
        # Somebody has accepted the loss of another file.
        entry = replace(entry, accepted=None)
    if found.listed and entry.state == "refused":
        # Its time begins anew, with another version.
        entry = replace(entry, first_asked_at=now)
    if entry.stored or (entry.accepted and not found.refused):
        state = entry.state
    elif found.refused:
        state = "refused"
    else:
        # What the feed failed over, or lists, it may well have.
        end = entry.interval + INTERVAL
        since = max(end, entry.first_asked_at or now) if found.listed else end
        state = "absent" if found.failure is None and now >= since + late else "missing"
    # A version that could not be had is not the one that was refused before: it is asked for again.
    return replace(entry, state=state, refused_md5=found.md5, reason=found.reason)

"""The events system without an orchestrator: for the command line, a cron job, or a person who has a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from etl_assets.core.database.connections import Database
from etl_assets.core.progress import progress
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.systems.events.files import INTERVAL, FileRejected, interval_of, quarters
from etl_assets.systems.events.manifest import Entry, entries
from etl_assets.systems.events.raw_layer import Stores, Taken, interval_slice, read_file, store_raw, take
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.source import EventsFeed, all_listed, listed_alone, newest
from etl_assets.systems.events.transform import us_rule
from etl_assets.systems.events.us_events import StoredIntervals, store_us_events


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    Attributes:
        taken: what became of the file of each interval that the feed was asked for, before its US events were derived.
        stored: what became of the US events, by transaction.
        manifest: what the manifest says in the end of the intervals that the load was about, in their order.
    """

    taken: Sequence[Taken]
    stored: Sequence[StoredIntervals]
    manifest: Sequence[Entry]

    @property
    def quarantined(self) -> int:
        """Rows in quarantine."""
        outcomes = [one.outcome for one in self.taken if one.outcome] + [one.outcome for one in self.stored]
        return sum(outcome.quarantined for outcome in outcomes)

    def of_state(self, state: str) -> list[Entry]:
        """The intervals that are in a state in the end."""
        return [entry for entry in self.manifest if entry.state == state]


def load(
    first: datetime | None = None,
    last: datetime | None = None,
    *,
    settings: EventsSettings | None = None,
    feed: EventsFeed | None = None,
    database: Database | None = None,
    now: datetime | None = None,
) -> LoadResult:
    """Fetch the intervals in [first, last) that are not stored as the feed has them, and store their US events.

    Args:
        first, last: aware, on quarters of an hour; none: the newest file. The first alone: that interval.
        settings: by default those of the environment.
        feed, database: by default those that the settings name.
        now: the present instant, aware, instead of the clock's.

    Raises:
        ValueError: if an instant is naive, not on a quarter of an hour, or of a year that the feed has no files of; for a last
            without a first.
        ConfigurationError: for a rule or an address that cannot be right; nothing was written.
        TransientError, PermanentError: if the feed or the database stays away or refuses; what was stored is whole.
    """
    if first is None and last is not None:
        raise ValueError(f"last is {last} without first: give the begin of the stretch too")
    this = _Load(settings or EventsSettings.load(), database, now)
    feed = feed or EventsFeed.from_settings(this.settings)
    if first is None:
        known = newest(feed)
        intervals = list(known)
    else:
        intervals = list(quarters(first, last or first + INTERVAL))
        known = listed_alone(feed, intervals[0]) if last is None else all_listed(feed, intervals)
    late = timedelta(hours=this.settings.events_late_hours)
    taking = take(feed, this.stores, intervals, known=known, clock=this.clock, late=late)
    taken = list(progress(taking, of="interval", name=_when, total=len(intervals)))
    return this.result(taken, intervals)


def load_file(
    path: Path, *, settings: EventsSettings | None = None, database: Database | None = None, now: datetime | None = None
) -> LoadResult:
    """Store a file of the feed that somebody has, under the interval that its name says.

    There are no size and MD5 to compare with; everything else is verified.

    Raises:
        ConfigurationError: for a rule that cannot be right; nothing was written.
        FileRejected: for a file that is not taken; nothing was written.
    """
    this = _Load(settings or EventsSettings.load(), database, now)
    stores, interval = this.stores, interval_of(path.name)
    file = read_file(path, interval)
    with locked(stores.database, [interval_slice(interval)]) as lock:
        taken = store_raw(stores, interval, file, lock=lock)
    return this.result([taken], [interval])


def _when(one: Taken) -> str:
    return f"{one.entry.interval:%Y-%m-%dT%H:%MZ}"


class _Load:
    """One load: what the settings name for it, and what follows once its files are in the raw layer; raises as `us_rule`."""

    def __init__(self, settings: EventsSettings, database: Database | None, now: datetime | None) -> None:
        self.settings, self._now = settings, now
        self._rule = us_rule(settings.events_us_rule, settings.events_us_country_codes)
        self.stores = Stores(database or platform_database(settings), ParquetRoot(settings.storage_url))

    def clock(self) -> datetime:
        """An instant at which it stands still, or the present."""
        return self._now or datetime.now(UTC)

    def result(self, taken: Sequence[Taken], intervals: Sequence[datetime]) -> LoadResult:
        """Store the US events of what was taken, and look at what came of it; in a dry run there is nothing to derive them from."""
        if self.stores.database.is_dry_run:
            return LoadResult(taken, (), [one.entry for one in taken])
        stored = list(store_us_events(self.stores, intervals, rule=self._rule, clock=self.clock))
        wanted = set(intervals)
        manifest = entries(self.stores.database, min(wanted), max(wanted) + INTERVAL) if wanted else {}
        return LoadResult(taken, stored, [entry for at, entry in manifest.items() if at in wanted])


__all__ = ["FileRejected", "LoadResult", "load", "load_file"]

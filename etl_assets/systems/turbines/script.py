"""The turbines system without an orchestrator: for the command line, a cron job, or a person who wants a day."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

import pyarrow as pa

from etl_assets.core.database.connections import Database
from etl_assets.core.progress import progress
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.copies import write_manifest
from etl_assets.core.slices.inputs import InputsMoved, standing_inputs
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet, write_parquet
from etl_assets.core.slices.session import looked_again
from etl_assets.core.slices.writing import Outcome, Write
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, RawTurbineSignals
from etl_assets.systems.turbines.databases import StoredDay, store_days, turbines_target
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi, known_columns, locked_days
from etl_assets.systems.turbines.transform import (
    Statistics,
    day_slice,
    nothing_of,
    require_days,
    statistics_of,
    with_empty,
)

SOURCE = "turbines API"


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    Attributes:
        raw: what became of the source's rows, by day.
        stored: what became of the statistics, by day.
        missing: days of which the source has no value; what is stored of them stays, and they are not in `stored`, unless it was to be
            replaced.
        without_value: by other day, the signals of which the source has no value, for people.
        outside: rows that the source sent although they lie outside of what was asked for; they were left out.
        others: rows of other turbines that it sent; they were left out.
    """

    raw: Sequence[Outcome]
    stored: Sequence[StoredDay]
    missing: Sequence[date]
    without_value: Mapping[date, str]
    outside: int
    others: int

    @property
    def quarantined(self) -> int:
        """Elements of answers that could not be read."""
        return sum(outcome.quarantined for outcome in self.raw)

    @property
    def incomplete(self) -> int:
        """Rows that were stored without a cell that could not be read."""
        return sum(outcome.flagged for outcome in self.raw)


def load(
    days: Sequence[date],
    *,
    columns: Sequence[str] = DEFAULT_COLUMNS,
    replace_empty: bool = False,
    settings: TurbinesSettings | None = None,
    api: TurbinesApi | None = None,
    database: Database | None = None,
    target: Database | None = None,
    now: datetime | None = None,
) -> LoadResult:
    """Fetch days, keep what the source answered, and replace their statistics in the target database.

    Args:
        days: in UTC; each is replaced as a whole.
        columns: the signals to ask for; those that are not asked for stay as they are.
        replace_empty: delete the statistics of what the source has no value of: signals, turbines, days. By default they stay.
        settings: by default those of the environment.
        api, database, target: by default those that the settings name.
        now: the present instant, aware; a day that is not over is rejected.

    Raises:
        ConfigurationError: for a day or a column that there can be no statistics of; nothing was written.
        TransientError: if the source or a database stays unavailable; what was stored is whole, the next call goes on.
        PermanentError: if the source or a database refuses.
    """
    settings = settings or TurbinesSettings.load()
    now = now or datetime.now(UTC)
    require_days(days, first=settings.turbines_start_date, last=settings.turbines_end_date, now=now)
    columns = known_columns(columns)
    api = api or TurbinesApi.from_settings(settings)
    database, target = database or platform_database(settings), target or turbines_target(settings)
    this = _Load(columns, replace_empty, settings, api, database, target)
    moved = this.days(sorted({*days}))
    if moved:
        # Somebody else has asked for other signals of these days, or later: they are asked for anew.
        looked_again(partial(this.days_again, moved))
    write_manifest(ParquetRoot(settings.storage_url), database, RawTurbineSignals)
    without = {day: text for day, text in sorted(this.without_value.items()) if text}
    return LoadResult(this.raw, this.stored, sorted(this.missing), without, this.outside, this.others)


class _Load:
    """One load: what became of its days so far."""

    def __init__(
        self,
        columns: Sequence[str],
        replace_empty: bool,
        settings: TurbinesSettings,
        api: TurbinesApi,
        database: Database,
        target: Database,
    ) -> None:
        self.raw: list[Outcome] = []
        self.stored: list[StoredDay] = []
        self.missing: set[date] = set()
        self.without_value: dict[date, str] = {}
        self.outside = self.others = 0
        self._columns, self._replace_empty, self._settings, self._api = columns, replace_empty, settings, api
        self._turbines = settings.turbines or ("",)
        self._database, self._target = database, target
        self._root = ParquetRoot(settings.storage_url)

    def days(self, days: Sequence[date]) -> list[date]:
        """Fetch days and store their statistics; gives those that somebody else has fetched before that was done."""
        moved: list[date] = []
        missing = {*days}
        for some in statistics_of(self._kept(days), no_value=self._settings.turbines_no_value):
            missing -= {*some.signals}
            self.without_value |= {day: some.without_value(day, self._turbines) for day in some.signals}
            moved += self._store(with_empty(some, self._turbines) if self._replace_empty else some)
        for day in sorted(missing) if self._replace_empty else ():
            moved += self._store(nothing_of(day, turbines=self._turbines, columns=self._columns))
        self.missing = self.missing - {*days} | missing
        return moved

    def _store(self, some: Statistics) -> Iterable[date]:
        """Store statistics; gives their days if somebody else has fetched one of them meanwhile."""
        written = [
            (one.slice, one.content_hash) for one in self.raw if date.fromisoformat(one.slice.name) in some.signals
        ]
        try:
            inputs = standing_inputs(self._database, written)
            self.stored += store_days(self._target, some, source=SOURCE, inputs=inputs)
        except InputsMoved:
            return some.signals
        return ()

    def days_again(self, days: Sequence[date]) -> None:
        """As `days`.

        Raises:
            InputsMoved: if somebody else has fetched some of them before that was done.
        """
        self.raw = [one for one in self.raw if date.fromisoformat(one.slice.name) not in days]
        if moved := self.days(days):
            raise InputsMoved(f"{', '.join(map(str, moved))} was fetched by somebody else meanwhile: load it again")

    def _kept(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """The rows of each day, after they are in their file, as they are there."""
        turbines = self._settings.turbines
        fetching = locked_days(self._api, self._database, days, turbines=turbines, columns=self._columns)
        for fetched, lock in progress(fetching, of="day", name=lambda one: one[0].day, total=len(days)):
            self.outside += fetched.outside
            self.others += fetched.others
            of_day = day_slice(RawTurbineSignals, fetched.day)
            how = Write("partition", source=SOURCE, lock=lock)
            self.raw += write_parquet(self._root, self._database, fetched.rows, [of_day], how)
            # What was rejected before may have been corrected.
            rows = read_parquet(self._root, self._database, [of_day]) if fetched.rows.records else fetched.rows.valid
            yield from rows.to_batches()

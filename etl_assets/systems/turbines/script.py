"""The turbines system without an orchestrator: for the command line, a cron job, or a person who wants a day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

import pyarrow as pa

from etl_assets.core.database.connections import Database
from etl_assets.core.progress import progress
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.copies import write_manifest
from etl_assets.core.slices.inputs import InputsMoved, standing_inputs
from etl_assets.core.slices.parquet import ParquetRoot, write_parquet
from etl_assets.core.slices.session import looked_again
from etl_assets.core.slices.writing import Outcome, Write
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, RawTurbineSignals
from etl_assets.systems.turbines.databases import StoredDay, store_days, turbines_target
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi, locked_days, require_columns
from etl_assets.systems.turbines.transform import day_slice, require_days, statistics_of

SOURCE = "turbines API"


@dataclass(frozen=True)
class LoadResult:
    """What a load did.

    Attributes:
        raw: what became of the source's rows, by day.
        stored: what became of the statistics, by day; days of which the source has no value are not among them.
        missing: those days.
        outside: rows that the source sent although they lie outside of what was asked for; they were left out.
    """

    raw: Sequence[Outcome]
    stored: Sequence[StoredDay]
    missing: Sequence[date]
    outside: int

    @property
    def quarantined(self) -> int:
        """Elements of answers that could not be read."""
        return sum(outcome.quarantined for outcome in self.raw)


def load(
    days: Sequence[date],
    *,
    columns: Sequence[str] = DEFAULT_COLUMNS,
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
    require_columns(columns)
    api = api or TurbinesApi.from_settings(settings)
    database, target = database or platform_database(settings), target or turbines_target(settings)
    this = _Load(columns, settings, api, database, target)
    moved = this.days(sorted({*days}))
    if moved:
        # Somebody else has asked for other signals of these days, or later: they are asked for anew.
        looked_again(partial(this.days_again, moved))
    raw, stored, outside = this.raw, this.stored, this.outside
    missing = sorted({*days} - {done.day for done in stored})
    write_manifest(ParquetRoot(settings.storage_url), database, RawTurbineSignals)
    return LoadResult(raw, stored, missing, sum(outside))


class _Load:
    """One load: what became of its days so far."""

    def __init__(
        self, columns: Sequence[str], settings: TurbinesSettings, api: TurbinesApi, database: Database, target: Database
    ) -> None:
        self.raw: list[Outcome] = []
        self.stored: list[StoredDay] = []
        self.outside: list[int] = []
        self._columns, self._settings, self._api = columns, settings, api
        self._database, self._target = database, target
        self._root = ParquetRoot(settings.storage_url)

    def days(self, days: Sequence[date]) -> list[date]:
        """Fetch days and store their statistics; gives those that somebody else has fetched before that was done."""
        moved: list[date] = []
        for some in statistics_of(self._kept(days)):
            written = [
                (one.slice, one.content_hash) for one in self.raw if date.fromisoformat(one.slice.name) in some.turbines
            ]
            try:
                inputs = standing_inputs(self._database, written)
                self.stored += store_days(self._target, some, source=SOURCE, inputs=inputs)
            except InputsMoved:
                moved += some.turbines
        return moved

    def days_again(self, days: Sequence[date]) -> None:
        """As `days`.

        Raises:
            InputsMoved: if somebody else has fetched some of them before that was done.
        """
        self.raw = [one for one in self.raw if date.fromisoformat(one.slice.name) not in days]
        if moved := self.days(days):
            raise InputsMoved(f"{', '.join(map(str, moved))} was fetched by somebody else meanwhile: load it again")

    def _kept(self, days: Sequence[date]) -> Iterator[pa.RecordBatch]:
        """The rows of each day, after they are in their file."""
        turbines = self._settings.turbines
        fetching = locked_days(self._api, self._database, days, turbines=turbines, columns=self._columns)
        for fetched, lock in progress(fetching, of="day", name=lambda one: one[0].day, total=len(days)):
            self.outside.append(fetched.outside)
            of_day = day_slice(RawTurbineSignals, fetched.day)
            how = Write("partition", source=SOURCE, lock=lock)
            self.raw += write_parquet(self._root, self._database, fetched.rows, [of_day], how)
            yield from fetched.rows.valid.to_batches()

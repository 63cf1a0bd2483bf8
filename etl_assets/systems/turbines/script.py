"""The turbines system without an orchestrator: for the command line, a cron job, or a person who wants a day."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial

import pyarrow as pa

from etl_assets.core.database.connections import Database
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.copies import write_manifest
from etl_assets.core.slices.inputs import Inputs, InputsMoved, standing_inputs
from etl_assets.core.slices.parquet import ParquetRoot, stream_parquet, write_parquet
from etl_assets.core.slices.session import looked_again
from etl_assets.core.slices.slice import Slice
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
    root = ParquetRoot(settings.storage_url)
    raw: list[Outcome] = []
    outside: list[int] = []

    def kept() -> Iterator[pa.RecordBatch]:
        """The rows of each day, after they are in their file."""
        for fetched, lock in locked_days(api, database, days, turbines=settings.turbines, columns=columns):
            outside.append(fetched.outside)
            of_day = day_slice(RawTurbineSignals, fetched.day)
            how = Write("partition", source=SOURCE, lock=lock)
            raw.extend(write_parquet(root, database, fetched.rows, [of_day], how))
            yield from fetched.rows.valid.to_batches()

    stored: list[StoredDay] = []
    for some in statistics_of(kept()):
        written = [(one.slice, one.content_hash) for one in raw if date.fromisoformat(one.slice.name) in some.turbines]
        try:
            stored += store_days(target, some, source=SOURCE, inputs=standing_inputs(database, written))
        except InputsMoved:
            # Somebody else has asked after this load did: their answer counts.
            stored += looked_again(partial(_store_standing, root, database, target, [slice_ for slice_, _ in written]))
    missing = sorted({*days} - {done.day for done in stored})
    write_manifest(root, database, RawTurbineSignals)
    return LoadResult(raw, stored, missing, sum(outside))


def _store_standing(root: ParquetRoot, database: Database, target: Database, days: Sequence[Slice]) -> list[StoredDay]:
    """Store the statistics of days as they stand in the raw layer."""
    inputs = Inputs()
    batches = stream_parquet(root, database, days, inputs=inputs)
    return [done for some in statistics_of(batches) for done in store_days(target, some, source=SOURCE, inputs=inputs)]

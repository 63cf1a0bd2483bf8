"""The assets of the turbines system: wiring only."""

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field

from etl_assets.core.contracts import ByPartition
from etl_assets.core.dagster.contract_types import classified, effect, loads, stored
from etl_assets.core.prefetch import prefetched
from etl_assets.errors import PermanentError
from etl_assets.settings import load_settings
from etl_assets.systems.turbines import checks
from etl_assets.systems.turbines import metadata as shown
from etl_assets.systems.turbines.contracts import Data, RawTurbineSignals
from etl_assets.systems.turbines.fetching import fetched_days
from etl_assets.systems.turbines.page.day import DAYS_DRAWN, write_day_page
from etl_assets.systems.turbines.signals import DEFAULT_COLUMNS
from etl_assets.systems.turbines.source import TurbinesApiResource, TurbinesTargetResource
from etl_assets.systems.turbines.statistics.computing import Computed, computed
from etl_assets.systems.turbines.target import StoredDay, store_days

# How many steps may call the API at once is set by `dagster instance concurrency set turbines_api N`.
API_POOL = "turbines_api"


def partitions() -> dg.DailyPartitionsDefinition:
    """The days from TURBINES_START_DATE to TURBINES_END_DATE, or to the last one that is over."""
    settings = load_settings()
    last = settings.turbines_end_date
    return dg.DailyPartitionsDefinition(
        start_date=f"{settings.turbines_start_date}", end_date=f"{last + timedelta(days=1)}" if last else None
    )


DAYS = partitions()


class Columns(dg.Config):
    """Options of one run: the signals to ask for."""

    columns: list[str] = Field(list(DEFAULT_COLUMNS), description="Signals to ask for")


@dg.asset(**stored(RawTurbineSignals, mode="partition"), partitions_def=DAYS, pool=API_POOL)
@classified
def raw_turbine_signals(
    context: dg.AssetExecutionContext, config: Columns, turbines_api: TurbinesApiResource
) -> ByPartition[pa.Table]:
    """What the source answered for each day of the run, every turbine asked; a day without signals has no rows."""
    days = [date.fromisoformat(day) for day in context.partition_keys]
    turbines = load_settings().turbines

    def parts() -> Iterator[tuple[str, Any]]:
        for fetched in fetched_days(turbines_api.connect(), days, turbines=turbines, columns=config.columns):
            if fetched.outside:
                context.log.info(f"{fetched.day}: {fetched.outside} rows lie outside of what was asked for, left out")
            yield fetched.day.isoformat(), fetched.rows

    return ByPartition(parts())


@dg.asset(
    **{**effect(Data, kinds={"python"}), "name": "ten_minute_statistics", "group_name": "turbines"},
    partitions_def=DAYS,
    ins={"raw_turbine_signals": loads(RawTurbineSignals, form=pa.RecordBatchReader)},
    check_specs=checks.specs("ten_minute_statistics"),
    output_required=False,
)
@classified
def ten_minute_statistics(
    context: dg.AssetExecutionContext,
    raw_turbine_signals: pa.RecordBatchReader,
    turbines_target: TurbinesTargetResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
    """Mean, least, greatest and standard deviation of each ten minutes in the target database; a day at a time, or some.

    A day of which the source has no value is not materialised. A run of few days draws the page of each.
    """
    settings = load_settings()
    draws = len(context.partition_keys) <= DAYS_DRAWN
    missing = dict.fromkeys(context.partition_keys)

    def stored_days() -> Iterator[tuple[Computed, list[StoredDay]]]:
        for some in computed(raw_turbine_signals):
            require_columns_of_run(context, some)
            yield (
                some,
                store_days(
                    turbines_target.database, some.bins, some.turbines, columns=some.columns, run_id=context.run.run_id
                ),
            )

    # Dagster takes as long to note that a day is there as the database to store it.
    for some, days in prefetched(stored_days()):
        for stored_day in days:
            day = stored_day.day
            missing.pop(day.isoformat(), None)
            page = write_day_page(turbines_target.database, day, settings=settings) if draws else None
            yield dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=day.isoformat(),
                metadata={**shown.stored_day(stored_day, some), **shown.day_page(day, page)},
            )
    if missing:
        context.log.warning(f"the source has no value of {', '.join(missing)}: not materialised")
    yield from checks.results(turbines_target.database)


def require_columns_of_run(context: dg.AssetExecutionContext, some: Computed) -> None:
    """Refuse raw signals that another run has stored since this one did, of other columns: those of this one are gone.

    Raises:
        PermanentError: names the days and both; a run that only computes takes what is there.
    """
    op = raw_turbine_signals.op.name
    if not context.job_def.graph.has_node_named(op):
        return
    config: Mapping[str, Any] = context.run.run_config
    asked = Columns(**config.get("ops", {}).get(op, {}).get("config", {})).columns
    if set(asked) != set(some.columns):
        raise PermanentError(
            f"another run has replaced the raw signals of {min(some.turbines)} to {max(some.turbines)}: this one asked for"
            f" {', '.join(asked)}, there are {', '.join(some.columns)}; run it again"
        )


ASSETS = [raw_turbine_signals, ten_minute_statistics]

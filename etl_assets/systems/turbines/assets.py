"""The assets of the turbines system: wiring, and the metadata of what they have stored."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field, PrivateAttr

from etl_assets.core.charts.pictures import in_markdown
from etl_assets.core.contracts import ByPartition, Split
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.checks import evaluated_current, said_current
from etl_assets.core.dagster.contract_types import effect, loads, stored
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.materialisation import commits_of_write
from etl_assets.core.dagster.steps import inputs_of
from etl_assets.core.database.connections import Database
from etl_assets.core.prefetch import prefetched
from etl_assets.core.slices.lock import Lock
from etl_assets.errors import PermanentError
from etl_assets.systems.turbines.checks import OF_STATISTICS
from etl_assets.systems.turbines.contracts import DEFAULT_COLUMNS, Data, RawTurbineSignals
from etl_assets.systems.turbines.databases import StoredDay, store_days, turbines_target
from etl_assets.systems.turbines.page import ALTERNATIVE, DAYS_DRAWN, DayPage, write_day_page
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.source import TurbinesApi, known_columns, locked_days
from etl_assets.systems.turbines.statistics import summary
from etl_assets.systems.turbines.transform import (
    Statistics,
    day_slice,
    left_out,
    nothing_of,
    rows_of_day,
    statistics_of,
    with_empty,
)

# How many steps may call the API at once is set by `dagster instance concurrency set turbines_api N`.
API_POOL = "turbines_api"
# A picture is some 28 kB in the event log, where it stays.
PICTURES = 3
STATISTICS_KEY = dg.AssetKey(["turbines", "ten_minute_statistics"])


class TurbinesApiResource(dg.ConfigurableResource[Any]):
    """The API at TURBINES_API_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self) -> TurbinesApi:
        """The API, ready to be called.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return TurbinesApi.from_settings(TurbinesSettings.load())


class TurbinesTargetResource(dg.ConfigurableResource[Any]):
    """The database at TURBINES_TARGET_URL, or one beside the platform's; opened at its first use."""

    url: str = Field(
        default="", description="Database of a test; empty: TURBINES_TARGET_URL, else beside the platform's"
    )
    _database: Database | None = PrivateAttr(default=None)

    @property
    def database(self) -> Database:
        """The database; the same object for as long as the resource lives."""
        if self._database is None:
            self._database = Database(self.url, name="target") if self.url else turbines_target()
        return self._database


def partitions() -> dg.DailyPartitionsDefinition:
    """The days from TURBINES_START_DATE to TURBINES_END_DATE, or to the last one that is over."""
    settings = TurbinesSettings.load()
    last = settings.turbines_end_date
    return dg.DailyPartitionsDefinition(
        start_date=f"{settings.turbines_start_date}", end_date=f"{last + timedelta(days=1)}" if last else None
    )


DAYS = partitions()


class Columns(dg.Config):
    """Options of one run: the signals to ask for."""

    columns: list[str] = Field(list(DEFAULT_COLUMNS), description="Signals to ask for")


class Replacing(dg.Config):
    """Options of one run: what becomes of statistics of which the source has no value."""

    replace_empty: bool = Field(
        False, description="Delete the statistics of what the source has no value of; by default they stay"
    )


@dg.asset(**stored(RawTurbineSignals, mode="partition"), partitions_def=DAYS, pool=API_POOL)
@classified
def raw_turbine_signals(
    context: dg.AssetExecutionContext,
    config: Columns,
    turbines_api: TurbinesApiResource,
    postgres: PostgresResource,
) -> ByPartition[pa.Table]:
    """What the source answered for each day of the run, every turbine asked; a day without signals has no rows."""
    days = [date.fromisoformat(day) for day in context.partition_keys]
    turbines = TurbinesSettings.load().turbines

    def parts() -> Iterator[tuple[str, Split[pa.Table], Lock]]:
        api, database = turbines_api.connect(), postgres.database
        for fetched, lock in locked_days(api, database, days, turbines=turbines, columns=config.columns):
            for said in left_out(fetched.outside, fetched.others):
                context.log.info(f"{fetched.day}: {said}")
            yield fetched.day.isoformat(), fetched.rows, lock

    return ByPartition(parts(), locked=True)


@dg.asset(
    **{
        **effect(Data, kinds={"python"}),
        "key_prefix": ["turbines"],
        "name": "ten_minute_statistics",
        "group_name": "turbines",
    },
    partitions_def=DAYS,
    ins={"raw_turbine_signals": loads(RawTurbineSignals, form=pa.RecordBatchReader)},
    check_specs=[
        dg.AssetCheckSpec(name, asset=STATISTICS_KEY, description=check.__doc__)
        for name, check in OF_STATISTICS.items()
    ]
    + [dg.AssetCheckSpec("is_current", asset=STATISTICS_KEY, description=said_current(Data))],
    output_required=False,
)
@classified
def ten_minute_statistics(
    context: dg.AssetExecutionContext,
    config: Replacing,
    raw_turbine_signals: pa.RecordBatchReader,
    turbines_target: TurbinesTargetResource,
    postgres: PostgresResource,
) -> Iterator[dg.AssetMaterialization | dg.AssetCheckResult]:
    """Mean, least, greatest and standard deviation of each ten minutes in the target database; a day at a time, or some.

    Of signals and turbines of which the source has no value what is there stays, and a day without any is not materialised, unless they
    are to be replaced. A run of few days draws the page of each.
    """
    settings, target = TurbinesSettings.load(), turbines_target.database
    inputs = inputs_of(context)
    draws = len(context.partition_keys) <= DAYS_DRAWN
    turbines = settings.turbines or ("",)
    missing = dict.fromkeys(context.partition_keys)

    def stored_days() -> Iterator[tuple[Statistics, list[StoredDay]]]:
        empty = {date.fromisoformat(day) for day in context.partition_keys}
        for found in statistics_of(raw_turbine_signals, no_value=settings.turbines_no_value):
            require_columns_of_run(context, found)
            empty -= {*found.signals}
            yield found, store(with_empty(found, turbines) if config.replace_empty else found)
        for day in sorted(empty) if config.replace_empty else ():
            nothing = nothing_of(day, turbines=turbines, columns=columns_of_run(context) or DEFAULT_COLUMNS)
            yield nothing, store(nothing)

    def store(some: Statistics) -> list[StoredDay]:
        of_days = inputs.only([day_slice(RawTurbineSignals, day) for day in some.signals])
        return store_days(target, some, run_id=context.run.run_id, inputs=of_days)

    # Dagster takes as long to record that a day is materialised as the database to store it.
    for some, days in prefetched(stored_days()):
        for done in days:
            missing.pop(done.day.isoformat(), None)
            without_value = some.without_value(done.day, turbines)
            if without_value:
                context.log.warning(f"{done.day}: the source has no value of {without_value}")
            page = write_day_page(target, done.day, settings=settings) if draws else None
            yield dg.AssetMaterialization(
                asset_key=context.asset_key,
                partition=done.day.isoformat(),
                metadata={
                    **metadata_of(done, some),
                    "without_value": without_value or "none",
                    **commits_of_write([done.data], inputs.only([day_slice(RawTurbineSignals, done.day)])),
                    **metadata_of_page(done.day, page),
                },
            )
    if missing:
        context.log.warning(f"the source has no value of {', '.join(missing)}: not materialised")
    for name, check in OF_STATISTICS.items():
        yield check(target)._replace(check_name=name)
    yield evaluated_current(Data, target, postgres.database)._replace(check_name="is_current")


def require_columns_of_run(context: dg.AssetExecutionContext, some: Statistics) -> None:
    """Reject raw signals that another run has stored since this one did, of other columns: those of this one are gone.

    Raises:
        PermanentError: names the days and both; a run that only computes takes what it finds.
    """
    wanted = columns_of_run(context)
    if wanted is not None and set(wanted) != set(some.columns):
        raise PermanentError(
            f"another run has replaced the raw signals of {min(some.signals)} to {max(some.signals)}: this one asked for"
            f" {', '.join(wanted)}, there are {', '.join(some.columns)}; run it again"
        )


def columns_of_run(context: dg.AssetExecutionContext) -> Sequence[str] | None:
    """The signals that a run asks for; None for one that only computes."""
    op = raw_turbine_signals.op.name
    if not context.job_def.graph.has_node_named(op):
        return None
    config: Mapping[str, Any] = context.run.run_config
    return known_columns(Columns(**config.get("ops", {}).get(op, {}).get("config", {})).columns)


def metadata_of(done: StoredDay, of: Statistics) -> dict[str, Any]:
    """The metadata of a day: what became of its rows, and what is to be known of its bins."""
    turbines = list(of.signals[done.day])
    quality = summary(rows_of_day(of.bins, done.day), columns=of.columns, turbines=turbines, days=[done.day])
    return {
        **done.data.counts(),
        "dagster/partition_row_count": done.data.loaded + done.data.change.unchanged,
        "bins": done.count,
        "turbines": ", ".join(name or "the only one" for name in turbines),
        "columns": ", ".join(of.columns),
        "quality": json.dumps(quality),
        "seconds": round(done.data.seconds + done.bins.seconds, 3),
        "relation": "public.data, public.bin, public.signal; view public.ten_minute",
    }


def metadata_of_page(day: date, page: DayPage | None) -> dict[str, Any]:
    """The metadata of a day's page: where it is, and the pictures of its first turbines; without it how to have it drawn."""
    if page is None:
        return {"page": f"a run of many days draws none: etl-assets turbines page {day}"}
    files = list(page.svg.values())
    pictures = [in_markdown(path.read_text(encoding="utf-8"), ALTERNATIVE) for path in files[:PICTURES]]
    more = [f"{len(files) - PICTURES} more turbines are on the page."] if len(files) > PICTURES else []
    return {"page": dg.MetadataValue.path(str(page.html)), "plot": dg.MetadataValue.md("\n\n".join([*pictures, *more]))}


ASSETS = [raw_turbine_signals, ten_minute_statistics]
RESOURCES = {"turbines_api": TurbinesApiResource(), "turbines_target": TurbinesTargetResource()}

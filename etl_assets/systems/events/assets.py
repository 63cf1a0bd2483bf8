"""The assets of the events system: wiring only."""

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from etl_assets.core.dagster.contract_types import classified, effect
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.systems.events import metadata
from etl_assets.systems.events.contracts import RawEvents, UsEventData
from etl_assets.systems.events.feed import all_listed, newest
from etl_assets.systems.events.files import quarters
from etl_assets.systems.events.manifest import DAY, entries, midnight
from etl_assets.systems.events.raw_layer import Stores, take
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.source import EventsFeedResource
from etl_assets.systems.events.transform import us_rule
from etl_assets.systems.events.us_events import store_us_events

# How many steps may ask the feed at once is set by `dagster instance concurrency set events_feed N`.
FEED_POOL = "events_feed"
# Days are partitions and intervals are slices of them: ten years have 3,650 days and 350,000 intervals.
DAYS = dg.DailyPartitionsDefinition(start_date=f"{EventsSettings.load().events_start_date}", end_offset=1)


class FetchConfig(dg.Config):
    """What a run asks the feed for."""

    master_list: bool = Field(
        True,
        description="Read the list of all files, which finds what is missing or republished; else the newest file alone",
    )


class DeriveConfig(dg.Config):
    """What a run derives."""

    only_fetched: bool = Field(
        False,
        description="Only what was fetched and is not derived yet; else all that is there, by the rule as it is now",
    )


@dg.asset(**effect(RawEvents, kinds={"python"}), partitions_def=DAYS, pool=FEED_POOL)
@classified
def raw_events(
    context: dg.AssetExecutionContext, config: FetchConfig, events_feed: EventsFeedResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """The files of the feed as they came, each verified and read as a whole; an interval at a time, recorded in the manifest."""
    settings = EventsSettings.load()
    stores = Stores(postgres.database, ParquetRoot(settings.storage_url), context.run.run_id)
    feed = events_feed.connect()
    intervals = _intervals(context.partition_keys)
    known = all_listed(feed, intervals) if config.master_list else newest(feed)
    wanted = intervals if config.master_list else [interval for interval in intervals if interval in known]
    late = timedelta(hours=settings.events_late_hours)
    taken = list(take(feed, stores, wanted, known=known, clock=_now, late=late))
    for day in context.partition_keys:
        begin = midnight(date.fromisoformat(day))
        manifest = entries(postgres.database, begin, begin + DAY)
        context.add_asset_metadata(metadata.of_day(day, taken, manifest, root=stores.root), partition_key=day)
    return dg.MaterializeResult()


@dg.asset(**effect(UsEventData, kinds={"python"}), partitions_def=DAYS, deps=[raw_events])
@classified
def us_event_data(
    context: dg.AssetExecutionContext, config: DeriveConfig, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """The events in the United States by the rule that is set, each once, named by the class of its root code."""
    settings = EventsSettings.load()
    stores = Stores(postgres.database, ParquetRoot(settings.storage_url), context.run.run_id)
    rule = us_rule(settings.events_us_rule, settings.events_us_country_codes)
    intervals = _intervals(context.partition_keys)
    stored = list(store_us_events(stores, intervals, rule=rule, clock=_now, only_fetched=config.only_fetched))
    for day in context.partition_keys:
        context.add_asset_metadata(metadata.us_events_of_day(postgres.database, day, stored), partition_key=day)
    return dg.MaterializeResult()


def _now() -> datetime:
    return datetime.now(UTC)


def _intervals(days: Iterable[str]) -> list[datetime]:
    begins = [midnight(date.fromisoformat(day)) for day in days]
    return [interval for begin in begins for interval in quarters(begin, begin + DAY)]


ASSETS: list[Any] = [raw_events, us_event_data]

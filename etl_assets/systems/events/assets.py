"""The assets of the events system: wiring, and what the UI shows of a day."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
from pydantic import Field

from etl_assets.core.charts.pictures import in_markdown
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.contract_types import effect
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.materialisation import commits_of_write
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.core.slices.writing import Outcome
from etl_assets.core.sources.http.client import Limits
from etl_assets.systems.events.contracts import RawEvents, UsEventData
from etl_assets.systems.events.files import quarters
from etl_assets.systems.events.manifest import DAY, Entry, entries, midnight
from etl_assets.systems.events.map import ALTERNATIVE, us_map_svg
from etl_assets.systems.events.raw_layer import Stores, Taken, take
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.source import EventsFeed, all_listed, newest
from etl_assets.systems.events.transform import us_rule
from etl_assets.systems.events.us_events import StoredIntervals, store_us_events, totals

# How many steps may ask the feed at once is set by `dagster instance concurrency set events_feed N`.
FEED_POOL = "events_feed"
# Days are partitions and intervals are slices of them: ten years have 3,650 days and 350,000 intervals.
DAYS = dg.DailyPartitionsDefinition(start_date=f"{EventsSettings.load().events_start_date}", end_offset=1)
NAMED_AT_MOST = 12
SUMMED = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined")
ON_THE_MAP = ("event_root_code", "action_geo_full_name", "action_geo_lat", "action_geo_long")


class EventsFeedResource(dg.ConfigurableResource[Any]):
    """The feed at EVENTS_FEED_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self, *, limits: Limits | None = None) -> EventsFeed:
        """The feed, ready to be asked.

        Args:
            limits: time-outs and retries, where those of the platform are too generous.

        Raises:
            ConfigurationError: if its URL cannot be right.
        """
        return EventsFeed.from_settings(EventsSettings.load(), limits=limits)


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
        context.add_asset_metadata(raw_metadata(day, taken, manifest, root=stores.root), partition_key=day)
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
        context.add_asset_metadata(us_metadata(postgres.database, day, stored), partition_key=day)
    return dg.MaterializeResult()


def _now() -> datetime:
    return datetime.now(UTC)


def _intervals(days: Iterable[str]) -> list[datetime]:
    begins = [midnight(date.fromisoformat(day)) for day in days]
    return [interval for begin in begins for interval in quarters(begin, begin + DAY)]


def raw_metadata(
    day: str, taken: Sequence[Taken], manifest: Mapping[datetime, Entry], *, root: ParquetRoot
) -> dict[str, Any]:
    """The metadata of a day of the raw layer: what this run stored, and the state of its intervals."""
    outcomes = [one.outcome for one in taken if one.outcome and f"{one.entry.interval:%Y-%m-%d}" == day]
    states = Counter(entry.state for entry in manifest.values())
    troubled = [f"- {at:%H:%M} {entry.state}: {entry.reason}" for at, entry in manifest.items() if entry.reason]
    more = [f"- and {len(troubled) - NAMED_AT_MOST} more"] if len(troubled) > NAMED_AT_MOST else []
    return {
        **_summed(outcomes),
        "relation": root.shown(Slice(RawEvents)),
        "files": len(outcomes),
        "dagster/partition_row_count": sum(entry.rows_raw or 0 for entry in manifest.values()),
        **{f"intervals_{state}": count for state, count in sorted(states.items())},
        "troubled": dg.MetadataValue.md("\n".join([*troubled[:NAMED_AT_MOST], *more]) or "none"),
    }


def us_metadata(database: Database, day: str, stored: Sequence[StoredIntervals]) -> dict[str, Any]:
    """The metadata of a day of US events: what became of the rows, why others were left out, and where they are."""
    begin = midnight(date.fromisoformat(day))
    of_day = Slice(UsEventData, day, {"file_interval": Span(begin, begin + DAY)})
    rows = read(database, [of_day], ON_THE_MAP, ordered=True)
    mine = [one for one in stored if f"{one.day}" == day]
    counts, left_out = totals(mine)
    return {
        **_summed([one.outcome for one in mine]),
        **counts,
        "relation": UsEventData.config.table,
        "dagster/partition_row_count": rows.num_rows,
        **{f"left_out, {reason}": count for reason, count in left_out.items()},
        "map": dg.MetadataValue.md(
            in_markdown(us_map_svg(rows, title="Events in the United States", label=f"{day}, UTC"), ALTERNATIVE)
        ),
    }


def _summed(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The commits of some writes, their counts together, their bytes and their seconds."""
    return {
        **commits_of_write(outcomes, Inputs()),
        **{name: sum(outcome.counts()[name] for outcome in outcomes) for name in SUMMED},
        "bytes": sum(outcome.size for outcome in outcomes),
        "seconds": round(sum(outcome.seconds for outcome in outcomes), 3),
    }


ASSETS: list[Any] = [raw_events, us_event_data]

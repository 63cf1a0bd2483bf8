"""When the events system runs: as soon as the feed has something new, and again for what it has not brought yet."""

import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg

from etl_assets.core.dagster.automation import earlier_runs, reason_to_wait
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.sources.http.client import Limits
from etl_assets.errors import PlatformError
from etl_assets.systems.events.assets import EventsFeedResource, raw_events, us_event_data
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.files import INTERVAL, quarters
from etl_assets.systems.events.manifest import DAY, Entry, entries, midnight, unsettled
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.source import FeedFile

FILE_TAG = "etl/file"
# The list of all files is some 100 MB: what is missing is looked for in it so often, not with every new file.
LOOK_AGAIN = timedelta(hours=1)
# The newest file may be half published; the next one comes after a quarter of an hour.
TRY_AGAIN = timedelta(minutes=5)
CAUGHT_UP = timedelta(days=7)
# A tick that takes longer than a minute is ended by Dagster, without a word of the feed.
IN_A_TICK = Limits(connect_timeout_s=5, read_timeout_s=10, deadline_s=20, max_attempts=3)
DAYS_AT_ONCE = 7

# An interval of the raw layer is stored by its begin; the asset is partitioned by days.
PARTITIONS_OF_SLICES = {RawEvents.config.table: lambda name: f"{name[:4]}-{name[4:6]}-{name[6:8]}"}

events_job = dg.define_asset_job(
    "events_job",
    selection=dg.AssetSelection.assets(raw_events, us_event_data),
    description="Fetch the files of days that are missing or republished, and store the US events in them.",
)


@dg.schedule(
    job=events_job,
    cron_schedule="40 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def events_every_day(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """The day that is over, whole: what was republished or came late is found in the list of all files."""
    day = (context.scheduled_execution_time.astimezone(UTC) - DAY).date()
    first = EventsSettings.load().events_start_date
    return dg.RunRequest(partition_key=f"{day}") if day >= first else dg.SkipReason(f"the first day is {first}")


@dg.sensor(job=events_job, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def events_feed_files(
    context: dg.SensorEvaluationContext, events_feed: EventsFeedResource, postgres: PostgresResource
) -> dg.SensorResult | dg.SkipReason:
    """Requests the day of the newest file when it is not stored as it is, and, hourly, days that lack intervals."""
    settings, now = EventsSettings.load(), datetime.now(UTC)
    requests, reasons = [], []
    try:
        feed, file = events_feed.connect(limits=IN_A_TICK), None
        try:
            file = feed.latest()
        except PlatformError as error:
            reasons.append(str(error))
        newest = _newest(file, postgres, settings, now) if file else {}
        late = _late(postgres, settings, now, beside=file if newest else None)
    except PlatformError as error:
        return dg.SkipReason(str(error))
    for day in sorted(newest.keys() | late.keys()):
        # Where the newest file has to wait, what else the day lacks need not.
        for what, config in (found[day] for found in (newest, late) if day in found):
            earlier = earlier_runs(context.instance, events_job.name, {FILE_TAG: what})
            reason = reason_to_wait(context.instance, earlier, job=events_job.name, now=time.time())
            if reason is None:
                run_key = f"{what} {earlier[0].dagster_run.run_id if earlier else 'first'}"
                requests.append(
                    dg.RunRequest(partition_key=f"{day}", run_key=run_key, tags={FILE_TAG: what}, run_config=config)
                )
                break
            reasons.append(f"{day}: {reason}")
    if requests:
        return dg.SensorResult(run_requests=requests)
    return dg.SkipReason("; ".join(reasons) or "the feed has nothing that is not stored")


Wanted = dict[date, tuple[str, dict[str, Any]]]


def _newest(file: FeedFile, postgres: PostgresResource, settings: EventsSettings, now: datetime) -> Wanted:
    """The day of the newest file, if that is not stored as it is."""
    day = file.interval.date()
    entry = entries(postgres.database, file.interval, file.interval + INTERVAL).get(file.interval)
    # Tomorrow is no partition yet, if the clock of the feed is ahead.
    if not settings.events_start_date <= day <= now.date() or (entry and not _is_new(entry, file, now)):
        return {}
    # What the feed failed over is asked for again, also where it was a refusal: it may be one of this file alone.
    attempt = f", attempt {entry.attempts + 1}" if entry and entry.reason else ""
    return {day: (f"{file.name} {file.md5}{attempt}", _config(master_list=False))}


def _is_new(entry: Entry, file: FeedFile, now: datetime) -> bool:
    if file.md5 in (entry.md5, entry.refused_md5) and not (entry.sought or entry.state == "fetched"):
        return False
    pause = LOOK_AGAIN if entry.state == "absent" else TRY_AGAIN
    return entry.refused_md5 is not None or entry.reason is None or _was_asked_before(entry, now - pause)


def _late(postgres: PostgresResource, settings: EventsSettings, now: datetime, *, beside: FeedFile | None) -> Wanted:
    """The newest days of which something is left to do, by what the manifest has of them.

    That are intervals that nobody has derived, or whose file is sought and was not asked for within the hour; and, in the
    time since the first that is known of the last week, those that are not in the manifest. A platform that was just set up has no past to
    catch up with, and what a longer pause has left out is a person's to ask for.

    Args:
        beside: a file that is asked for by itself.
    """
    first, long_ago = midnight(settings.events_start_date), now - LOOK_AGAIN
    manifest = entries(postgres.database, max(midnight((now - CAUGHT_UP).date()), first), now)
    known = quarters(min(manifest), long_ago) if manifest else ()
    left = [at for at in known if at not in manifest]
    left += [
        entry.interval
        for entry in unsettled(postgres.database)
        if first <= entry.interval
        and (entry.state == "fetched" or (entry.interval <= long_ago and _was_asked_before(entry, long_ago)))
    ]
    by_day: dict[date, list[datetime]] = {}
    for at in sorted(set(left) - ({beside.interval} if beside else set())):
        by_day.setdefault(at.date(), []).append(at)
    newest = sorted(by_day)[-DAYS_AT_ONCE:]
    return {day: (_described(by_day[day]), _config(master_list=True)) for day in newest}


def _was_asked_before(entry: Entry, instant: datetime) -> bool:
    """Whether the feed was last asked for the file of an interval at an instant or before it, or never."""
    return entry.last_asked_at is None or entry.last_asked_at <= instant


def _described(intervals: Sequence[datetime]) -> str:
    """Intervals of a day in few words; as long as a refused run would be for the same, it is not asked for again."""
    first, last = intervals[0], intervals[-1]
    return f"{first:%Y-%m-%d}, {len(intervals)} of {first:%H:%M} to {last:%H:%M}"


def _config(*, master_list: bool) -> dict[str, Any]:
    # What is loaded is derived again where a person, or the schedule, asks for the whole day.
    return {
        "ops": {
            raw_events.op.name: {"config": {"master_list": master_list}},
            us_event_data.op.name: {"config": {"only_fetched": True}},
        }
    }

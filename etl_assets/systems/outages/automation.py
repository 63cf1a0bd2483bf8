"""When the outages system runs: a schedule, and sensors for new sites and for what is pending."""

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import dagster as dg

from etl_assets.core.dagster.automation import FIRST_WAIT_S, LONGEST_WAIT_S, partition_range
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.outages.answers import ANSWERS, NOT_ABOUT_THE_PAYLOAD
from etl_assets.systems.outages.assets import SITES, SITES_NAME, delivered_site_outages
from etl_assets.systems.outages.contracts import RawOutages
from etl_assets.systems.outages.settings import OutagesSettings

outages_job = dg.define_asset_job(
    "outages_job",
    selection=dg.AssetSelection.groups(RawOutages.schema_name()),
    description="Fetch, map, store and deliver the outages of sites.",
)
deliver_outages_job = dg.define_asset_job(
    "deliver_outages_job",
    selection=dg.AssetSelection.assets(delivered_site_outages),
    description="Deliver what is pending, without fetching.",
)


@dg.schedule(
    job=outages_job,
    cron_schedule="*/15 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)
def outages_every_15_minutes(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    """All sites in one run, so that `/outages` is fetched once."""
    sites = context.instance.get_dynamic_partitions(SITES_NAME)
    if not sites:
        return dg.SkipReason("no site is registered yet: the sensor outages_sites adds those of OUTAGES_SITES")
    return dg.RunRequest(tags=partition_range(sites[0], sites[-1]))


@dg.sensor(minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.RUNNING)
def outages_sites(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Registers the sites of OUTAGES_SITES as partitions. A site that is no longer named keeps its data and its partition."""
    known = set(context.instance.get_dynamic_partitions(SITES_NAME))
    new = [site for site in OutagesSettings.load().outages_sites if site not in known]
    if not new:
        return dg.SkipReason("all sites of OUTAGES_SITES are registered")
    return dg.SensorResult(dynamic_partitions_requests=[SITES.build_add_request(new)])


@dataclass(frozen=True)
class LastRequest:
    """The last delivery that the sensor requested for a site.

    Attributes:
        pending: hash of what was pending then.
        at: Unix time of the request, in s.
        times: how often the same was requested.
    """

    pending: str
    at: float
    times: int


@dg.sensor(job=deliver_outages_job, minimum_interval_seconds=60, default_status=dg.DefaultSensorStatus.STOPPED)
def pending_site_outages(context: dg.SensorEvaluationContext, postgres: PostgresResource) -> dg.SensorResult:
    """Requests a delivery for each site at which something is pending.

    The same is requested again with growing waits while the API does not answer, and never again once it has refused: that
    takes a change of the data, or a person.
    """
    cursor = {site: LastRequest(**fields) for site, fields in json.loads(context.cursor or "{}").items()}
    waiting = _waiting(postgres)
    registered = set(context.instance.get_dynamic_partitions(SITES_NAME))
    now = time.time()
    due = requests_due({s: w for s, w in waiting.items() if s in registered}, cursor, now=now)
    return dg.SensorResult(
        run_requests=[
            dg.RunRequest(partition_key=site, run_key=f"{site} {request.pending} {request.times} {int(request.at)}")
            for site, request in due.items()
        ],
        cursor=json.dumps({site: asdict(request) for site, request in {**cursor, **due}.items() if site in waiting}),
        skip_reason=None if due else dg.SkipReason(f"{len(waiting)} sites have pending outages, none is due"),
    )


@dataclass(frozen=True)
class Pending:
    """What is pending at a site, and whether the API has refused just that."""

    keys: tuple[str, ...]
    refused: bool


def requests_due(
    waiting: Mapping[str, Pending], last_requests: Mapping[str, LastRequest], *, now: float
) -> dict[str, LastRequest]:
    """The sites to ask a delivery for, with what to remember of it.

    Args:
        waiting: by site, what is pending.
        last_requests: by site, what was requested last.
        now: Unix time in s.
    """
    due = {}
    for site, state in waiting.items():
        pending = hashlib.sha256("\n".join(state.keys).encode()).hexdigest()[:16]
        last = last_requests.get(site)
        if last is None or last.pending != pending:
            due[site] = LastRequest(pending, now, 1)
        elif not state.refused and now - last.at >= wait_s(last.times):
            due[site] = LastRequest(pending, now, last.times + 1)
    return due


def wait_s(times: int) -> float:
    """How long to wait before the same is requested again."""
    return float(min(FIRST_WAIT_S * 2 ** min(times - 1, 16), LONGEST_WAIT_S))


def _waiting(postgres: PostgresResource) -> dict[str, Pending]:
    with postgres.database.connect() as connection:
        pending = connection.execute(
            "SELECT site_id, array_agg(delivery_key ORDER BY delivery_key), coalesce(("
            " SELECT state IN ('refused', 'disputed') OR state = 'frozen' AND http_status = ANY(%s)"
            " FROM outages.delivery_batches AS b WHERE b.site_id = o.site_id ORDER BY frozen_at DESC LIMIT 1), false)"
            " FROM outages.site_outages AS o WHERE NOT EXISTS (SELECT FROM outages.delivered_site_outages AS d"
            " WHERE d.delivery_key = o.delivery_key) GROUP BY site_id",
            ([status for status, meaning in ANSWERS.items() if meaning is NOT_ABOUT_THE_PAYLOAD],),
        ).fetchall()
    return {site: Pending(tuple(keys), refused) for site, keys, refused in pending}

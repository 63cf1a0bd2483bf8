"""The outages system without an orchestrator: for the command line, a cloud function, a cron job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.database.connections import Database
from etl_assets.core.progress import progress
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.lock import Lock, locked
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet, write_parquet
from etl_assets.core.slices.session import looked_again
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Outcome, Write, write_together
from etl_assets.errors import PlatformError, combined
from etl_assets.systems.outages.contracts import (
    RawOutages,
    RawSiteInfo,
    SiteDevices,
    SiteOutages,
    require_sites,
    site_slice,
)
from etl_assets.systems.outages.delivery import Delivery, deliver
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets.systems.outages.source import OutagesApi
from etl_assets.systems.outages.transform import (
    CUTOFF,
    devices_of_sites,
    outages_of_sites,
    raw_outages_frame,
    site_info_frame,
)


@dataclass(frozen=True)
class SyncResult:
    """What a sync did for one site.

    Attributes:
        outages: rows of the site in `outages.site_outages` now.
        delivered: outages that the API acknowledged in this call.
        watermark: when the newest delivery of the site was recorded.
        quarantined: rows of the answers of this call that are in quarantine.
        flagged: rows that were loaded with a remark.
        new: nothing was stored of the site before; an API that answers for any name tells no mistyped one.
    """

    site: str
    new: bool
    outages: int
    delivered: int
    watermark: datetime | None
    quarantined: int
    flagged: int


def sync_sites(
    sites: Sequence[str],
    *,
    since: datetime | None = None,
    settings: OutagesSettings | None = None,
    database: Database | None = None,
    api: OutagesApi | None = None,
) -> Iterator[SyncResult]:
    """Fetch, map, store and deliver the outages of sites, one after the other; `/outages` is fetched and stored once.

    What was found in its rows is counted in the first result. A site that fails does not keep the others from being done; what
    failed is raised at the end.

    Args:
        sites: as the API names them.
        since: replaces the cut-off of 2022-01-01 for this call; what was delivered is not delivered again.
        settings: by default those of the environment.
        database, api: by default those that the settings name.

    Raises:
        ConfigurationError: if a setting is missing, or a name is none of a site; names it.
        TransientError: if the API or the database stays unavailable; nothing is lost, the next call goes on.
        PermanentError: if the API refuses, or data do not have their shape.
    """
    require_sites(sites)
    settings = settings or OutagesSettings.load()
    api = api or OutagesApi.from_settings(settings)
    database = database or platform_database(settings)
    root, began_from = ParquetRoot(settings.storage_url), since or CUTOFF
    wanted = list(dict.fromkeys(sites))
    failures: list[PlatformError] = []
    # From the first question to the last POST: of two syncs of a site the second asks after the first has delivered.
    with locked(database, [site_slice(SiteOutages, site) for site in wanted]) as lock:
        snapshot, infos = _fetch(wanted, api, root, database, failures)
        for site in progress(infos, of="site"):
            try:
                new = lock.head(site_slice(SiteOutages, site)).commit_id is None
                stored = _derive(site, began_from, root, database, lock)
                delivery = deliver(database, api, site, lock=lock)
                result = _result(delivery, stored[-1], [*snapshot, infos[site], *stored], new=new)
                snapshot = []
            except PlatformError as failure:
                failures.append(failure)
            else:
                yield result
    if failures:
        raise combined(failures)


def _fetch(
    sites: Sequence[str], api: OutagesApi, root: ParquetRoot, database: Database, failures: list[PlatformError]
) -> tuple[list[Outcome], dict[str, Outcome]]:
    """Ask for the outages and for each site, and store the answers; gives what became of them. Nothing is stored before both are there.

    Args:
        failures: gets those of sites.
    """
    slices = [Slice(RawOutages), *(site_slice(RawSiteInfo, site) for site in sites)]
    with locked(database, slices) as asked:
        raw = raw_outages_frame(api.outages(), fetched_at=datetime.now(UTC))
        answers: dict[str, Mapping[str, Any]] = {}
        for site in sites:
            try:
                answers[site] = api.site_info(site)
            except PlatformError as failure:
                failures.append(failure)
        if not answers:
            return [], {}
        how = Write("snapshot", source="GET /outages", lock=asked)
        snapshot = write_parquet(root, database, raw, [Slice(RawOutages)], how)
        parts, how = (
            [site_slice(RawSiteInfo, site) for site in answers],
            replace(how, mode="partition", source="GET /site-info"),
        )
        infos = site_info_frame(answers, fetched_at=datetime.now(UTC))
        stored = write_parquet(root, database, infos, parts, how)
        return snapshot, dict(zip(answers, stored, strict=True))


def _derive(site: str, began_from: datetime, root: ParquetRoot, database: Database, lock: Lock) -> list[Outcome]:
    """Map and store what stands of one site; its outages come last.

    Another sync may have fetched the outages meanwhile, for another site: then it is their newer answer that counts.
    """

    def derived() -> list[Outcome]:
        inputs = Inputs()
        outages = to_frame(read_parquet(root, database, [Slice(RawOutages)], inputs=inputs))
        infos = to_frame(read_parquet(root, database, [site_slice(RawSiteInfo, site)], inputs=inputs))
        devices = devices_of_sites(infos)
        # The rows as they will be in the table: of a device that is named twice the last counts.
        known = devices.valid.drop_duplicates(["site_id", "device_id"], keep="last")
        given = [
            (devices, site_slice(SiteDevices, site)),
            (outages_of_sites(outages, known, began_from=began_from), site_slice(SiteOutages, site)),
        ]
        return write_together(database, given, Write("partition", lock=lock, inputs=inputs))

    return looked_again(derived)


def _result(delivery: Delivery, outages: Outcome, outcomes: Sequence[Outcome], *, new: bool) -> SyncResult:
    return SyncResult(
        site=delivery.site,
        new=new,
        outages=outages.loaded + outages.change.unchanged,
        delivered=delivery.delivered,
        watermark=delivery.watermark,
        quarantined=sum(outcome.quarantined for outcome in outcomes),
        flagged=sum(outcome.flagged for outcome in outcomes),
    )

"""The outages system without an orchestrator: for the command line, a cloud function, a cron job."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pandas as pd

from etl_assets.core.database.connections import Database
from etl_assets.core.servers import platform_database
from etl_assets.core.slices.parquet import ParquetRoot, write_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Outcome, Write, write
from etl_assets.errors import PlatformError, combined
from etl_assets.systems.outages.contracts import RawOutages, RawSiteInfo, SiteDevices, SiteOutages
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
    """

    site: str
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
        ConfigurationError: if a setting is missing; names it.
        TransientError: if the API or the database stays unavailable; nothing is lost, the next call goes on.
        PermanentError: if the API refuses, or data do not have their shape.
    """
    settings = settings or OutagesSettings.load()
    api = api or OutagesApi.from_settings(settings)
    database = database or platform_database(settings)
    root, began_from = ParquetRoot(settings.storage_url), since or CUTOFF
    fetched_at = datetime.now(UTC)
    raw = raw_outages_frame(api.outages(), fetched_at=fetched_at)
    snapshot: list[Outcome] = []
    failures: list[PlatformError] = []
    for site in dict.fromkeys(sites):
        try:
            infos = site_info_frame({site: api.site_info(site)}, fetched_at=datetime.now(UTC))
            new: list[Outcome] = []
            if not snapshot:
                # Nothing is stored before both answers are there.
                how = Write("snapshot", source="GET /outages")
                snapshot = new = write_parquet(root, database, raw, [Slice(RawOutages)], how)
            stored = _store(site, raw.valid, infos, began_from, root, database)
            result = _result(deliver(database, api, site), stored[-1], [*new, *stored])
        except PlatformError as failure:
            failures.append(failure)
        else:
            yield result
    if failures:
        raise combined(failures)


def _store(
    site: str,
    raw_outages: pd.DataFrame,
    infos: pd.DataFrame,
    began_from: datetime,
    root: ParquetRoot,
    database: Database,
) -> list[Outcome]:
    """Map and store what was fetched for one site; its outages come last."""
    place = {"site_id": site}
    devices = devices_of_sites(infos)
    # The rows as they will be in the table: of a device that is named twice the last counts.
    known = devices.valid.drop_duplicates(["site_id", "device_id"], keep="last")
    outages = outages_of_sites(raw_outages, known, began_from=began_from)
    return [
        *write_parquet(root, database, infos, [Slice(RawSiteInfo, site, place)], Write("partition")),
        *write(database, devices, [Slice(SiteDevices, site, place)], Write("partition")),
        *write(database, outages, [Slice(SiteOutages, site, place)], Write("partition")),
    ]


def _result(delivery: Delivery, outages: Outcome, outcomes: Sequence[Outcome]) -> SyncResult:
    return SyncResult(
        site=delivery.site,
        outages=outages.loaded + outages.change.unchanged,
        delivered=delivery.delivered,
        watermark=delivery.watermark,
        quarantined=sum(outcome.quarantined for outcome in outcomes),
        flagged=sum(outcome.flagged for outcome in outcomes),
    )

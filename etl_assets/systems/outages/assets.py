"""The assets of the outages system: wiring only."""

import time
from datetime import UTC, datetime

import dagster as dg
import pandas as pd

from etl_assets.core.contracts import Split
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.contract_types import effect, loads, stored
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.materialisation import standing_commit
from etl_assets.errors import PermanentError, PlatformError, combined
from etl_assets.systems.outages.contracts import (
    DeliveredSiteOutages,
    RawOutages,
    RawSiteInfo,
    SiteDevices,
    SiteOutages,
    site_slice,
)
from etl_assets.systems.outages.delivery import deliver
from etl_assets.systems.outages.source import OutagesApiResource
from etl_assets.systems.outages.transform import (
    CUTOFF,
    devices_of_sites,
    outages_of_sites,
    raw_outages_frame,
    site_info_frame,
)

# How many steps may call the API at once is set by `dagster instance concurrency set outages_api N`.
API_POOL = "outages_api"
SITES_NAME = "outages_sites"
SITES = dg.DynamicPartitionsDefinition(name=SITES_NAME)


class Since(dg.Config):
    """Options of one run of `site_outages`."""

    since: str | None = None

    def began_from(self) -> datetime:
        """The cut-off: that of 2022, or an instant with a zone that replaces it for this run."""
        if self.since is None:
            return CUTOFF
        try:
            instant = datetime.fromisoformat(self.since)
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None:
            raise PermanentError(f"since is {self.since!r}: give an instant with a zone, like 2022-01-01T00:00:00Z")
        return instant.astimezone(UTC)


@dg.asset(**stored(RawOutages, mode="snapshot"), pool=API_POOL)
@classified
def raw_outages(outages_api: OutagesApiResource) -> Split[pd.DataFrame]:
    """What `GET /outages` answered: the outages of all sites, fetched once however many sites the run is for."""
    answer = outages_api.connect().outages()
    return raw_outages_frame(answer, fetched_at=datetime.now(UTC))


@dg.asset(**stored(RawSiteInfo, mode="partition"), partitions_def=SITES, pool=API_POOL)
@classified
def raw_site_info(context: dg.AssetExecutionContext, outages_api: OutagesApiResource) -> Split[pd.DataFrame]:
    """What `GET /site-info/{site}` answered for each site of the run."""
    api = outages_api.connect()
    answers = {site: api.site_info(site) for site in sorted(context.partition_keys)}
    return site_info_frame(answers, fetched_at=datetime.now(UTC))


@dg.asset(
    **stored(SiteDevices, mode="partition"),
    partitions_def=SITES,
    ins={"raw_site_info": loads(RawSiteInfo, "site_id", "body")},
)
@classified
def site_devices(raw_site_info: pd.DataFrame) -> Split[pd.DataFrame]:
    """The devices of each site, with the names under which outages are reported."""
    return devices_of_sites(raw_site_info)


@dg.asset(
    **stored(SiteOutages, mode="partition"),
    partitions_def=SITES,
    ins={
        "raw_outages": loads(RawOutages, "position", "device_id", "begin_text", "end_text", "begin_at", "end_at"),
        "site_devices": loads(SiteDevices),
    },
)
@classified
def site_outages(config: Since, raw_outages: pd.DataFrame, site_devices: pd.DataFrame) -> pd.DataFrame:
    """Outages of the sites' own devices that began at or after the cut-off, with device names."""
    return outages_of_sites(raw_outages, site_devices, began_from=config.began_from())


@dg.asset(**effect(DeliveredSiteOutages, kinds={"python"}), partitions_def=SITES, deps=[site_outages], pool=API_POOL)
@classified
def delivered_site_outages(
    context: dg.AssetExecutionContext, outages_api: OutagesApiResource, postgres: PostgresResource
) -> None:
    """Outages that the API has acknowledged. What is pending is posted once; sites fail on their own."""
    api = outages_api.connect()
    failures: list[PlatformError] = []
    for site in sorted(context.partition_keys):
        started = time.perf_counter()
        try:
            delivery = deliver(postgres.database, api, site, run_id=context.run.run_id)
        except PlatformError as error:
            failures.append(error)
            continue
        note = f"{delivery.delivered} outages delivered" if delivery.batches else "nothing to deliver, no POST"
        context.log.info(f"{site}: {note}")
        metadata = {
            "note": note,
            "delivered": delivery.delivered,
            "dagster/partition_row_count": delivery.total,
            "seconds": round(time.perf_counter() - started, 3),
            "batches": ", ".join(key[:12] for key in delivery.batches) or "none",
            "relation": DeliveredSiteOutages.config.table,
            **standing_commit(postgres.database, site_slice(DeliveredSiteOutages, site)),
            "watermark": delivery.watermark.isoformat() if delivery.watermark else "none",
        }
        context.add_asset_metadata(metadata, partition_key=site)
    if failures:
        raise combined(failures)


ASSETS = [raw_outages, raw_site_info, site_devices, site_outages, delivered_site_outages]

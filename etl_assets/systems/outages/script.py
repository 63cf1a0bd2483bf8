"""The outages system without an orchestrator: for the command line, a cloud function, a cron job."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

import pandas as pd

from etl_assets.core.contracts import Split
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
from etl_assets.systems.outages.outbox import pending_of
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
        pending: in a dry run, outages that the API has not acknowledged and would be sent.
        watermark: when the newest delivery of the site was recorded.
        quarantined: rows of the answers of this call that are in quarantine.
        flagged: rows that were loaded with a remark.
        new: nothing was stored of the site before; an API that answers for any name tells no mistyped one.
    """

    site: str
    new: bool
    outages: int
    delivered: int
    pending: int
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
        database, api: by default those that the settings name. With a database for a dry run nothing is sent, and what is derived is derived
            from the answers alone.

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
        fetched = _fetch(wanted, api, root, database, failures)
        snapshot = fetched.snapshot
        for site in progress(fetched.infos, of="site"):
            try:
                new = lock.head(site_slice(SiteOutages, site)).commit_id is None
                if database.is_dry_run:
                    stored, pending = _rehearse(site, began_from, fetched, database, lock)
                    delivery = Delivery(site, 0, (), 0, None)
                else:
                    stored, pending = _derive(site, began_from, root, database, lock), 0
                    delivery = deliver(database, api, site, lock=lock)
                result = _result(
                    delivery, stored[-1], [*snapshot, fetched.infos[site], *stored], new=new, pending=pending
                )
                snapshot = []
            except PlatformError as failure:
                failures.append(failure)
            else:
                yield result
    if failures:
        raise combined(failures)


class Fetched(NamedTuple):
    """The answers, and what became of them.

    Attributes:
        snapshot: of the outages.
        infos: of each site.
        outages, sites: the rows, as they are stored.
    """

    snapshot: list[Outcome]
    infos: dict[str, Outcome]
    outages: pd.DataFrame
    sites: pd.DataFrame


def _fetch(
    sites: Sequence[str], api: OutagesApi, root: ParquetRoot, database: Database, failures: list[PlatformError]
) -> Fetched:
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
            return Fetched([], {}, raw.valid, pd.DataFrame())
        how = Write("snapshot", source="GET /outages", lock=asked)
        snapshot = write_parquet(root, database, raw, [Slice(RawOutages)], how)
        parts, how = (
            [site_slice(RawSiteInfo, site) for site in answers],
            replace(how, mode="partition", source="GET /site-info"),
        )
        infos = site_info_frame(answers, fetched_at=datetime.now(UTC))
        stored = write_parquet(root, database, infos, parts, how)
        return Fetched(snapshot, dict(zip(answers, stored, strict=True)), raw.valid, infos.valid)


def _derive(site: str, began_from: datetime, root: ParquetRoot, database: Database, lock: Lock) -> list[Outcome]:
    """Map and store what stands of one site; its outages come last.

    Another sync may have fetched the outages meanwhile, for another site: then it is their newer answer that counts.
    """

    def derived() -> list[Outcome]:
        inputs = Inputs()
        outages = to_frame(read_parquet(root, database, [Slice(RawOutages)], inputs=inputs))
        infos = to_frame(read_parquet(root, database, [site_slice(RawSiteInfo, site)], inputs=inputs))
        given = _of_site(site, outages, infos, began_from)
        return write_together(database, given, Write("partition", lock=lock, inputs=inputs))

    return looked_again(derived)


def _of_site(
    site: str, outages: pd.DataFrame, infos: pd.DataFrame, began_from: datetime
) -> list[tuple[pd.DataFrame | Split[pd.DataFrame], Slice]]:
    """The devices and the outages of a site, each with the slice that it is."""
    devices = devices_of_sites(infos)
    # The rows as they will be in the table: of a device that is named twice the last counts.
    known = devices.valid.drop_duplicates(["site_id", "device_id"], keep="last")
    return [
        (devices, site_slice(SiteDevices, site)),
        (outages_of_sites(outages, known, began_from=began_from), site_slice(SiteOutages, site)),
    ]


def _rehearse(
    site: str, began_from: datetime, fetched: Fetched, database: Database, lock: Lock
) -> tuple[list[Outcome], int]:
    """What `_derive` would store of the answers in hand, and how many outages would be sent."""
    infos = fetched.sites[fetched.sites["site_id"] == site].reset_index(drop=True)
    given = _of_site(site, fetched.outages, infos, began_from)
    stored = write_together(database, given, Write("partition", lock=lock, inputs=Inputs()))
    _, (outages, _) = given
    assert isinstance(outages, pd.DataFrame)
    with database.connect() as connection:
        return stored, pending_of(connection, sorted({*outages["delivery_key"]}))


def _result(
    delivery: Delivery, outages: Outcome, outcomes: Sequence[Outcome], *, new: bool, pending: int
) -> SyncResult:
    return SyncResult(
        site=delivery.site,
        new=new,
        outages=outages.loaded + outages.change.unchanged,
        delivered=delivery.delivered,
        pending=pending,
        watermark=delivery.watermark,
        quarantined=sum(outcome.quarantined for outcome in outcomes),
        flagged=sum(outcome.flagged for outcome in outcomes),
    )

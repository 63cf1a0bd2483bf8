"""The tables that the outages system owns."""

from collections.abc import Sequence

from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.contracts.names import LONGEST_NAME, is_name
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import ConfigurationError

DEVICE = "Device of the site, as the API names it"
BEGIN = "Begin of the outage, the text exactly as received"
END = "End of the outage, the text exactly as received"


class RawOutages(Contract):
    """What `GET /outages` answered: one row per element that can be read, of all sites, a snapshot per fetch."""

    position: int = column("Place in the answer, from 0", ge=0)
    device_id: str = column("Device that was out; repeats", min_length=1)
    begin_text: str = column(BEGIN)
    end_text: str = column(END)
    begin_at: Timestamp = column("Begin of the outage")
    end_at: Timestamp = column("End of the outage; may lie before the begin, which is flagged")
    additional_fields: str | None = column("Fields that the contract does not know, as JSON; flagged")
    fetched_at: Timestamp = column("When the answer was received")

    class Config:
        table = "outages.raw_outages"
        store = "parquet"
        versions_kept = 100
        key = ("position",)
        may_be_empty = True


class RawSiteInfo(Contract):
    """What `GET /site-info/{site}` answered, one row per site."""

    site_id: str = column("Site that was asked for")
    name: str | None = column("Name of the site; NULL where the answer has none, which its devices do without")
    body: str = column("The whole answer as JSON")
    fetched_at: Timestamp = column("When the answer was received")

    class Config:
        table = "outages.raw_site_info"
        store = "parquet"
        versions_kept = 10
        key = ("site_id",)
        partition_by = "site_id"


class SiteDevices(Contract):
    """Devices of a site, with the names under which outages are reported."""

    site_id: str = column("Site that the device belongs to", min_length=1)
    device_id: str = column(DEVICE, min_length=1)
    device_name: str = column("Name of the device")

    class Config:
        table = "outages.site_devices"
        key = ("site_id", "device_id")
        partition_by = "site_id"


class SiteOutages(Contract):
    """Outages of a site's own devices that began at or after the cut-off, with device names: what is to be delivered."""

    site_id: str = column("Site that the outage is reported for", min_length=1)
    device_id: str = column(DEVICE, min_length=1)
    name: str = column("Name of the device")
    begin_text: str = column(BEGIN)
    end_text: str = column(END)
    begin_at: Timestamp = column("Begin of the outage")
    end_at: Timestamp = column("End of the outage")
    position: int = column("Place in the answer of the API, from 0: the order of delivery", ge=0)
    delivery_key: str = column(
        "Hash of site, device, name and the instants of begin and end: what is delivered once",
        min_length=64,
        max_length=64,
    )

    class Config:
        table = "outages.site_outages"
        key = ("site_id", "device_id", "begin_at", "end_at")
        partition_by = "site_id"
        may_be_empty = True


class DeliveredSiteOutages(Contract):
    """Outages that the API has acknowledged, each exactly once."""

    delivery_key: str = column(
        "Hash of site, device, name and the instants of begin and end", min_length=64, max_length=64
    )
    site_id: str = column("Site that the outage was reported for", min_length=1)
    device_id: str = column(DEVICE, min_length=1)
    name: str = column("Name of the device, as delivered")
    begin_text: str = column("Begin of the outage, the text as delivered")
    end_text: str = column("End of the outage, the text as delivered")
    batch_key: str = column("Batch in which the outage went out: the Idempotency-Key of its POST")
    delivered_at: Timestamp = column("When the acknowledgement was recorded")

    class Config:
        table = "outages.delivered_site_outages"
        key = ("delivery_key",)
        partition_by = "site_id"
        may_be_empty = True
        indexes = (("site_id", "delivered_at"),)


class DeliveryBatches(Contract):
    """The outbox: payloads frozen for one POST each, with what became of them."""

    batch_key: str = column("Hash of site and payload: the Idempotency-Key of the POST")
    site_id: str = column("Site that the batch is for")
    body: str = column("The payload, exactly as it is sent")
    outages: int = column("Outages in the batch", unit="rows", ge=1)
    left_out: int = column(
        "Outages of the batch that it does not stand for: settled as not taken, or delivered with another batch under another"
        " spelling",
        unit="rows",
        ge=0,
    )
    state: str = column(
        "frozen: to be sent; delivered: acknowledged; refused: not taken, its outages are free again; thawed: nothing of it"
        " arrived before the source changed; disputed: somebody must say which of its outages were taken",
        isin=("frozen", "delivered", "refused", "thawed", "disputed"),
    )
    attempts: int = column("How often the batch was handed to the client to send", ge=0)
    may_have_arrived: bool = column("Whether an attempt ended without an answer that rules out its effect")
    conflicts: int = column("Calls in a row that ended with a 409 for a request in progress", ge=0)
    http_status: int | None = column("Status of the last answer")
    response: str | None = column("Text of the last answer, or the failure")
    frozen_at: Timestamp = column("When the batch was frozen")
    settled_at: Timestamp | None = column("When it was known what became of it")

    class Config:
        table = "outages.delivery_batches"
        key = ("batch_key",)
        indexes = (("site_id", "state"),)
        may_be_empty = True


CONTRACTS = (RawOutages, RawSiteInfo, SiteDevices, SiteOutages, DeliveredSiteOutages, DeliveryBatches)


def require_sites(sites: Sequence[str]) -> None:
    """Refuse what is no name of a site, before anything is asked or stored under it.

    Raises:
        ConfigurationError: names the first.
    """
    for site in sites:
        if not is_name(site):
            shown = site if len(site) <= 40 else f"{site[:40]}…"
            raise ConfigurationError(
                f"{shown!r} is no name of a site: it has {len(site)} characters; 1 to {LONGEST_NAME} that can be printed are taken"
            )


def site_slice(contract: type[Contract], site: str) -> Slice:
    """What a table has of a site."""
    return Slice(contract, site, {"site_id": site})

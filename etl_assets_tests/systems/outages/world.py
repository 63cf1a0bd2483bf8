"""The outages system with all its neighbours: a real database, the simulated API over HTTP, and the calls that tests make."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg.rows import dict_row, tuple_row
from pydantic import SecretStr

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets.core.sources.http.client import Limits
from etl_assets.systems.outages import delivery
from etl_assets.systems.outages.contracts import SiteOutages
from etl_assets.systems.outages.delivery import Delivery
from etl_assets.systems.outages.script import SyncResult, sync_sites
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets.systems.outages.simulator import OutagesSimulator
from etl_assets.systems.outages.source import OutagesApi, OutagesApiResource
from etl_assets.systems.outages.transform import (
    CUTOFF,
    devices_of_sites,
    outages_of_sites,
    raw_outages_frame,
    site_info_frame,
)

SITE = "kingfisher"
# Short waits; the time-outs stay longer than a busy machine needs for an answer.
QUICK = Limits(
    connect_timeout_s=2, read_timeout_s=1, deadline_s=5, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)
FETCHED = datetime(2026, 1, 1, tzinfo=UTC)
BOOKS = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")

Outage = dict[str, Any]


def outage(device: str, begin: str, end: str = "2022-06-01T00:00:00.000Z", **more: Any) -> Outage:
    """An element of `GET /outages`."""
    return {"id": device, "begin": begin, "end": end, **more}


def info(site: str = SITE, **devices: str) -> dict[str, Any]:
    """An answer of `GET /site-info/{site}`, of device names by id."""
    return {"id": site, "name": site.title(), "devices": [{"id": i, "name": n} for i, n in devices.items()]}


def brief(seconds: float) -> None:
    """A pause that a test need not wait for: HTTP dates have whole seconds."""
    time.sleep(min(seconds, 0.01))


def quick_api(url: str, key: str, *, limits: Limits = QUICK, **terms: Any) -> OutagesApi:
    """The API with short time-outs and pauses.

    Args:
        terms: what its owner says of it, as `OutagesApi` takes it.
    """
    api = OutagesApi(url, SecretStr(key), limits=limits, **terms)
    api._client._sleep = brief
    return api


def quick_api_of(settings: OutagesSettings) -> OutagesApi:
    """The API of the settings with short time-outs and pauses."""
    api = OutagesApi.from_settings(settings, limits=QUICK)
    api._client._sleep = brief
    return api


class QuickApiResource(OutagesApiResource):
    """The API of the settings with short time-outs and pauses."""

    def connect(self) -> OutagesApi:
        return quick_api_of(OutagesSettings.load())


class Crash(BaseException):
    """The process ends here, as far as the database and the API can tell."""


@dataclass
class World:
    """A database and a simulator, each its own; `api` calls the simulator."""

    database: Database
    simulator: OutagesSimulator
    url: str
    api: OutagesApi

    def serve(self, outages: Sequence[Any], *infos: dict[str, Any]) -> None:
        """What the API answers from now on; by default of one site with the devices d1 and d2."""
        described = infos or (info(d1="One", d2="Two"),)
        self.simulator.serve_exactly(list(outages), {one["id"]: one for one in described})

    def store(self, site: str = SITE) -> None:
        """Maps what the API has now and stores it, without a delivery."""
        raw = raw_outages_frame(self.simulator.outages(), fetched_at=FETCHED)
        devices = devices_of_sites(site_info_frame({site: self.simulator.site_info(site)}, fetched_at=FETCHED).valid)
        mapped = outages_of_sites(raw.valid, devices.valid, began_from=CUTOFF)
        write(self.database, mapped, [Slice(SiteOutages, site, {"site_id": site})], Write("partition"))

    def deliver(self, site: str = SITE, *, api: OutagesApi | None = None) -> Delivery:
        """Delivers what is pending."""
        return delivery.deliver(self.database, api or self.api, site)

    def crash_in_call(self) -> None:
        """A delivery whose process ends while the API has the payload, if it has it."""
        with crashing(self.api, "deliver"), contextlib.suppress(Crash):
            self.deliver()

    def sync(self, *sites: str, since: datetime | None = None) -> list[SyncResult]:
        """The system as a script."""
        return list(sync_sites(sites or (SITE,), since=since, database=self.database, api=self.api))

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query."""
        with self.database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    def column(self, query: str, *values: Any) -> list[Any]:
        """The first column of a query."""
        with self.database.connect() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            return [row[0] for row in cursor.execute(query, values).fetchall()]

    def execute(self, statement: str, *values: Any) -> None:
        """A statement that gives no rows."""
        with self.database.connect() as connection:
            connection.execute(statement, values)

    def batches(self, site: str = SITE) -> list[dict[str, Any]]:
        """The outbox of a site in the order in which its batches were frozen last."""
        return self.rows("SELECT * FROM outages.delivery_batches WHERE site_id = %s ORDER BY frozen_at", site)

    def states(self, site: str = SITE) -> list[str]:
        """What became of the batches of a site."""
        return [batch["state"] for batch in self.batches(site)]

    def marked(self, site: str = SITE) -> Counter[tuple[str, str, str, str]]:
        """The outages that the database has as delivered, in the simulator's terms."""
        rows = self.rows("SELECT * FROM outages.delivered_site_outages WHERE site_id = %s", site)
        return Counter((row["device_id"], row["name"], row["begin_text"], row["end_text"]) for row in rows)

    def posts(self) -> int:
        """How many POSTs reached the API, whatever became of them."""
        return sum(self.simulator.faults.counts().get("site-outages", {}).values())

    def begins(self) -> list[list[str]]:
        """The begins in each delivery that took effect."""
        return [[row["begin"] for row in delivery.rows] for delivery in self.simulator.deliveries]

    def assert_delivered_once(self, site: str = SITE) -> None:
        """Nothing is pending, nothing took effect twice, and both sides agree on what was delivered."""
        taken = self.simulator.delivered_rows(site)
        assert self.simulator.pending(site) == []
        assert set(taken.values()) <= {1}
        assert taken == self.marked(site)

    def assert_books_balance(self) -> None:
        """In each ledger row every received row is in exactly one count."""
        ledger = self.rows("SELECT * FROM etl.ledger")
        assert ledger
        assert [row for row in ledger if row["received"] != sum(row[name] for name in BOOKS)] == []


@contextlib.contextmanager
def crashing(owner: Any, name: str, *, after: bool = False) -> Iterator[None]:
    """A function that ends the process before or after it has done its work."""
    original: Callable[..., Any] = getattr(owner, name)

    def crash(*args: Any, **kwargs: Any) -> Any:
        if after:
            original(*args, **kwargs)
        raise Crash

    setattr(owner, name, crash)
    try:
        yield
    finally:
        setattr(owner, name, original)


def body_of(rows: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of a delivery, read as the API reads them."""
    parsed: list[dict[str, str]] = json.loads(json.dumps(rows))
    return parsed

"""The outage API as a simulator: devices' outages, site descriptions, and a strict receiver of site outages.

The receiver is the judge of a delivery: it accepts exactly the rows of a site that it has not acknowledged yet, in
input order and as text, and answers with the first difference otherwise.
"""

import json
import math
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from threading import RLock
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel

from etl_assets.simulators.controls import Refusal, simulator_app
from etl_assets.simulators.faults import Faults
from etl_assets.systems.outages.simulator.data import (
    CUTOFF,
    PLANTED_ROWS,
    Row,
    RowKey,
    deliverable,
    device_names,
    generated_site,
    instant,
)

SITES = ("norwich-pear-tree", "kingfisher")
_SITE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_FIELDS = ("id", "name", "begin", "end")
_QUOTA_WINDOW_S = 60.0
# Behind every generated row: what is added later is at the end of the array.
_LATE = 1.0


@dataclass(frozen=True)
class Delivery:
    """A POST that took effect."""

    site: str
    key: str | None
    rows: list[dict[str, str]]
    body: str
    received_at: str


@dataclass(frozen=True)
class RefusedDelivery:
    """A POST that the receiver did not accept, and what it said."""

    site: str
    key: str | None
    status: int
    message: str


class OutagesSimulator:
    """The outage API; `app` serves it, the methods steer and inspect it, also while it is served.

    A site exists as soon as somebody names it (`[a-z0-9][a-z0-9-]*`, except names that begin with `unknown`), and from
    then on its outages are in the array. A delivery is judged by the data as they were at some moment so far: a sender
    that froze its batch before a late row arrived is right.

    Args:
        seed: gives the data and the faults; the same seed, the same everything.
        api_key: the `x-api-key` that callers must send.
        sites: known from the start.
        outages_per_site: rows of the site's own devices, the planted ones included.
        began_from: the cut-off of the rule for deliveries.
        conflict_on_replay: a second POST with a known key and body gets 409 instead of 200.
        quota_per_minute: requests beyond it get 429 with Retry-After; None means no quota.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        api_key: str = "outages-simulator-key",
        sites: Iterable[str] = SITES,
        outages_per_site: int = 108,
        devices_per_site: int = 8,
        began_from: str = CUTOFF,
        conflict_on_replay: bool = False,
        quota_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        cutoff = instant(began_from)
        if cutoff is None or outages_per_site < PLANTED_ROWS or devices_per_site < 1:
            raise ValueError(
                f"a simulated site has at least {PLANTED_ROWS} outages and 1 device, and its cut-off is an instant with"
                f" a zone; asked for were {outages_per_site}, {devices_per_site} and {began_from!r}"
            )
        self.seed = seed
        self.api_key = api_key
        self.outages_per_site = outages_per_site
        self.devices_per_site = devices_per_site
        self.conflict_on_replay = conflict_on_replay
        self.quota_per_minute = quota_per_minute
        self.faults = Faults(seed=seed)
        self._cutoff: datetime = cutoff
        self._configured = tuple(sites)
        self._clock = clock
        self._lock = RLock()
        self.reset()
        self.app = outages_app(self)

    def reset(self) -> None:
        """Back to the beginning: generated data, nothing delivered, no faults."""
        with self._lock:
            self.faults.clear()
            self.deliveries: list[Delivery] = []
            self.refusals: list[RefusedDelivery] = []
            self.replays = 0
            self._version = 0
            self._generates = True
            self._infos: dict[str, Any] = {}
            self._rows: list[Row] = []
            self._document: bytes | None = None
            self._acknowledged: dict[str, dict[RowKey, None]] = {}
            self._keys: dict[str, tuple[str, bytes, int]] = {}
            self._admitted: deque[float] = deque()
            for site in self._configured:
                self._know(site)

    # What the API serves.

    def admit(self, api_key: str | None) -> None:
        """Checks the key, then the quota.

        Raises:
            Refusal: 403 or 429.
        """
        if api_key != self.api_key:
            raise Refusal(403, "the x-api-key is missing or wrong")
        with self._lock:
            now = self._clock()
            while self._admitted and self._admitted[0] <= now - _QUOTA_WINDOW_S:
                self._admitted.popleft()
            if self.quota_per_minute is not None and len(self._admitted) >= self.quota_per_minute:
                oldest = self._admitted[0] if self._admitted else now
                wait_s = math.ceil(oldest + _QUOTA_WINDOW_S - now)
                message = f"the quota of {self.quota_per_minute} requests a minute is used up"
                raise Refusal(429, message, headers={"Retry-After": str(wait_s)})
            self._admitted.append(now)

    def outages_document(self) -> bytes:
        """The array of all known sites' outages as JSON."""
        with self._lock:
            if self._document is None:
                self._document = json.dumps(self.outages(), separators=(",", ":")).encode()
            return self._document

    def outages(self) -> list[Any]:
        """The elements of that array."""
        with self._lock:
            return [row.content for row in self._rows]

    def site_info(self, site: str) -> Any:
        """A site's description; asking for it makes the site known.

        Raises:
            Refusal: 404, if there is no such site.
        """
        with self._lock:
            if site not in self._infos:
                self._know(site)
            return self._infos[site]

    def deliver(self, site: str, body: bytes, *, key: str | None) -> int:
        """Accepts a delivery, or recognises it as a replay; gives the number of its rows.

        Raises:
            Refusal: 400 with the first difference, 404, 409 for a replay if so set, 422 for a key with another body.
        """
        with self._lock:
            try:
                self.site_info(site)
                if key is not None and key in self._keys:
                    return self._replayed(site, body, key)
                rows = _rows_of(body)
                accepted = self._matched(site, rows)
            except Refusal as refusal:
                self.refusals.append(RefusedDelivery(site, key, refusal.status, refusal.message))
                raise
            self._acknowledged.setdefault(site, {}).update(dict.fromkeys(accepted))
            if key is not None:
                self._keys[key] = (site, body, len(rows))
            now = datetime.now(UTC).isoformat()
            self.deliveries.append(Delivery(site, key, rows, body.decode(errors="replace"), now))
            return len(rows)

    def _replayed(self, site: str, body: bytes, key: str) -> int:
        first_site, first_body, rows = self._keys[key]
        if (first_site, first_body) != (site, body):
            raise Refusal(422, f"the idempotency key {key} was used for another request")
        self.replays += 1
        if self.conflict_on_replay:
            raise Refusal(409, f"the request with the idempotency key {key} was already processed")
        return rows

    def _matched(self, site: str, rows: list[dict[str, str]]) -> list[RowKey]:
        expected = self._expected(site)
        got = [tuple(row[name] for name in _FIELDS) for row in rows]
        for version in sorted({version for _, version in expected}, reverse=True):
            known = [key for key, since in expected if since <= version]
            if got == known:
                return known
        newest = [key for key, _ in expected]
        if got != newest:
            raise Refusal(400, _first_difference(got, newest))
        return newest

    def _expected(self, site: str) -> list[tuple[RowKey, int]]:
        names = device_names(self._infos.get(site))
        done = self._acknowledged.get(site, {})
        return [
            (key, version) for key, version in deliverable(self._rows, names, cutoff=self._cutoff) if key not in done
        ]

    # What tests and the demo steer and inspect.

    def sites(self) -> list[str]:
        """The known sites."""
        with self._lock:
            return sorted(self._infos)

    def pending(self, site: str) -> list[dict[str, str]]:
        """The rows of a site that a delivery must bring now."""
        with self._lock:
            return [_as_row(key) for key, _ in self._expected(site)]

    def acknowledged(self, site: str) -> list[dict[str, str]]:
        """The rows of a site that were delivered, in order of delivery."""
        with self._lock:
            return [_as_row(key) for key in self._acknowledged.get(site, {})]

    def delivered_rows(self, site: str) -> Counter[RowKey]:
        """How often each row (device, name, begin, end) of a site took effect."""
        with self._lock:
            rows = (row for delivery in self.deliveries if delivery.site == site for row in delivery.rows)
            return Counter((row["id"], row["name"], row["begin"], row["end"]) for row in rows)

    def add_outage(self, site: str, device_index: int, begin: str, end: str) -> dict[str, str]:
        """Adds a late row at the end of the array, of the site's device with this index."""
        with self._lock:
            devices = list(device_names(self.site_info(site)))
            if not 0 <= device_index < len(devices):
                raise ValueError(f"{site} has {len(devices)} devices, counted from 0: there is no {device_index}")
            content = {"id": devices[device_index], "begin": begin, "end": end}
            self._version += 1
            self._rows.append(Row(content, _LATE, self._version))
            self._document = None
            return content

    def serve_exactly(self, outages: list[Any], site_infos: Mapping[str, Any]) -> None:
        """Serves this instead of generated data, whatever it is; deliveries are judged by its well-formed rows.

        What was acknowledged stays so. Only the sites given exist.
        """
        with self._lock:
            self._generates = False
            self._version += 1
            self._infos = dict(site_infos)
            self._rows = [Row(content, 0.0, self._version) for content in outages]
            self._document = None

    def _know(self, site: str) -> None:
        if not self._generates or site.startswith("unknown") or not _SITE_NAME.fullmatch(site):
            raise Refusal(404, f"there is no site {site[:100]!r}")
        generated = generated_site(
            site, seed=self.seed, outages=self.outages_per_site, devices=self.devices_per_site, cutoff=self._cutoff
        )
        self._infos[site] = generated.info
        self._rows.extend(Row(content, place, self._version) for place, content in generated.rows)
        # A stable sort: late rows share one place and keep their order.
        self._rows.sort(key=lambda row: row.place)
        self._document = None


def _rows_of(body: bytes) -> list[dict[str, str]]:
    try:
        rows = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not JSON: {error}") from None
    if not isinstance(rows, list):
        raise Refusal(400, "the body is not an array")
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or set(row) != set(_FIELDS) or not all(isinstance(v, str) for v in row.values()):
            raise Refusal(400, f"row {number} is not an object with exactly {', '.join(_FIELDS)}, each of them text")
    return rows


def _first_difference(got: list[tuple[str, ...]], expected: list[RowKey]) -> str:
    for number, (row, wanted) in enumerate(zip(got, expected, strict=False)):
        for name, value, right in zip(_FIELDS, row, wanted, strict=True):
            if value != right:
                return f"row {number}: {name} is {value[:100]!r}, expected {right!r}"
    if len(got) < len(expected):
        return f"{len(got)} rows, expected {len(expected)}: row {len(got)} is missing: {expected[len(got)]}"
    return f"{len(got)} rows, expected {len(expected)}: row {len(expected)} is too many: {got[len(expected)]}"


def _as_row(key: RowKey) -> dict[str, str]:
    return dict(zip(_FIELDS, key, strict=True))


class LateOutage(BaseModel):
    """A row to add to `GET /outages`."""

    site: str
    device_index: int
    begin: str
    end: str


class ExactData(BaseModel):
    """What to serve instead of generated data."""

    outages: list[Any]
    site_infos: dict[str, Any]


def outages_app(simulator: OutagesSimulator) -> FastAPI:
    """The API and its controls over one simulator."""
    app = simulator_app("Outage API (simulated)", simulator.faults)
    app.include_router(_api(simulator))
    app.include_router(_controls(simulator))
    return app


def _api(simulator: OutagesSimulator) -> APIRouter:
    async def admitted(request: Request) -> None:
        simulator.admit(request.headers.get("x-api-key"))

    router = APIRouter(dependencies=[Depends(admitted)])

    @router.get("/outages")
    async def outages() -> Response:
        return Response(simulator.outages_document(), media_type="application/json")

    @router.get("/site-info/{site}")
    async def site_info(site: str) -> Response:
        # Not FastAPI's own rendering: it refuses NaN, which a test may want served.
        return Response(json.dumps(simulator.site_info(site)), media_type="application/json")

    @router.post("/site-outages/{site}")
    async def site_outages(site: str, request: Request) -> dict[str, int]:
        key = request.headers.get("idempotency-key")
        return {"accepted": simulator.deliver(site, await request.body(), key=key)}

    return router


def _controls(simulator: OutagesSimulator) -> APIRouter:
    router = APIRouter(prefix="/_control", tags=["control"])

    @router.get("/deliveries")
    async def deliveries() -> dict[str, Any]:
        return {
            "deliveries": [asdict(delivery) for delivery in simulator.deliveries],
            "refusals": [asdict(refusal) for refusal in simulator.refusals],
            "replays": simulator.replays,
        }

    @router.get("/sites")
    async def sites() -> dict[str, dict[str, int]]:
        return {
            site: {"acknowledged": len(simulator.acknowledged(site)), "pending": len(simulator.pending(site))}
            for site in simulator.sites()
        }

    @router.post("/reset")
    async def reset() -> None:
        simulator.reset()

    @router.post("/outages")
    async def add_outage(row: LateOutage) -> dict[str, str]:
        try:
            return simulator.add_outage(row.site, row.device_index, row.begin, row.end)
        except ValueError as error:
            raise Refusal(422, str(error)) from None

    @router.put("/data")
    async def serve_exactly(data: ExactData) -> None:
        simulator.serve_exactly(data.outages, data.site_infos)

    return router

"""The outage API as a simulator: devices' outages, site descriptions, and a strict receiver of site outages.

The receiver is the judge of a delivery: it accepts exactly the rows of a site that it has not acknowledged yet, in
input order and as text, and answers with the first difference otherwise.

What is generated follows from the seed and a site's name. Each row has its place in the array by a random draw of its own, so
a site that becomes known later falls in between without changing the order of the others.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from threading import RLock
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel

from etl_assets.simulators.controls import Refusal, simulator_app
from etl_assets.simulators.faults import Faults

SITES = ("norwich-pear-tree", "kingfisher")
CUTOFF = datetime(2022, 1, 1, tzinfo=UTC)
PLANTED_ROWS = 5
STRAY_ROWS = 2
_SITE_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_FIELDS = ("id", "name", "begin", "end")
# Behind every generated row: what is added later is at the end of the array.
_LATE = 1.0

# What identifies a delivered row: device, name, begin and end, each as text.
RowKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Row:
    """One element of `GET /outages`: its content, its place in the array, the version of the data that brought it."""

    content: Any
    place: float
    version: int


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
    """A POST that the receiver did not accept, and its answer."""

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
        conflict_on_replay: a second POST with a known key and body gets 409 instead of 200.

    Attributes:
        cutoff: of the rule for deliveries.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        api_key: str = "outages-simulator-key",
        sites: Iterable[str] = SITES,
        outages_per_site: int = 108,
        devices_per_site: int = 8,
        conflict_on_replay: bool = False,
    ) -> None:
        if outages_per_site < PLANTED_ROWS or devices_per_site < 1:
            raise ValueError(
                f"a simulated site has at least {PLANTED_ROWS} outages and 1 device;"
                f" asked for were {outages_per_site} and {devices_per_site}"
            )
        self.seed = seed
        self.api_key = api_key
        self.outages_per_site = outages_per_site
        self.devices_per_site = devices_per_site
        self.conflict_on_replay = conflict_on_replay
        self.cutoff = CUTOFF
        self.faults = Faults(seed=seed)
        self._configured = tuple(sites)
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
            for site in self._configured:
                self.site_info(site)

    # What the API serves.

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
                if not self._generates or site.startswith("unknown") or not _SITE_NAME.fullmatch(site):
                    raise Refusal(404, f"there is no site {site[:100]!r}")
                self._infos[site], rows = _generated_site(
                    site, seed=self.seed, outages=self.outages_per_site, devices=self.devices_per_site
                )
                # A stable sort: late rows share one place and keep their order.
                added = [Row(content, place, self._version) for place, content in rows]
                self._rows = sorted([*self._rows, *added], key=lambda row: row.place)
                self._document = None
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
        done = self._acknowledged.get(site, {})
        rows = _deliverable(self._rows, _device_names(self._infos.get(site)), cutoff=self.cutoff)
        return [(key, version) for key, version in rows if key not in done]

    # What tests and the demo steer and inspect.

    def sites(self) -> list[str]:
        """The known sites."""
        with self._lock:
            return sorted(self._infos)

    def pending(self, site: str) -> list[dict[str, str]]:
        """The rows of a site that a delivery must bring now."""
        with self._lock:
            return [dict(zip(_FIELDS, key, strict=True)) for key, _ in self._expected(site)]

    def acknowledged(self, site: str) -> list[dict[str, str]]:
        """The rows of a site that were delivered, in order of delivery."""
        with self._lock:
            return [dict(zip(_FIELDS, key, strict=True)) for key in self._acknowledged.get(site, {})]

    def delivered_rows(self, site: str) -> Counter[RowKey]:
        """How often each row (device, name, begin, end) of a site took effect."""
        with self._lock:
            rows = (row for delivery in self.deliveries if delivery.site == site for row in delivery.rows)
            return Counter((row["id"], row["name"], row["begin"], row["end"]) for row in rows)

    def add_outage(self, site: str, device_index: int, begin: str, end: str) -> dict[str, str]:
        """Adds a late row at the end of the array, of the site's device with this index."""
        with self._lock:
            devices = list(_device_names(self.site_info(site)))
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


# What is generated


def _generated_site(
    name: str, *, seed: int, outages: int, devices: int
) -> tuple[dict[str, Any], list[tuple[float, dict[str, str]]]]:
    """A site as it always is for this seed: `outages` rows over its devices, and two rows of devices of no site.

    Among the rows are one that begins exactly at the cut-off, one that begins 1 ms earlier, one that spans it, and one
    that is there twice.

    Returns:
        What `/site-info` says, and its rows with their places.
    """
    rng = random.Random(f"{seed}/{name}")
    described = [{"id": _uuid(rng), "name": f"Battery {i}"} for i in range(1, devices + 1)]
    first, hour, day = described[0]["id"], timedelta(hours=1), timedelta(days=1)
    twice = _row(first, CUTOFF + timedelta(days=rng.randrange(1, 300), milliseconds=rng.randrange(1000)), hour)
    rows = [
        _row(first, CUTOFF, hour),
        _row(first, CUTOFF - timedelta(milliseconds=1), hour),
        _row(first, CUTOFF - 3 * day, 6 * day),
        twice,
        dict(twice),
    ]
    rows += [_random_row(described[i % devices]["id"], rng, CUTOFF) for i in range(outages - PLANTED_ROWS)]
    rows += [_random_row(_uuid(rng), rng, CUTOFF + 400 * day) for _ in range(STRAY_ROWS)]
    info = {"id": name, "name": name.replace("-", " ").title(), "devices": described}
    return info, [(rng.random(), row) for row in rows]


def _random_row(device: str, rng: random.Random, around: datetime) -> dict[str, str]:
    """About a quarter begin before that instant."""
    begin = around + timedelta(milliseconds=rng.randrange(-120 * 86_400_000, 360 * 86_400_000))
    return _row(device, begin, timedelta(milliseconds=rng.randrange(1_000, 3 * 86_400_000)))


def _row(device: str, begin: datetime, length: timedelta) -> dict[str, str]:
    begin_text, end_text = (
        instant.isoformat(timespec="milliseconds").replace("+00:00", "Z") for instant in (begin, begin + length)
    )
    return {"id": device, "begin": begin_text, "end": end_text}


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


# How a delivery is judged


def _instant(text: Any) -> datetime | None:
    """The instant that a text says; None if it says none or leaves its zone open."""
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo else None


def _device_names(info: Any) -> dict[str, str]:
    """Device id → name from a site's description; what is malformed in it counts as not there."""
    devices = info.get("devices") if isinstance(info, dict) else None
    pairs = ((d.get("id"), d.get("name")) for d in devices if isinstance(d, dict)) if isinstance(devices, list) else ()
    return {device: name for device, name in pairs if isinstance(device, str) and isinstance(name, str)}


def _deliverable(rows: Iterable[Row], names: dict[str, str], *, cutoff: datetime) -> Iterator[tuple[RowKey, int]]:
    """What a site's delivery consists of, in input order, each once, with the version that brought it first.

    The rule: rows of the site's devices that began at or after the cut-off; the end plays no part, even where it lies
    before the begin. A malformed row is none: no object, a device, begin or end that is not text, a time that is no
    instant.
    """
    seen: set[RowKey] = set()
    for row in rows:
        content = row.content if isinstance(row.content, dict) else {}
        device, begin, end = content.get("id"), content.get("begin"), content.get("end")
        began = _instant(begin)
        if not isinstance(device, str) or device not in names or began is None or _instant(end) is None:
            continue
        key = (device, names[device], str(begin), str(end))
        if began >= cutoff and key not in seen:
            seen.add(key)
            yield key, row.version


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


# HTTP


class LateOutage(BaseModel):
    """A row to add to `GET /outages`."""

    site: str
    device_index: int
    begin: str
    end: str


def outages_app(simulator: OutagesSimulator) -> FastAPI:
    """The API and its controls over one simulator."""

    async def admitted(request: Request) -> None:
        if request.headers.get("x-api-key") != simulator.api_key:
            raise Refusal(403, "the x-api-key is missing or wrong")

    api, controls = APIRouter(dependencies=[Depends(admitted)]), APIRouter(prefix="/_control", tags=["control"])

    @api.get("/outages")
    async def outages() -> Response:
        return Response(simulator.outages_document(), media_type="application/json")

    @api.get("/site-info/{site}")
    async def site_info(site: str) -> Response:
        # Not FastAPI's own rendering: it refuses NaN, which a test may want served.
        return Response(json.dumps(simulator.site_info(site)), media_type="application/json")

    @api.post("/site-outages/{site}")
    async def site_outages(site: str, request: Request) -> dict[str, int]:
        key = request.headers.get("idempotency-key")
        return {"accepted": simulator.deliver(site, await request.body(), key=key)}

    @controls.get("/deliveries")
    async def deliveries() -> dict[str, Any]:
        return {
            "deliveries": [asdict(delivery) for delivery in simulator.deliveries],
            "refusals": [asdict(refusal) for refusal in simulator.refusals],
            "replays": simulator.replays,
        }

    @controls.get("/sites")
    async def sites() -> dict[str, dict[str, int]]:
        return {
            site: {"acknowledged": len(simulator.acknowledged(site)), "pending": len(simulator.pending(site))}
            for site in simulator.sites()
        }

    @controls.post("/outages")
    async def add_outage(row: LateOutage) -> dict[str, str]:
        try:
            return simulator.add_outage(row.site, row.device_index, row.begin, row.end)
        except ValueError as error:
            raise Refusal(422, str(error)) from None

    controls.post("/reset")(simulator.reset)
    controls.put("/data")(simulator.serve_exactly)
    app = simulator_app("Outage API (simulated)", simulator.faults)
    app.include_router(api)
    app.include_router(controls)
    return app

"""What the simulated outage API knows: sites, their devices, and outages in an order that is nobody's.

Everything follows from the seed and a site's name. Each row has its place in the array by a random draw of its own, so
a site that becomes known later falls in between without changing the order of the others.
"""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

CUTOFF = "2022-01-01T00:00:00.000Z"
PLANTED_ROWS = 5
STRAY_ROWS = 2

# What identifies a delivered row: device, name, begin and end, each as text.
RowKey = tuple[str, str, str, str]


@dataclass(frozen=True)
class Row:
    """One element of `GET /outages`: its content, its place in the array, the version of the data that brought it."""

    content: Any
    place: float
    version: int


@dataclass(frozen=True)
class Site:
    """A generated site: what `/site-info` says, and its rows with their places."""

    info: dict[str, Any]
    rows: list[tuple[float, dict[str, str]]]


def generated_site(name: str, *, seed: int, outages: int, devices: int, cutoff: datetime) -> Site:
    """A site as it always is for this seed: `outages` rows over its devices, and two rows of devices of no site.

    Among the rows are one that begins exactly at the cut-off, one that begins 1 ms earlier, one that spans it, and one
    that is there twice.
    """
    rng = random.Random(f"{seed}/{name}")
    described = [{"id": _uuid(rng), "name": f"Battery {i}"} for i in range(1, devices + 1)]
    rows = _planted(described[0]["id"], rng, cutoff)
    for i in range(outages - PLANTED_ROWS):
        rows.append(_random_row(described[i % devices]["id"], rng, cutoff))
    rows += [_random_row(_uuid(rng), rng, cutoff + timedelta(days=400)) for _ in range(STRAY_ROWS)]
    info = {"id": name, "name": name.replace("-", " ").title(), "devices": described}
    return Site(info, [(rng.random(), row) for row in rows])


def _planted(device: str, rng: random.Random, cutoff: datetime) -> list[dict[str, str]]:
    hour = timedelta(hours=1)
    twice = _row(device, cutoff + timedelta(days=rng.randrange(1, 300), milliseconds=rng.randrange(1000)), hour)
    return [
        _row(device, cutoff, hour),
        _row(device, cutoff - timedelta(milliseconds=1), hour),
        _row(device, cutoff - timedelta(days=3), timedelta(days=6)),
        twice,
        dict(twice),
    ]


def _random_row(device: str, rng: random.Random, cutoff: datetime) -> dict[str, str]:
    """About a quarter begin before the cut-off."""
    begin = cutoff + timedelta(milliseconds=rng.randrange(-120 * 86_400_000, 360 * 86_400_000))
    return _row(device, begin, timedelta(milliseconds=rng.randrange(1_000, 3 * 86_400_000)))


def _row(device: str, begin: datetime, length: timedelta) -> dict[str, str]:
    return {"id": device, "begin": _text(begin), "end": _text(begin + length)}


def _text(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _uuid(rng: random.Random) -> str:
    return str(UUID(int=rng.getrandbits(128), version=4))


def instant(text: Any) -> datetime | None:
    """The instant that a text says; None if it says none or leaves its zone open."""
    try:
        parsed = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return parsed if parsed.tzinfo else None


def device_names(info: Any) -> dict[str, str]:
    """Device id → name from a site's description; what is malformed in it counts as not there."""
    devices = info.get("devices") if isinstance(info, dict) else None
    pairs = ((d.get("id"), d.get("name")) for d in devices if isinstance(d, dict)) if isinstance(devices, list) else ()
    return {device: name for device, name in pairs if isinstance(device, str) and isinstance(name, str)}


def deliverable(rows: Iterable[Row], names: dict[str, str], *, cutoff: datetime) -> Iterator[tuple[RowKey, int]]:
    """What a site's delivery consists of, in input order, each once, with the version that brought it first.

    The rule: rows of the site's devices that began at or after the cut-off; the end plays no part, even where it lies
    before the begin. A malformed row is none: no object, a device, begin or end that is not text, a time that is no
    instant.
    """
    seen: set[RowKey] = set()
    for row in rows:
        content = row.content if isinstance(row.content, dict) else {}
        device, begin, end = content.get("id"), content.get("begin"), content.get("end")
        began = instant(begin)
        if not isinstance(device, str) or device not in names or began is None or instant(end) is None:
            continue
        key = (device, names[device], str(begin), str(end))
        if began >= cutoff and key not in seen:
            seen.add(key)
            yield key, row.version

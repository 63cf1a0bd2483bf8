"""What the map of events has on it, and what it says of that in words.

Events at one place are one mark, of an area that says how many they are.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.charts.numbers import counted, listed, share
from etl_assets.core.charts.pages import printable
from etl_assets.systems.events.transform import ROOT_CLASSES

Numbers = npt.NDArray[np.float64]

# As the feed itself sorts the root codes, in its column of quad classes.
QUAD_CLASSES: Mapping[str, tuple[str, ...]] = {
    "Verbal cooperation": ("01", "02", "03", "04", "05"),
    "Material cooperation": ("06", "07", "08", "09"),
    "Verbal conflict": ("10", "11", "12", "13", "14"),
    "Material conflict": ("15", "16", "17", "18", "19", "20"),
}
CODES = (*ROOT_CLASSES, "")  # the last stands for all that CAMEO does not know
CLASS_OF = np.array(
    [next((place for place, codes in enumerate(QUAD_CLASSES.values()) if code in codes), len(QUAD_CLASSES)) for code in CODES]
)  # fmt: skip
CLASS_NAMES = (*QUAD_CLASSES, "Not in CAMEO")
# Marks in one map: beyond, neighbours become one.
MOST_MARKS = 420
FINEST_DEGREES, COARSE_DEGREES, COARSER = 0.01, 0.1, 1.25
KM_PER_DEGREE = 111.2
# A degree of longitude is so much of one of latitude in the middle of the country.
LONGITUDE = math.cos(math.radians(39))

ISLANDS = "Puerto Rico"
# What the map has a place for: of each region longitudes from the west to the east, from 0 to 360, and at each of them the lowest
# and the highest latitude, between them along straight lines. Beyond there is Mexico or the sea, under a frame or outside of it.
REGIONS: Mapping[str, Sequence[tuple[float, float, float]]] = {
    "Alaska": (
        *((172.3, 52, 68.5), (179, 51.1, 69.8), (182, 51.1, 70.2), (191.2, 52.9, 70.7), (194, 53.4, 70.9)),
        *((203, 53.7, 71.3), (219, 53.7, 71.3), (230.1, 53.7, 69.5)),
    ),
    "Hawaii": ((199.5, 18.9, 22.4), (205.4, 18.9, 22.4)),
    ISLANDS: ((291.9, 17.5, 18.7), (295.7, 17.5, 18.7)),
    "United States": (
        *((234.9, 31.3, 48.5), (237.8, 31.3, 49.4), (253.4, 31.3, 49.4), (256, 28.9, 49.4), (262.3, 25.6, 49.4)),
        *((271.5, 25.3, 49.4), (276, 24.6, 49.4), (278, 24.5, 49.4), (280, 24.5, 49.4), (280.4, 27.5, 49.4)),
        *((287, 27.5, 49.4), (288, 28.9, 49.4), (290, 34.9, 49.4), (293.2, 44.3, 48)),
    ),
}

EMPTY = "There are no events."
SOURCE = (
    "Albers equal-area projections; Alaska, Hawaii and Puerto Rico with the Virgin Islands at scales of their own. "
    "Outline: U.S. Census Bureau."
)
NAMED_CODES, LONGEST_CODE = 3, 12


@dataclass(frozen=True)
class Located:
    """Events and where they are.

    Attributes:
        events: a row per event, with `code` and `group` as places in CODES and the classes, `latitude`, `longitude` from 0 to
            360, `on_map`, `islands`, and `vague`: 1 where no place closer than a state is named, 2 none but the country, else 0.
        missing: how many are not on the map, by reason.
        unknown: root codes that CAMEO does not know, with how many events they have; "" stands for none given.
    """

    events: pd.DataFrame
    missing: Mapping[str, int]
    unknown: Mapping[str, int]

    @property
    def drawn(self) -> pd.DataFrame:
        """Those on the map."""
        return self.events[self.events["on_map"]]

    def counts(self) -> list[int]:
        """How many events each of CODES has."""
        return np.bincount(self.events["code"], minlength=len(CODES)).tolist()

    def class_counts(self) -> list[int]:
        """How many events each quad class has, and last those whose root code CAMEO does not know."""
        return np.bincount(self.events["group"], minlength=len(CLASS_NAMES)).tolist()

    def code_name(self, code: str) -> str:
        """A root code's name; for what CAMEO does not know, the codes."""
        if code or not self.unknown:
            return ROOT_CLASSES[code].capitalize() if code else ""
        ordered = sorted(self.unknown, key=lambda unknown: (-self.unknown[unknown], unknown))
        return listed([printable(each)[:LONGEST_CODE] or "no code" for each in ordered], limit=NAMED_CODES)


@dataclass(frozen=True)
class Marks:
    """The marks of a map, the largest first: smaller ones are drawn upon it.

    Attributes:
        sectors: a row per mark and class, with `mark`, `group`, `count`, `total` of the mark, its mean `latitude` and
            `longitude`, `vague`, `islands`, and the angles `start` and `end` clockwise from the top.
        merged_km: events that are closer than that may be one mark; 0 where only those at one place are.
    """

    sectors: pd.DataFrame
    merged_km: float

    @property
    def largest(self) -> int:
        """How many events the largest mark is."""
        return int(self.sectors["total"].max()) if len(self.sectors) else 0

    def __len__(self) -> int:
        return int(self.sectors["mark"].nunique())


def located(events: pa.Table) -> Located:
    """Where events are.

    Args:
        events: `event_root_code`, `action_geo_lat`, `action_geo_long`; with `action_geo_full_name` it is known which of them name
            no place that is closer than a state: `Place, State, Country`. Other columns are not looked at.
    """
    latitudes, longitudes = (events[name].to_numpy() for name in ("action_geo_lat", "action_geo_long"))
    given = np.isfinite(latitudes) & np.isfinite(longitudes)
    at_zero = given & (latitudes == 0) & (longitudes == 0)
    longitudes = np.where(given, longitudes, 0.0) % 360
    inside = {name: given & _within(edges, latitudes, longitudes) for name, edges in REGIONS.items()}
    on_map = np.logical_or.reduce(list(inside.values()))
    known = pc.index_in(events["event_root_code"], value_set=pa.array(ROOT_CLASSES))
    codes = pc.fill_null(known, len(ROOT_CLASSES)).to_numpy().astype(np.int64)
    unknown = pc.fill_null(events["event_root_code"].filter(pc.is_null(known)), "").value_counts().to_pylist()
    rows = {
        "code": codes,
        "group": CLASS_OF[codes],
        "latitude": latitudes,
        "longitude": longitudes,
        "on_map": on_map,
        "islands": inside[ISLANDS],
        "vague": _vague(events),
    }
    missing = {
        "without coordinates": int((~given).sum()),
        "at (0, 0)": int(at_zero.sum()),
        "outside of the map": int((given & ~at_zero & ~on_map).sum()),
    }
    return Located(pd.DataFrame(rows), missing, {pair["values"]: pair["counts"] for pair in unknown})


def marks(events: pd.DataFrame, *, most: int = MOST_MARKS) -> Marks:
    """The marks of some events that are on the map.

    Args:
        events: rows of `Located.drawn`.
        most: how many marks there may be, at least 8: places are rounded to a coarser and coarser grid until there are no more.
    """
    down, across, group, vague, islands = (
        events[name].to_numpy() for name in ("latitude", "longitude", "group", "vague", "islands")
    )
    grid = FINEST_DEGREES
    while True:
        # There are less than a million lines of a grid round the earth.
        cells = np.round(down / grid).astype(np.int64) * 1_000_000 + np.round(across * LONGITUDE / grid).astype(
            np.int64
        )
        _, first, mark = np.unique(cells * 2 + (vague > 0), return_index=True, return_inverse=True)
        if len(first) <= most:
            break
        grid = max(grid * COARSER, COARSE_DEGREES)
    totals = np.bincount(mark, minlength=len(first))
    # Whole numbers have one sum in whatever order they come.
    sums = (np.bincount(mark, weights=np.round(values * 10_000), minlength=len(first)) for values in (down, across))
    latitudes, longitudes = (np.round(of_all / totals / 10_000, 4) for of_all in sums)
    counts = np.bincount(mark * len(CLASS_NAMES) + group, minlength=len(first) * len(CLASS_NAMES)).reshape(
        -1, len(CLASS_NAMES)
    )
    ends = counts.cumsum(axis=1) * (2 * math.pi / totals[:, None])
    order = np.argsort(-totals, kind="stable")
    of, groups = np.nonzero(counts[order])
    of = order[of]
    sectors = {
        "mark": of,
        "group": groups,
        "count": counts[of, groups],
        "total": totals[of],
        "latitude": latitudes[of],
        "longitude": longitudes[of],
        "vague": vague[first][of] > 0,
        "islands": islands[first][of],
        "start": np.where(groups > 0, ends[of, groups - 1], 0.0),
        "end": ends[of, groups],
    }
    return Marks(pd.DataFrame(sectors), grid * KM_PER_DEGREE if grid > FINEST_DEGREES else 0.0)


def _within(
    edges: Sequence[tuple[float, float, float]], latitudes: Numbers, longitudes: Numbers
) -> npt.NDArray[np.bool_]:
    """Which places are in a region of REGIONS."""
    along, south, north = zip(*edges, strict=True)
    low, high = (np.interp(longitudes, along, bounds, left=np.inf, right=np.inf) for bounds in (south, north))
    return np.asarray((latitudes >= low) & (latitudes <= high) & (low < np.inf))


def _vague(events: pa.Table) -> npt.NDArray[np.int64]:
    if "action_geo_full_name" not in events.column_names:
        return np.zeros(events.num_rows, np.int64)
    names = events["action_geo_full_name"]
    parts = pc.if_else(pc.equal(names, ""), None, pc.count_substring(names, ","))
    return np.asarray(np.maximum(2 - pc.fill_null(parts, 2).to_numpy(), 0), dtype=np.int64)


def with_share(count: int, total: int) -> str:
    """A count and what share of all it is."""
    return f"{count:,} · {share(count / total)}"


def notes(found: Located, drawn: Marks, *, small_merged_km: float) -> list[str]:
    """What a reader must know of the maps, in paragraphs."""
    total, on_map = len(found.events), found.drawn
    if not total:
        return [EMPTY]
    texts = [f"On the map: {len(on_map):,} of {counted(total, 'event')}, in {counted(len(drawn), 'circle')}."]
    if total > len(on_map):
        missing = [f"{count:,} {why}" for why, count in found.missing.items() if count]
        texts.append(f"Not on the map: {listed(missing)}.")
    states, countries = (int((on_map["vague"] == level).sum()) for level in (1, 2))
    if states or countries:
        texts.append(
            f"Pale circles are in the middle of a state ({counted(states, 'event')}) or of the country "
            f"({countries:,}): the source names no closer place."
        )
    for which, km in (("Events", drawn.merged_km), ("In the small maps, events", small_merged_km)):
        if km:
            texts.append(f"{which} that are closer than about {km:,.0f} km may share a circle.")
    return texts


def description(found: Located, paragraphs: Sequence[str]) -> str:
    """The picture for who does not see it: the counts of all root codes that have any, and the notes."""
    codes = [
        f"{code or CLASS_NAMES[-1]} {found.code_name(code)} {count:,}"
        for code, count in zip(CODES, found.counts(), strict=True)
        if count
    ]
    classes = [f"{name} {count:,}" for name, count in zip(CLASS_NAMES, found.class_counts(), strict=True) if count]
    parts = [f"Events by class: {'; '.join(classes)}.", f"By root code: {'; '.join(codes)}."] if codes else []
    return " ".join([*parts, *paragraphs])

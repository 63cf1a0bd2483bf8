"""What the picture of events shows: events that are at one place as one mark, of an area that says how many they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.systems.events.cameo import ROOT_CLASSES
from etl_assets.systems.events.map.projection import FRAMES, PX_PER_KM, Numbers, placed

Places = npt.NDArray[np.int64]

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
CLASSES = len(QUAD_CLASSES) + 1
# Marks in one picture: beyond, neighbours become one.
MOST_MARKS = 700
FINEST_PX, COARSER = 0.1, 1.25


@dataclass(frozen=True)
class Located:
    """Events and where they are.

    Attributes:
        codes: place of each event's root code in CODES.
        x, y: in the picture, in pixels; NaN for an event that is not in it.
        frames: place of each event's frame in FRAMES; -1 for an event that is not in the picture.
        vague: of each event, 1 if it names no place that is closer than a state, 2 if none but the country, else 0.
        missing: how many are not in the picture, by reason.
        unknown: root codes that CAMEO does not know, with how many events they have; "" stands for none given.
    """

    codes: Places
    x: Numbers
    y: Numbers
    frames: Places
    vague: Places
    missing: Mapping[str, int]
    unknown: Mapping[str, int]

    @property
    def shown(self) -> npt.NDArray[np.bool_]:
        """Which events are in the picture."""
        return self.frames >= 0

    def counts(self, which: npt.NDArray[np.bool_] | None = None) -> Places:
        """How many events each of CODES has; of all, or of some."""
        return np.bincount(self.codes if which is None else self.codes[which], minlength=len(CODES))


@dataclass(frozen=True)
class Mark:
    """Events at one place.

    Attributes:
        x, y: their mean, in pixels.
        counts: how many there are, of each group.
        vague: whether the place is the middle of a state or of the country.
    """

    x: float
    y: float
    counts: tuple[int, ...]
    vague: bool

    @property
    def count(self) -> int:
        """How many events it is."""
        return sum(self.counts)


@dataclass(frozen=True)
class Marks:
    """The marks of a picture, the largest first: smaller ones are drawn upon it.

    Attributes:
        merged_px: events that are nearer than that may be one mark; 0 where only those at one place are.
    """

    marks: tuple[Mark, ...]
    merged_px: float

    @property
    def merged_km(self) -> float:
        """The same distance on the ground, in the largest frame."""
        return self.merged_px / PX_PER_KM

    @property
    def largest(self) -> int:
        """How many events the largest mark is."""
        return max((mark.count for mark in self.marks), default=0)


def located(events: pa.Table) -> Located:
    """Where events are.

    Args:
        events: `event_root_code`, `action_geo_lat`, `action_geo_long`; with `action_geo_full_name` it is known which of them name
            no place that is closer than a state: `Place, State, Country`. Other columns are not looked at.
    """
    latitudes, longitudes = (_degrees(events[name]) for name in ("action_geo_lat", "action_geo_long"))
    given = np.isfinite(latitudes) & np.isfinite(longitudes)
    nowhere = given & (latitudes == 0) & (longitudes == 0)
    x, y, frames = placed(np.where(given, latitudes, 0.0), np.where(given, longitudes, 0.0))
    missing = {
        "without coordinates": int((~given).sum()),
        "at (0, 0)": int(nowhere.sum()),
        "outside of the frames": int((given & ~nowhere & (frames < 0)).sum()),
    }
    known = pc.index_in(events["event_root_code"], value_set=pa.array(ROOT_CLASSES))
    codes = pc.fill_null(known, len(ROOT_CLASSES)).to_numpy().astype(np.int64)
    unknown = _unknown(events["event_root_code"].filter(pc.is_null(known)))
    return Located(codes, x, y, frames, _vague(events), missing, unknown)


def _degrees(column: pa.ChunkedArray) -> Numbers:
    return np.asarray(pc.fill_null(column.cast(pa.float64()), math.nan).to_numpy(), dtype=np.float64)


def _vague(events: pa.Table) -> Places:
    if "action_geo_full_name" not in events.column_names:
        return np.zeros(events.num_rows, np.int64)
    names = events["action_geo_full_name"]
    parts = pc.if_else(pc.equal(names, ""), None, pc.count_substring(names, ","))
    return np.asarray(np.maximum(2 - pc.fill_null(parts, 2).to_numpy(), 0), dtype=np.int64)


def _unknown(codes: pa.ChunkedArray) -> Mapping[str, int]:
    counts = {pair["values"]: pair["counts"] for pair in pc.fill_null(codes, "").value_counts().to_pylist()}
    return dict(sorted(counts.items()))


def marks(
    of: Located, which: npt.NDArray[np.bool_], groups: Places, *, number: int = CLASSES, most: int = MOST_MARKS
) -> Marks:
    """The marks of some of the events that are shown.

    Args:
        which: of the events, as a mask; those without a place are none of them.
        groups: of every event of `of`, 0 up to but without number.
        most: how many marks there may be, at least 8: places are rounded to a coarser and coarser grid until there are no more.
    """
    x, y, vague, group = of.x[which], of.y[which], of.vague[which] > 0, groups[which]
    # Neighbours in the picture that are in two frames are none on the ground.
    kind = of.frames[which] * 2 + vague
    kinds = 2 * len(FRAMES)
    grid = FINEST_PX
    while True:
        # A picture is less than a million grid lines wide.
        keys = (np.round(x / grid).astype(np.int64) * 1_000_000 + np.round(y / grid).astype(np.int64)) * kinds + kind
        found, cell = np.unique(keys, return_inverse=True)
        if len(found) <= most:
            break
        grid = max(grid * COARSER, 1.0)
    sizes = np.bincount(cell, minlength=len(found))
    # Whole numbers have one sum in whatever order they come.
    sums = (np.bincount(cell, weights=np.round(values * 1000), minlength=len(found)) for values in (x, y))
    across, down = (np.round(of_all / sizes / 1000, 1).tolist() for of_all in sums)
    counts = np.bincount(cell * number + group, minlength=len(found) * number).reshape(-1, number).tolist()
    drawn = [
        Mark(*place, tuple(of_place), bool(key % 2))
        for place, of_place, key in zip(zip(across, down, strict=True), counts, found.tolist(), strict=True)
    ]
    drawn.sort(key=lambda mark: -mark.count)
    return Marks(tuple(drawn), grid if grid > FINEST_PX else 0.0)

"""What the map of events says in words: what is on it, what is not, and how to read it."""

from collections.abc import Mapping, Sequence

import numpy as np

from etl_assets.core.charts.numbers import counted, listed, share
from etl_assets.core.charts.pages import printable
from etl_assets.systems.events.map.marks import CLASSES, CODES, QUAD_CLASSES, Located, Marks
from etl_assets.systems.events.transform import ROOT_CLASSES

EMPTY = "There are no events."
UNKNOWN_CLASS = "Not in CAMEO"
CLASS_NAMES = (*QUAD_CLASSES, UNKNOWN_CLASS)
SOURCE = (
    "Albers equal-area projections; Alaska, Hawaii and Puerto Rico with the Virgin Islands at scales of their own. "
    "Outline: U.S. Census Bureau."
)
NAMED_CODES, LONGEST_CODE = 3, 12


def class_counts(found: Located) -> list[int]:
    """How many events each quad class has, and last those whose root code CAMEO does not know."""
    return np.bincount(found.events["group"], minlength=CLASSES).tolist()


def code_name(code: str, found: Located) -> str:
    """A root code's name; for what CAMEO does not know, the codes."""
    return ROOT_CLASSES[code].capitalize() if code else _unknown(found.unknown)


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
        f"{code or UNKNOWN_CLASS} {code_name(code, found)} {count:,}"
        for code, count in zip(CODES, found.counts(), strict=True)
        if count
    ]
    classes = [f"{name} {count:,}" for name, count in zip(CLASS_NAMES, class_counts(found), strict=True) if count]
    parts = [f"Events by class: {'; '.join(classes)}.", f"By root code: {'; '.join(codes)}."] if codes else []
    return " ".join([*parts, *paragraphs])


def _unknown(codes: Mapping[str, int]) -> str:
    ordered = sorted(codes, key=lambda code: (-codes[code], code))
    return listed([printable(code)[:LONGEST_CODE] or "no code" for code in ordered], limit=NAMED_CODES) if codes else ""

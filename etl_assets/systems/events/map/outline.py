"""The outline of the United States as paths of SVG; `us_outline.json` says where it comes from and under which licence."""

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from etl_assets.systems.events.map.projection import FRAMES


@dataclass(frozen=True)
class Outline:
    """Land and the borders between states, as data of paths in pixels of the picture."""

    land: str
    borders: str


@functools.cache
def outline() -> Outline:
    """The outline in all frames; it is always the same, so it is made once."""
    lines = json.loads(Path(__file__).with_name("us_outline.json").read_text())
    return Outline("".join(f"{_path(ring)}z" for ring in lines["land"]), "".join(map(_path, lines["borders"])))


def _path(line: Sequence[float]) -> str:
    """A line, given as longitude and latitude in turn, in tenths of pixels; empty for one that is shorter than that."""
    longitudes, latitudes = np.array(line).reshape(-1, 2).T
    frame = next(frame for frame in FRAMES if frame.has(latitudes, longitudes).all())
    tenths = np.round(np.column_stack(frame.points(latitudes, longitudes)) * 10).astype(int)
    steps = np.diff(tenths, axis=0)
    steps = steps[steps.any(axis=1)]
    return f"M{_numbers(tenths[:1])}l{_numbers(steps)}" if len(steps) else ""


def _numbers(points: npt.NDArray[np.int_]) -> str:
    """Points as short as they can be written: no zero before the point, no blank before a sign."""
    texts = (f"{tenths / 10:g}" for tenths in points.ravel().tolist())
    return " ".join(text.replace("0.", ".") if text.lstrip("-").startswith("0.") else text for text in texts).replace(
        " -", "-"
    )

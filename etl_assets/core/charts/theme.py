"""The one theme of all pictures: colours, light or dark as their reader prefers, fonts and sizes.

Colours are named in `colours.css`, a system may name more in a file of its own. A chart is drawn in the light ones; style
rules then exchange each for its custom property (`[fill="#1b2226"] { fill: var(--ink) }`), in a page for all pictures
together, in a picture that stands alone within it. A viewer that knows no style rules shows the light colours.
"""

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COLOURS = Path(__file__).with_name("colours.css")
# Texts are measured in a font as wide as any of those that the style asks for, so nothing overlaps in a narrower one.
MEASURED_IN = "DejaVu Sans, Liberation Sans, sans-serif"
TEXT_SIZE = 11.5
# Instants on an axis, each as exactly as it needs: `altair.Axis(format=TIME_FORMAT)` on a scale of type "utc".
TIME_FORMAT = {
    "year": "%Y",
    "quarter": "%b %Y",
    "month": "%b %Y",
    "week": "%-d %b",
    "date": "%-d %b",
    "hours": "%H:%M",
    "minutes": "%H:%M",
    "seconds": "%H:%M:%S",
    "milliseconds": "%H:%M:%S.%L",
}


@dataclass(frozen=True)
class Palette:
    """Colours by their names: a chart takes `palette["ink"]`, a page or a picture has `palette.style` among its styles.

    Attributes:
        css: style whose rules for `:root` declare them as custom properties, first the light ones.
    """

    css: str

    def __getitem__(self, name: str) -> str:
        return self.light[name]

    @functools.cached_property
    def light(self) -> dict[str, str]:
        """The light colours, in which charts are drawn.

        Raises:
            ValueError: if two names have one colour, so that a picture in it could not be told which to follow.
        """
        found: dict[str, str] = {}
        for name, colour in re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6}|#[0-9a-f]{3})\b", self.css):
            found.setdefault(name, colour)
        if len(set(found.values())) < len(found):
            raise ValueError(f"two colours of the palette are the same: {found}")
        return found

    @property
    def style(self) -> str:
        """The declarations, and the rules by which pictures follow them."""
        rules = [
            f'[{what}="{colour}"] {{ {what}: var(--{name}); }}'
            for name, colour in self.light.items()
            for what in ("fill", "stroke")
        ]
        return "\n".join([self.css.strip(), *rules])


@functools.cache
def palette(*more: Path) -> Palette:
    """The colours that all have in common, and those that more style sheets declare."""
    return Palette("\n".join(path.read_text() for path in (COLOURS, *more)))


def config(colours: Palette) -> dict[str, Any]:
    """How charts look, as a Vega-Lite configuration."""
    text = {"labelFontSize": TEXT_SIZE, "titleFontSize": TEXT_SIZE, "titleFontWeight": "normal"}
    quiet, ink, faint = colours["quiet"], colours["ink"], colours["faint"]
    return {
        "font": MEASURED_IN,
        "background": None,
        "padding": 1,
        "aria": False,
        "view": {"stroke": None},
        "title": {
            "anchor": "start", "frame": "bounds", "fontSize": TEXT_SIZE, "fontWeight": "normal", "color": ink, "offset": 8,
        },
        "header": {**text, "labelColor": ink, "titleColor": ink, "labelAnchor": "start"},
        "axis": {
            **text, "labelColor": quiet, "titleColor": ink, "gridColor": faint, "domainColor": quiet, "tickColor": quiet,
            "tickSize": 4, "labelLimit": 0, "titleLimit": 0,
        },
        "axisX": {"grid": False, "labelFlush": True, "labelOverlap": "greedy", "labelSeparation": 8},
        "axisY": {"ticks": False, "domain": False, "labelPadding": 6},
        "legend": {**text, "labelColor": quiet, "titleColor": ink, "labelLimit": 0},
        "text": {"fontSize": TEXT_SIZE, "color": quiet},
        "line": {"color": colours["accent"], "strokeWidth": 1.3, "strokeCap": "round", "strokeJoin": "round"},
        "area": {"color": colours["accent"]},
        "circle": {"color": colours["accent"], "opacity": 1},
        "rule": {"color": colours["rule"]},
        "range": {"category": [colours["accent"], colours["series"], colours["good"], colours["warn"], colours["plain"]]},
    }  # fmt: skip

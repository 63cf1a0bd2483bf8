"""Pictures as SVG text: an Altair chart for a page, for a file of its own, and in two widths.

Nothing is fetched and no browser is needed. Altair and its engine are imported when the first picture is drawn (about a
second of CPU and 90 MB; each picture some 60 ms then), so whoever only imports this module does not pay for it.
"""

import base64
import html
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from etl_assets.core.charts.pages import printable
from etl_assets.core.charts.theme import Palette, config, palette

if TYPE_CHECKING:
    import altair as alt

# What a still picture has no use for: it is one image with one text, its parts are neither read out nor clicked.
SUPERFLUOUS = re.compile(
    r' (?:role|aria-\w+|pointer-events|font-family)="[^"]*"| opacity="1"|<path class="(?:fore|back)ground"[^>]* d="(?:M0,0h0v0h0Z)?"[^>]*/>'
)
IDENTIFIED = re.compile(r'(\bid="|url\(#|href="#)')


def svg(
    chart: "alt.TopLevelMixin | dict[str, Any]",
    *,
    name: str,
    title: str,
    description: str = "",
    data: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    colours: Palette | None = None,
) -> str:
    """A chart as an `<svg>` for a page whose style contains that of the palette.

    Args:
        chart: an Altair chart, or its Vega-Lite specification.
        name: of the picture, unique within its page; ids within the picture begin with it.
        title: what it shows.
        description: what can be seen in it, for who does not see it.
        data: rows of what the chart names as `altair.NamedData`. Rows that a chart carries itself, but for those of a data
            frame, are checked against Vega-Lite's schema one by one, which takes longer than drawing them.
        colours: those of the chart, if it has more than all have in common.
    """
    import vl_convert

    # Vega-Lite's schema is not checked at each picture: that takes as long as drawing it does.
    specification = chart if isinstance(chart, dict) else chart.to_dict(validate=False)
    if data:
        specification = {**specification, "datasets": data}
    drawn = vl_convert.vegalite_to_svg(
        _harmless(specification), config=config(colours or palette()), allowed_base_urls=[]
    )
    drawn = IDENTIFIED.sub(rf"\g<1>{name}-", SUPERFLUOUS.sub("", drawn))
    described = f'<desc id="{name}-words">{_escaped(description)}</desc>' if description else ""
    words = f'role="img" aria-labelledby="{name}-title{f" {name}-words" if description else ""}"'
    return re.sub(
        "<svg ([^>]*)>",
        lambda found: f'<svg {words} {found[1]}><title id="{name}-title">{_escaped(title)}</title>{described}',
        drawn,
        count=1,
    )


def standalone(picture: str, colours: Palette | None = None) -> str:
    """An `<svg>` as a file of its own: with the style that a page would have for it."""
    style = f"<style>{(colours or palette()).style}\ntext {{ font-family: var(--sans); }}</style>"
    return picture.replace("</title>", f"</title>{style}", 1)


def figure(wide: str, narrow: str | None = None, *, caption: str = "", kind: str = "") -> str:
    """Pictures as a `<figure>`; of two renderings the reader's window shows the one that fits it, by `style.css`.

    Args:
        wide: an `<svg>`.
        narrow: the same for windows of up to 640 px, under another name; without it the wide one shrinks with the window.
        caption: what a reader must know about the marks, as text.
        kind: class of the figure.
    """
    content = wide if narrow is None else f'<div class="wide">{wide}</div>\n<div class="narrow">{narrow}</div>'
    words = f"\n<figcaption>{_escaped(caption)}</figcaption>" if caption else ""
    return f'<figure class="{_escaped(kind)}">\n{content}{words}\n</figure>'


def in_markdown(picture: str, alternative: str) -> str:
    """A whole picture within Markdown, for `MetadataValue.md`; `alternative` is its text for who does not see it."""
    return f"![{alternative}](data:image/svg+xml;base64,{base64.b64encode(picture.encode()).decode()})"


def _harmless(value: Any) -> Any:
    """A specification whose texts are printable: at others the engine ends the process."""
    if isinstance(value, Mapping):
        return {_harmless(key): _harmless(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_harmless(item) for item in value]
    return printable(value) if isinstance(value, str) else value


def _escaped(text: str) -> str:
    return html.escape(printable(text))

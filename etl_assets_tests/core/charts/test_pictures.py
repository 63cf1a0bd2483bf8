"""Pictures: SVG that follows the page's colours, has words, and may stand with others in one page."""

import re
from pathlib import Path
from xml.etree import ElementTree

import altair as alt
import pandas as pd
import pytest

from etl_assets.core.charts.pages import template
from etl_assets.core.charts.pictures import figure, standalone, svg
from etl_assets.core.charts.theme import Palette, palette

SVG = "{http://www.w3.org/2000/svg}"


def line(label: str = "Output") -> alt.Chart:
    rows = pd.DataFrame({"x": [1, 2, 3], "y": [1.5, 4.0, 2.0]})
    chart: alt.Chart = alt.Chart(rows).mark_line(clip=True).encode(alt.X("x:Q"), alt.Y("y:Q").title(label))
    return chart


def test_a_picture_has_words_and_ids_of_its_own() -> None:
    pictures = [svg(line(), name=name, title="A <b> & c", description="1 > 0") for name in ("one", "two")]
    drawn = [ElementTree.fromstring(picture) for picture in pictures]
    one = drawn[0]
    assert (one.get("role"), one.get("aria-labelledby")) == ("img", "one-title one-words")
    assert (one.findtext(f"{SVG}title"), one.findtext(f"{SVG}desc")) == ("A <b> & c", "1 > 0")
    ids = [[element.get("id") for element in root.iter() if element.get("id")] for root in drawn]
    assert len(ids[0]) >= 3
    assert not set(ids[0]) & set(ids[1])
    clipped = {f"url(#{element.get('id')})" for element in one.iter(f"{SVG}clipPath")}
    assert {element.get("clip-path") for element in one.iter() if element.get("clip-path")} == clipped


def test_a_picture_is_drawn_in_colours_that_the_style_exchanges_for_the_readers() -> None:
    picture = svg(line(), name="one", title="Title")
    used = set(re.findall(r'(?:fill|stroke)="(#\w+)"', picture))
    assert used == {palette()[name] for name in ("accent", "ink", "quiet", "faint")}
    style = palette().style
    assert all(f'[fill="{colour}"] {{ fill: var(--' in style for colour in used)
    assert "prefers-color-scheme: dark" in style
    assert "prefers-color-scheme: dark" in standalone(picture)
    assert ElementTree.fromstring(standalone(picture)).findtext(f"{SVG}title") == "Title"


def test_a_system_may_have_colours_of_its_own_but_no_two_of_one_value(tmp_path: Path) -> None:
    (tmp_path / "more.css").write_text(":root { --river: #123456; }")
    more = palette(tmp_path / "more.css")
    assert (more["river"], more["ink"]) == ("#123456", palette()["ink"])
    assert '[stroke="#123456"] { stroke: var(--river); }' in more.style
    with pytest.raises(ValueError, match="the same"):
        Palette(":root { --one: #123456; --two: #123456; }").light  # noqa: B018


def test_a_name_that_no_picture_can_hold_is_replaced_before_the_engine_sees_it() -> None:
    picture = svg(line("a\x00\x1b\ud800<b>"), name="one", title="a\x00")
    texts = [element.text for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]
    assert "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}<b>" in texts


def test_a_picture_fetches_nothing() -> None:
    chart = alt.Chart(alt.UrlData("http://127.0.0.1:9/data.csv")).mark_point().encode(x="x:Q")
    with pytest.raises(ValueError, match="not allowed"):
        svg(chart, name="one", title="Title")


def test_a_figure_has_one_picture_or_two_of_which_the_style_chooses(tmp_path: Path) -> None:
    (tmp_path / "page.j2").write_text('{% include "style.css" %}')
    assert "figure .narrow { display: none; }" in template(tmp_path / "page.j2").render()
    both = figure("<svg>w</svg>", "<svg>n</svg>", caption="1 < 2", kind="day")
    assert both == (
        '<figure class="day">\n<div class="wide"><svg>w</svg></div>\n<div class="narrow"><svg>n</svg></div>\n'
        "<figcaption>1 &lt; 2</figcaption>\n</figure>"
    )
    assert figure("<svg>w</svg>") == '<figure class="">\n<svg>w</svg>\n</figure>'

"""The page of a day: what it draws, says and writes, from bins that are written out."""

import base64
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from etl_assets.core.charts.pictures import in_markdown
from etl_assets.errors import PermanentError
from etl_assets.systems.turbines.contracts import FLAGS, SIGNALS
from etl_assets.systems.turbines.page import ALTERNATIVE, MISSING, Chart, chart_of, day_series, write_page
from etl_assets.systems.turbines.simulator import SIGNALS as SIMULATED
from etl_assets.systems.turbines.statistics import OUTPUT, summary
from etl_assets_tests.outline import Outline
from etl_assets_tests.systems.turbines.minute_tables import at
from etl_assets_tests.systems.turbines.simulated_bins import simulated_bins

DAY = date(2024, 5, 20)
MADE = datetime(2024, 5, 21, 6, 30, tzinfo=UTC)
SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = [
    "<script>alert(1)</script>", '"><svg onload="alert(1)">', "](javascript:alert(1))", "../../etc/passwd", "a\x00b\x1f\x7f", "{{ 7 * 7 }}",
    "\N{RIGHT-TO-LEFT OVERRIDE}1T", "x" * 300, "]]>", "&amp;", "風車 1",
]  # fmt: skip


def bin_(place: int, mean: float | None, *, of: str = "wind_speed", turbine: str = "", **other: Any) -> dict[str, Any]:
    """A bin by its place in the day; unless said otherwise all of its ten samples are the mean."""
    usual = {"min": mean, "max": mean, "std": 0.0, "n": 10, "coverage": 1.0, "flags": ""}
    return {"timestamp": at(10 * place), "turbine": turbine, "source_signal": of, "mean": mean, **usual, **other}


def table(*bins: Mapping[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(bins), schema=OUTPUT)


def chart(*bins: Mapping[str, Any]) -> Chart:
    """The chart of the one signal that these are bins of."""
    return chart_of(bins[0]["source_signal"], day_series(table(*bins).to_pandas()))


OF_BANDS = {"range": 0.22, "deviation": 0.45, "coverage": 0.5}


def layer(drawn: Chart, kind: str) -> dict[str, Any] | None:
    """A layer of the drawing: a band by its opacity, else by its mark; none if there is none."""
    for one in drawn.spec["layer"]:
        if kind in (one["mark"]["type"], one["mark"].get("shape")) or one["mark"].get("fillOpacity") == OF_BANDS.get(
            kind, -1
        ):
            found: dict[str, Any] = one
            return found
    return None


def rows(drawn: Chart, kind: str) -> list[dict[str, Any]]:
    """The points of a layer, by its stretches."""
    return (layer(drawn, kind) or {"data": {"values": []}})["data"]["values"]  # type: ignore[no-any-return]


def stretches(drawn: Chart, kind: str) -> list[list[dict[str, Any]]]:
    return [list(points) for _, points in itertools.groupby(rows(drawn, kind), key=lambda row: row["run"])]


def covered(drawn: Chart, kind: str) -> list[tuple[int, int]]:
    """From where to where each stretch of a layer goes, in bins."""
    return [(round(points[0]["x"] * 6), round(points[-1]["x"] * 6)) for points in stretches(drawn, kind)]


def heights(drawn: Chart, kind: str) -> set[tuple[float, float]]:
    return {(row["low"], row["high"]) for row in rows(drawn, kind)}


def lanes(drawn: Chart) -> list[tuple[str, list[tuple[int, int]]]]:
    """What is marked, in order of the lanes, and at which bins."""
    [marks] = [one for one in drawn.spec["layer"] if one["mark"].get("strokeWidth") == 9]
    points = marks["data"]["values"]
    ends = [(point["lane"], round(point["x"] * 6)) for point in points if point["x"] is not None]
    at: dict[str, list[tuple[int, int]]] = {name: [] for name in marks["encoding"]["y"]["scale"]["domain"]}
    for (name, begin), (_, end) in zip(ends[::2], ends[1::2], strict=True):
        at[name].append((begin, end))
    return list(at.items())


def domain(drawn: Chart) -> tuple[float, float]:
    """The ends of the axis of the values."""
    return (layer(drawn, "range") or {})["encoding"]["y"]["scale"]["domain"]  # type: ignore[no-any-return]


def labels(drawn: Chart) -> list[str]:
    """What is written at the axis of a drawing, from top to bottom."""
    texts = re.findall(
        r'text-anchor="end" transform="translate\(-6,([-\d.]+)\)"[^>]*>([^<]*)<', drawn.svg("one", "Turbine")
    )
    return [text for y, text in sorted((float(y), text) for y, text in texts)]


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts without their drawings, for what a page has beside them: the engine takes a tenth of a second for each."""
    empty = '<svg viewBox="0 0 374 180" role="img" aria-labelledby="{0}-t"><title id="{0}-t">{1}</title></svg>'
    monkeypatch.setattr(Chart, "svg", lambda chart, name, of: empty.format(name, of))


def page(bins: pa.Table, folder: Path, **other: Any) -> Outline:
    columns = other.pop("columns", ("wind_speed",))
    return Outline(write_page(folder, bins, day=DAY, columns=columns, generated_at=MADE, **other).html.read_text())


def words(outline: Outline) -> str:
    """All that is written on a page, a blank between any two elements."""
    return " ".join(" ".join(outline.words).split())


# Charts


def test_a_bin_is_drawn_from_its_begin_to_its_end_at_the_height_of_its_mean() -> None:
    drawn = chart(bin_(0, 4.0), bin_(6, 8.0), bin_(143, 6.0))
    assert covered(drawn, "line") == [(0, 1), (6, 7), (143, 144)]
    assert [points[0]["high"] for points in stretches(drawn, "line")] == [4.0, 8.0, 6.0]
    picture = drawn.svg("one", "Turbine")
    assert re.findall(r">(\d\d:00)<", picture) == ["00:00", "06:00", "12:00", "18:00", "24:00"]
    assert [text for text in labels(drawn) if text != "coverage"] == ["8", "7", "6", "5", "4", "missing"]


def test_bands_go_from_least_to_greatest_and_a_deviation_to_both_sides_of_the_mean() -> None:
    drawn = chart(bin_(5, 6.0, min=2.0, max=10.0, std=2.0))
    for kind, (low, high) in {"range": (2.0, 10.0), "deviation": (4.0, 8.0)}.items():
        assert heights(drawn, kind) == {(low, high)}
        assert covered(drawn, kind) == [(5, 6)]


def test_where_a_bin_is_missing_nothing_is_drawn_and_that_is_marked() -> None:
    there = [place for place in range(144) if not 30 <= place < 48 and place != 100]
    drawn = chart(*(bin_(place, 5.0 + place % 3, min=4.0, max=9.0, std=0.5) for place in there))
    for kind in ("range", "deviation", "line", "coverage"):
        assert covered(drawn, kind) == [(0, 30), (48, 100), (101, 144)], kind
    assert lanes(drawn) == [(MISSING, [(30, 48), (100, 101)])]
    assert drawn.when == [("missing", 19, "05:00–08:00 and 16:40–16:50")]


def test_a_bin_with_one_sample_has_a_mean_and_no_deviation() -> None:
    drawn = chart(bin_(0, 5.0, std=1.0, min=4.0, max=6.0), bin_(1, 5.5, std=None, n=1, coverage=0.1, flags="gap"))
    assert covered(drawn, "line") == [(0, 2)]
    assert covered(drawn, "deviation") == [(0, 1)]
    assert drawn.caption == "2 of 144 bins, 1 to 10 samples in each."


def test_coverage_is_as_high_as_the_share_that_was_measured() -> None:
    drawn = chart(bin_(0, 5.0), bin_(1, 5.0, n=5, coverage=0.5, flags="gap;low_coverage"))
    assert [row["high"] for row in rows(drawn, "coverage")] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_has_its_name_below_the_chart_and_marks_at_its_bins(flag: str) -> None:
    drawn = chart(*(bin_(place, 5.0, flags=flag if place in (3, 4, 77) else "") for place in range(144)))
    name = flag.replace("_", " ")
    assert lanes(drawn) == [(name, [(3, 5), (77, 78)])]
    assert drawn.when == [(name, 3, "00:30–00:50 and 12:50–13:00")]
    assert f"{name.capitalize()}: 3 bins, 00:30–00:50 and 12:50–13:00." in drawn.description


def test_flags_of_one_bin_are_apart_and_in_their_order() -> None:
    drawn = chart(bin_(0, 5.0, flags=";".join(FLAGS)))
    names = [flag.replace("_", " ") for flag in (MISSING, *FLAGS)]
    assert [name for name, _ in lanes(drawn)] == names
    assert labels(drawn)[-len(names) :] == names


def test_a_hundred_stretches_are_named_in_part() -> None:
    drawn = chart(*(bin_(place, 5.0, flags="spike" if place % 2 else "") for place in range(144)))
    [(_, count, times)] = drawn.when
    assert count == 72
    assert times.startswith("00:10–00:20, 00:30–00:40, ")
    assert times.endswith(" and 60 more")


def test_a_value_out_of_range_does_not_flatten_the_day_and_is_named() -> None:
    wild = bin_(83, 15_000.0, of="power", max=65_535.0, std=27_000.0, flags="out_of_range")
    drawn = chart(*(bin_(place, 10.0 * place, of="power") for place in range(80)), wild)
    assert labels(drawn)[:5] == ["800", "600", "400", "200", "0"]
    assert [round(row["x"] * 6, 1) for row in rows(drawn, "triangle-up")] == [83.5], "in the middle of the bin"
    assert drawn.caption.endswith("Beyond the axis (▲): up to 65,535 kW.")
    low, high = domain(drawn)
    assert all(low <= row["high"] <= high for kind in ("range", "line") for row in rows(drawn, kind))


def test_a_day_out_of_range_altogether_is_drawn_as_it_is() -> None:
    drawn = chart(*(bin_(place, -99.9, of="ambient_temperature", flags="out_of_range") for place in range(144)))
    low, high = domain(drawn)
    assert low < -99.9 < high
    assert layer(drawn, "point") is None


@pytest.mark.parametrize(
    "values", [(0.0, 0.0), (1e300, 2e300), (-1.7e308, 1.7e308), (5e-324, 1e-323), (1e9, 1e9 + 1e-6)]
)
def test_values_of_any_size_stay_on_the_chart(values: tuple[float, float]) -> None:
    low, high = values
    drawn = chart(
        bin_(0, low, of="odd", min=low, max=high, std=None), bin_(1, high, of="odd", min=low, max=high, std=1e308)
    )
    assert len(rows(drawn, "line")) == 3
    picture = drawn.svg("one", "Turbine")
    assert not re.search("NaN|Infinity", picture)
    assert 3 <= len(labels(drawn)) <= 12
    assert max(map(len, labels(drawn))) < 16


# Wind direction


def test_wind_from_either_side_of_north_is_one_band_across_it() -> None:
    means = [355.0, 5.0] * 72
    bins = [
        bin_(place, mean, of="wind_direction", min=(mean - 10) % 360, max=(mean + 10) % 360, std=3.0)
        for place, mean in enumerate(means)
    ]
    drawn = chart(*bins)
    assert labels(drawn)[:3] == ["10°", "N 0°", "350°"]
    assert {row["high"] % 360 for row in rows(drawn, "line")} == {355.0, 5.0}
    assert covered(drawn, "line") == covered(drawn, "range") == [(0, 144)]
    low, high = domain(drawn)
    assert high - low == pytest.approx(33)
    assert {round(high - low) for low, high in heights(drawn, "range")} == {20}


def test_wind_from_all_round_breaks_the_line_instead_of_crossing_the_chart() -> None:
    means = [(place * 7.5) % 360 for place in range(144)]
    drawn = chart(
        *(
            bin_(place, mean, of="wind_direction", min=(mean - 20) % 360, max=(mean + 20) % 360, std=8.0)
            for place, mean in enumerate(means)
        )
    )
    assert [text.split()[0] for text in labels(drawn)].count("N") == 1
    line = stretches(drawn, "line")
    assert 3 <= len(line) <= 4
    assert max(abs(a["high"] - b["high"]) for points in line for a, b in itertools.pairwise(points)) < 10
    low, high = domain(drawn)
    assert high - low == 360
    band = rows(drawn, "range")
    assert (min(row["low"] for row in band), max(row["high"] for row in band)) == (low, high)
    assert max(row["high"] - row["low"] for row in band) <= 40
    assert sum(end - begin for begin, end in covered(drawn, "range")) > 144, "both ends of what crosses the edge"


def test_a_bin_whose_directions_cancel_out_has_no_mean_and_its_coverage() -> None:
    calm = bin_(1, None, of="wind_direction", std=103.9)
    drawn = chart(bin_(0, 90.0, of="wind_direction", min=88.0, max=91.0), calm)
    assert covered(drawn, "line") == covered(drawn, "range") == [(0, 1)]
    assert covered(drawn, "coverage") == [(0, 2)]
    alone = chart(calm)
    assert "nothing to draw" in alone.svg("one", "Turbine")
    assert alone.caption == "1 of 144 bins, 10 samples in each. None has a mean that can be drawn."


def test_a_mean_that_rounding_put_beyond_an_end_of_its_range_is_not_all_round() -> None:
    beyond = bin_(0, 80.0, of="wind_direction", min=80.00000000000001, max=84.0)
    drawn = chart(beyond, bin_(1, 60.0, of="wind_direction", min=50.0, max=70.0))
    assert labels(drawn)[:4] == ["80°", "70°", "60°", "50°"]
    low, high = domain(chart(beyond))
    assert high - low < 8


def test_one_direction_all_day_is_in_the_middle() -> None:
    drawn = chart(*(bin_(place, 0.0, of="wind_direction") for place in range(144)))
    assert sum(domain(drawn)) / 2 % 360 == pytest.approx(0)


# The page


def test_the_page_shows_a_chart_per_turbine_and_signal_with_unit_and_tag(undrawn: None, tmp_path: Path) -> None:
    bins = table(*(bin_(0, 5.0, of=signal, turbine=turbine) for signal in SIGNALS for turbine in ("T02", "T01")))
    outline = page(bins, tmp_path, columns=tuple(SIGNALS))
    assert outline.count("figure") == 8
    for name, signal in SIGNALS.items():
        assert f"{signal.meaning} {name} · {signal.unit} · {signal.tag} " in words(outline)
    assert words(outline).index("Turbine T01") < words(outline).index("Turbine T02")
    assert "20 May 2024, UTC Made 21 May 2024, 06:30 UTC Turbines 2 Signals wind_speed, power," in words(outline)
    assert "8 of 1,152 bins have values; 1,144 are missing, none carries a flag." in words(outline)


def test_a_signal_that_nobody_knows_has_its_name_and_no_unit(undrawn: None, tmp_path: Path) -> None:
    outline = page(table(bin_(0, 5.0, of="rotor_mood")), tmp_path, columns=("rotor_mood",))
    assert " rotor_mood · " not in words(outline)
    assert outline.count("figure") == 1
    assert "10 samples in each." in words(outline)


def test_the_tables_have_the_counts_of_the_summary(undrawn: None, tmp_path: Path) -> None:
    bins = simulated_bins(["T06", "T07"])
    outline = page(bins, tmp_path, columns=SIMULATED)
    for turbine in ("T06", "T07"):
        counts = summary(
            bins.filter(pc.equal(bins["turbine"], turbine)), columns=SIMULATED, turbines=[turbine], days=[DAY]
        )
        section = words(outline)[words(outline).index(f"{turbine} signal bins missing gap duplicate out of range") :]
        for name in SIMULATED:
            assert f"{name} {' '.join(str(count) for count in counts[name].values())} " in section
    assert "Turbine T06 576 " in words(outline)


def test_all_flags_are_explained(undrawn: None, tmp_path: Path) -> None:
    html = write_page(
        tmp_path, table(bin_(0, 5.0)), day=DAY, columns=("wind_speed",), generated_at=MADE
    ).html.read_text()
    explained = re.findall("<dt>([^<]+)</dt><dd>[A-Z][^<]+[.]</dd>", html)
    assert explained == [name.replace("_", " ") for name in (MISSING, *FLAGS)]
    outline = Outline(html)
    assert "Less than 67 % of the ten minutes" in words(outline)


def test_the_page_is_whole_html_without_script_or_anything_to_fetch(tmp_path: Path) -> None:
    bins = simulated_bins(["T04"])
    html = write_page(tmp_path, bins, day=DAY, columns=SIMULATED, generated_at=MADE).html.read_text()
    outline = Outline(html)
    assert outline.count("script") == outline.count("img") == outline.count("iframe") == 0
    assert [given["href"] for tag, given in outline.tags if tag == "link"] == ["data:,"]
    assert not re.search(r"https?:|url\(|@import", html.replace("http://www.w3.org", ""))
    ids = [given["id"] for _, given in outline.tags if given.get("id")]
    assert len(ids) == len(set(ids))
    for _, given in outline.tags:
        referred = (given.get("aria-labelledby") or "").split()
        referred += [(given.get("href") or "")[1:]] if (given.get("href") or "").startswith("#") else []
        assert set(referred) <= set(ids)
    assert all(
        given.get("role") == "img" and (given.get("aria-labelledby") or given.get("aria-label"))
        for tag, given in outline.tags
        if tag == "svg"
    )


@pytest.mark.long
def test_ten_turbines_of_four_signals_are_less_than_a_megabyte_and_each_picture_less_than_sixty_kilobytes(
    tmp_path: Path,
) -> None:
    turbines = [f"T{number:02d}" for number in range(1, 11)]
    files = write_page(tmp_path, simulated_bins(turbines), day=DAY, columns=SIMULATED, generated_at=MADE)
    assert list(files.svg) == turbines
    assert 200_000 < files.html.stat().st_size < 1_000_000
    assert all(10_000 < path.stat().st_size < 60_000 for path in files.svg.values())


def test_a_day_without_bins_says_so(tmp_path: Path) -> None:
    for bins in (table(), table(bin_(-1, 5.0), bin_(144, 5.0)), table(bin_(0, 5.0, of="power"))):
        outline = page(bins, tmp_path)
        assert "No bin of this day has a value: the source had nothing to say about it" in words(outline)
        assert outline.count("svg") == 0


def test_a_turbine_and_a_signal_without_bins_are_on_the_page(tmp_path: Path) -> None:
    outline = page(
        table(bin_(0, 5.0, turbine="T01")), tmp_path, columns=("wind_speed", "power"), turbines=("T01", "T02")
    )
    assert "Turbine T02 0 288 0 0 0 0 0 0" in words(outline)
    assert "power 0 144 0 0 0 0 0 0 No bin of this day has a value." in words(outline)
    assert outline.count("figure") == 2
    assert "nothing to draw" in words(outline)
    assert "No bin has a value. Missing: 144 bins, 00:00–24:00." in words(outline)


def test_a_source_that_knows_no_turbine_has_the_turbine(undrawn: None, tmp_path: Path) -> None:
    files = write_page(tmp_path, table(bin_(0, 5.0)), day=DAY, columns=("wind_speed",), generated_at=MADE)
    assert files.svg == {"": tmp_path / "2024-05-20" / "turbine.svg"}
    assert files.html == tmp_path / "2024-05-20" / "day.html"
    assert "The turbine signal bins" in words(Outline(files.html.read_text()))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_outside_is_text_and_nothing_else(name: str, tmp_path: Path) -> None:
    bins = table(bin_(0, 5.0, of=name, turbine=name))
    files = write_page(tmp_path / "pages", bins, day=DAY, columns=(name,), generated_at=MADE)
    html = files.html.read_text()
    outline = Outline(html)
    assert outline.count("script") == 0
    assert not any(key.startswith("on") for _, given in outline.tags for key in given)
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", html)
    assert name in words(outline) or not re.fullmatch(r"[ -~\w]+", name)
    assert {path.parent for path in tmp_path.rglob("*.*") if path.is_file()} == {tmp_path / "pages" / "2024-05-20"}
    picture = ET.fromstring(files.svg[name].read_text())
    assert {element.tag for element in picture.iter()} <= {
        SVG + tag for tag in ("svg", "title", "desc", "style", "rect", "text", "tspan", "path", "g", "line")
    }


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    bins = simulated_bins(["T07"])
    shuffled = bins.take(np.random.default_rng(5).permutation(bins.num_rows))
    one, other = (
        write_page(tmp_path / name, rows, day=DAY, columns=("power", "wind_direction"), generated_at=MADE)
        for name, rows in (("one", bins), ("other", shuffled))
    )
    assert one.html.read_bytes() == other.html.read_bytes()
    assert [path.read_bytes() for path in one.svg.values()] == [path.read_bytes() for path in other.svg.values()]


# The picture


def picture(bins: pa.Table, folder: Path, *, turbine: str, columns: Sequence[str]) -> str:
    """The picture of a turbine's day."""
    files = write_page(folder, bins, day=DAY, columns=columns, turbines=(turbine,), generated_at=MADE)
    return files.svg[turbine].read_text()


def test_the_picture_has_a_chart_per_signal_in_the_order_asked_for_and_its_words(tmp_path: Path) -> None:
    bins = table(*(bin_(0, 5.0, of=name, turbine="T01", flags="gap") for name in SIGNALS))
    columns = ("power", "wind_speed", "ambient_temperature")
    drawn = ET.fromstring(picture(bins, tmp_path, turbine="T01", columns=columns))
    words = ["".join(text.itertext()).split() for text in drawn.iter(f"{SVG}text")]
    titles = [" ".join(word) for word in words if word[-1] in {signal.tag for signal in SIGNALS.values()}]
    assert titles == [f"{SIGNALS[name].meaning} {SIGNALS[name].tag}" for name in columns]
    assert words.count(["gap"]) == 3
    assert drawn.findtext(f"{SVG}title") == "Turbine T01, 20 May 2024, UTC"
    assert "Gap: 1 bin, 00:00–00:10." in (drawn.findtext(f"{SVG}desc") or "")
    assert float(drawn.get("height", 0)) == float(drawn.get("viewBox", "").split()[3])


def test_the_picture_of_nothing_says_so(tmp_path: Path) -> None:
    drawn = ET.fromstring(picture(table(), tmp_path, turbine="T01", columns=("power",)))
    assert "No bin of this day has a value." in "".join(drawn.itertext())


@pytest.mark.long
def test_the_wildest_day_is_a_small_picture_too(tmp_path: Path) -> None:
    random = np.random.default_rng(3)

    def wild(name: str) -> list[dict[str, Any]]:
        low, mean, high = np.sort(random.uniform(0, 300, (144, 3)), axis=1).T
        flags = [";".join(FLAGS) if place % 2 else "" for place in range(144)]
        return [
            bin_(i, mean[i], of=name, min=low[i], max=high[i], std=random.uniform(1, 60), flags=flags[i])
            for i in range(144)
        ]

    bins = table(*(row for name in SIGNALS for row in wild(name)))
    assert len(picture(bins, tmp_path, turbine="", columns=tuple(SIGNALS)).encode()) < 65_000


def test_markdown_holds_the_whole_picture() -> None:
    svg = '<svg xmlns="http://www.w3.org/2000/svg"><text>é</text></svg>'
    found = re.fullmatch(
        r"!\[Ten-minute statistics of the day\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", in_markdown(svg, ALTERNATIVE)
    )
    assert found
    assert base64.b64decode(found[1]).decode() == svg


# Files


def test_files_are_written_aside_and_renamed_the_page_last(
    undrawn: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renamed: list[tuple[str, bool]] = []
    rename = Path.replace

    def watched(self: Path, target: Path) -> Path:
        renamed.append((target.name, target.exists()))
        assert self.parent == target.parent and self.name.endswith(".tmp")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    page(table(bin_(0, 5.0, turbine="T01"), bin_(0, 5.0, turbine="T02")), tmp_path)
    assert renamed == [("T01.svg", False), ("T02.svg", False), ("day.html", False)]
    assert sorted(path.name for path in (tmp_path / "2024-05-20").iterdir()) == ["T01.svg", "T02.svg", "day.html"]


def test_a_page_that_cannot_be_written_is_a_clear_failure_and_leaves_nothing_behind(
    undrawn: None, tmp_path: Path
) -> None:
    (tmp_path / "2024-05-20" / "day.html").mkdir(parents=True)
    with pytest.raises(PermanentError, match=re.escape(f"cannot write {tmp_path / '2024-05-20' / 'day.html'} (")):
        page(table(bin_(0, 5.0)), tmp_path)
    assert sorted(path.name for path in (tmp_path / "2024-05-20").iterdir()) == ["day.html", "turbine.svg"]


def test_days_have_folders_of_their_own(tmp_path: Path) -> None:
    days: Sequence[date] = (DAY, DAY + timedelta(days=1))
    bins = table(bin_(0, 4.0), bin_(144, 8.0))
    written = [write_page(tmp_path, bins, day=day, columns=("wind_speed",), generated_at=MADE) for day in days]
    assert [files.html.parent.name for files in written] == ["2024-05-20", "2024-05-21"]
    texts = [words(Outline(files.html.read_text())) for files in written]
    assert ["Means of ten minutes from 4 m/s to 4 m/s" in text for text in texts] == [True, False]

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

from etl_assets.errors import PermanentError
from etl_assets.systems.turbines.contracts import FLAGS, SIGNALS
from etl_assets.systems.turbines.page import charts as page_charts
from etl_assets.systems.turbines.page.charts import BIN, BOTTOM, LEFT, RIGHT, TOP, Chart, chart_of
from etl_assets.systems.turbines.page.files import MEANINGS, write_page
from etl_assets.systems.turbines.page.series import MISSING, rows_of_day, series_of
from etl_assets.systems.turbines.page.svg import as_markdown, day_svg
from etl_assets.systems.turbines.simulator.data import SIGNALS as SIMULATED
from etl_assets.systems.turbines.statistics import OUTPUT
from etl_assets.systems.turbines.statistics.quality import summary
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
    [((_, signal), series)] = series_of(rows_of_day(table(*bins), DAY)).items()
    return chart_of(signal, series)


def shape(drawn: Chart, kind: str) -> str:
    """How a shape goes; empty if there is none."""
    return next((one.d for one in drawn.shapes if one.kind == kind), "")


def corners(d: str) -> list[list[tuple[float, float]]]:
    """The points that a path goes through, by its pieces."""
    pieces: list[list[tuple[float, float]]] = []
    x = y = 0.0
    for command, numbers in re.findall(r"([MmVhlvz])([-\d. e]*)", d):
        values = [float(number) for number in numbers.split()]
        if command in "Mm":
            x, y = values if command == "M" else (x + values[0], y + values[1])
            pieces.append([])
        elif command == "V":
            y = values[0]
        elif command == "h":
            x += values[0]
        elif command == "l":
            x, y = x + values[0], y + values[1]
        pieces[-1].append((round(x, 1), round(y, 1)))
    return [piece for piece in pieces if len(piece) > 1]


def covered(d: str) -> list[tuple[float, float]]:
    """From where to where each piece of a path goes, in bins."""
    xs = [[(x - LEFT) / BIN for x, _ in piece] for piece in corners(d)]
    return [(round(min(x), 1), round(max(x), 1)) for x in xs]


def height_of(drawn: Chart, label: str) -> float:
    """Where a value is that the axis names."""
    return next(tick.at for tick in drawn.ticks if tick.label == label)


def heights(d: str) -> list[float]:
    """The heights of a path that is one piece."""
    [piece] = corners(d)
    return sorted({y for _, y in piece})


def page(bins: pa.Table, folder: Path, **other: Any) -> Outline:
    columns = other.pop("columns", ("wind_speed",))
    return Outline(write_page(folder, bins, day=DAY, columns=columns, generated_at=MADE, **other).html.read_text())


def words(outline: Outline) -> str:
    """All that is written on a page, a blank between any two elements."""
    return " ".join(" ".join(outline.words).split())


# Charts


def test_a_bin_is_drawn_from_its_begin_to_its_end_at_the_height_of_its_mean() -> None:
    drawn = chart(bin_(0, 4.0), bin_(6, 8.0), bin_(143, 6.0))
    mean = corners(shape(drawn, "mean"))
    assert covered(shape(drawn, "mean")) == [(0, 1), (6, 7), (143, 144)]
    assert [piece[-1][1] for piece in mean] == pytest.approx([height_of(drawn, label) for label in "486"], abs=0.06)
    assert mean[-1][-1][0] == RIGHT
    assert [(tick.label, tick.at) for tick in drawn.hours][::2] == [
        ("00:00", LEFT), ("12:00", (LEFT + RIGHT) / 2), ("24:00", RIGHT),
    ]  # fmt: skip


def test_bands_go_from_least_to_greatest_and_a_deviation_to_both_sides_of_the_mean() -> None:
    drawn = chart(bin_(5, 6.0, min=2.0, max=10.0, std=2.0))
    expected = {"range": ("2", "10"), "deviation": ("4", "8")}
    for kind, (low, high) in expected.items():
        assert heights(shape(drawn, kind)) == pytest.approx([height_of(drawn, high), height_of(drawn, low)], abs=0.06)
        assert covered(shape(drawn, kind)) == [(5, 6)]


def test_where_a_bin_is_missing_nothing_is_drawn_and_that_is_marked() -> None:
    there = [place for place in range(144) if not 30 <= place < 48 and place != 100]
    drawn = chart(*(bin_(place, 5.0 + place % 3, min=4.0, max=9.0, std=0.5) for place in there))
    for kind in ("range", "deviation", "mean", "coverage"):
        assert covered(shape(drawn, kind)) == [(0, 30), (48, 100), (101, 144)], kind
    [lane] = drawn.lanes
    assert (lane.name, covered(lane.d)) == (MISSING, [(30, 48), (100, 101)])
    assert drawn.when == [("missing", 19, "05:00–08:00 and 16:40–16:50")]


def test_a_bin_with_one_sample_has_a_mean_and_no_deviation() -> None:
    drawn = chart(bin_(0, 5.0, std=1.0, min=4.0, max=6.0), bin_(1, 5.5, std=None, n=1, coverage=0.1, flags="gap"))
    assert covered(shape(drawn, "mean")) == [(0, 2)]
    assert covered(shape(drawn, "deviation")) == [(0, 1)]
    assert drawn.caption == "2 of 144 bins, 1 to 10 samples in each."


def test_coverage_is_as_high_as_the_share_that_was_measured() -> None:
    drawn = chart(bin_(0, 5.0), bin_(1, 5.0, n=5, coverage=0.5, flags="gap;low_coverage"))
    top, bottom = page_charts.COVERAGE_TOP, page_charts.COVERAGE_BOTTOM
    assert heights(shape(drawn, "coverage")) == [top, (top + bottom) / 2, bottom]


@pytest.mark.parametrize("flag", FLAGS)
def test_each_flag_has_its_name_below_the_chart_and_marks_at_its_bins(flag: str) -> None:
    drawn = chart(*(bin_(place, 5.0, flags=flag if place in (3, 4, 77) else "") for place in range(144)))
    [lane] = drawn.lanes
    assert (lane.kind, lane.name, covered(lane.d)) == (flag, flag.replace("_", " "), [(3, 5), (77, 78)])
    assert drawn.when == [(lane.name, 3, "00:30–00:50 and 12:50–13:00")]
    assert f"{lane.name.capitalize()}: 3 bins, 00:30–00:50 and 12:50–13:00." in drawn.description


def test_flags_of_one_bin_are_apart_and_in_their_order() -> None:
    drawn = chart(bin_(0, 5.0, flags=";".join(FLAGS)))
    assert [lane.kind for lane in drawn.lanes] == [MISSING, *FLAGS]
    assert np.diff([lane.y for lane in drawn.lanes]).min() >= 16
    assert drawn.height > drawn.lanes[-1].y + 16


def test_a_hundred_stretches_are_named_in_part() -> None:
    drawn = chart(*(bin_(place, 5.0, flags="spike" if place % 2 else "") for place in range(144)))
    [(_, count, times)] = drawn.when
    assert count == 72
    assert times.startswith("00:10–00:20, 00:30–00:40, ")
    assert times.endswith(" and 60 more")


def test_a_value_out_of_range_does_not_flatten_the_day_and_is_named() -> None:
    wild = bin_(83, 15_000.0, of="power", max=65_535.0, std=27_000.0, flags="out_of_range")
    drawn = chart(*(bin_(place, 10.0 * place, of="power") for place in range(80)), wild)
    assert [tick.label for tick in drawn.ticks] == ["0", "200", "400", "600", "800"]
    assert covered(shape(drawn, "beyond")) == [(81.9, 85.1)], "a triangle in the middle of the bin"
    assert drawn.caption.endswith("Beyond the axis (▲): up to 65,535 kW.")
    assert all(
        TOP <= y <= BOTTOM for one in ("range", "mean") for piece in corners(shape(drawn, one)) for _, y in piece
    )


def test_a_day_out_of_range_altogether_is_drawn_as_it_is() -> None:
    drawn = chart(*(bin_(place, -99.9, of="ambient_temperature", flags="out_of_range") for place in range(144)))
    assert [tick.label for tick in drawn.ticks] == ["−99.9"]
    assert shape(drawn, "beyond") == ""


@pytest.mark.parametrize(
    "values", [(0.0, 0.0), (1e300, 2e300), (-1.7e308, 1.7e308), (5e-324, 1e-323), (1e9, 1e9 + 1e-6)]
)
def test_values_of_any_size_stay_on_the_chart(values: tuple[float, float]) -> None:
    low, high = values
    drawn = chart(
        bin_(0, low, of="odd", min=low, max=high, std=None), bin_(1, high, of="odd", min=low, max=high, std=1e308)
    )
    for one in drawn.shapes:
        assert all(LEFT <= x <= RIGHT for piece in corners(one.d) for x, _ in piece)
        assert not re.search("nan|inf", one.d)
    assert 1 <= len(drawn.ticks) <= 6


# Wind direction


def test_wind_from_either_side_of_north_is_one_band_across_it() -> None:
    means = [355.0, 5.0] * 72
    bins = [
        bin_(place, mean, of="wind_direction", min=(mean - 10) % 360, max=(mean + 10) % 360, std=3.0)
        for place, mean in enumerate(means)
    ]
    drawn = chart(*bins)
    assert [tick.label for tick in drawn.ticks] == ["350°", "N 0°", "10°"]
    [line] = corners(shape(drawn, "mean"))
    north = height_of(drawn, "N 0°")
    assert line[1][1] - north == pytest.approx(north - line[3][1], abs=0.11)
    assert covered(shape(drawn, "range")) == [(0, 144)]
    low, high = (height_of(drawn, label) for label in ("350°", "10°"))
    assert heights(shape(drawn, "range"))[-1] == pytest.approx(low + (low - high) / 4, abs=0.11), "5° below 350°"


def test_wind_from_all_round_breaks_the_line_instead_of_crossing_the_chart() -> None:
    means = [(place * 7.5) % 360 for place in range(144)]
    drawn = chart(
        *(
            bin_(place, mean, of="wind_direction", min=(mean - 20) % 360, max=(mean + 20) % 360, std=8.0)
            for place, mean in enumerate(means)
        )
    )
    assert [tick.label.split()[0] for tick in drawn.ticks].count("N") == 1
    line = corners(shape(drawn, "mean"))
    assert 3 <= len(line) <= 4
    assert max(abs(a[1] - b[1]) for piece in line for a, b in itertools.pairwise(piece)) < 5
    band = corners(shape(drawn, "range"))
    assert {min(y for piece in band for _, y in piece), max(y for piece in band for _, y in piece)} == {TOP, BOTTOM}
    assert max(abs(a[1] - b[1]) for piece in band for a, b in itertools.pairwise(piece)) < (BOTTOM - TOP) / 2
    assert sum(end - begin for begin, end in covered(shape(drawn, "range"))) > 144, "both ends of what crosses the edge"


def test_a_bin_whose_directions_cancel_out_has_no_mean_and_its_coverage() -> None:
    calm = bin_(1, None, of="wind_direction", std=103.9)
    drawn = chart(bin_(0, 90.0, of="wind_direction", min=88.0, max=91.0), calm)
    assert covered(shape(drawn, "mean")) == covered(shape(drawn, "range")) == [(0, 1)]
    assert covered(shape(drawn, "coverage")) == [(0, 2)]
    alone = chart(calm)
    assert (alone.ticks, alone.caption) == ((), "1 of 144 bins, 10 samples in each. None has a mean that can be drawn.")


def test_a_mean_that_rounding_put_beyond_an_end_of_its_range_is_not_all_round() -> None:
    beyond = bin_(0, 80.0, of="wind_direction", min=80.00000000000001, max=84.0)
    drawn = chart(beyond, bin_(1, 60.0, of="wind_direction", min=50.0, max=70.0))
    assert [tick.label for tick in drawn.ticks] == ["50°", "60°", "70°", "80°"]
    top, bottom = heights(shape(chart(beyond), "range"))
    assert bottom - top > (BOTTOM - TOP) / 2


def test_one_direction_all_day_is_in_the_middle() -> None:
    drawn = chart(*(bin_(place, 0.0, of="wind_direction") for place in range(144)))
    assert height_of(drawn, "N 0°") == pytest.approx((TOP + BOTTOM) / 2)


# The page


def test_the_page_shows_a_chart_per_turbine_and_signal_with_unit_and_tag(tmp_path: Path) -> None:
    bins = table(*(bin_(0, 5.0, of=signal, turbine=turbine) for signal in SIGNALS for turbine in ("T02", "T01")))
    outline = page(bins, tmp_path, columns=tuple(SIGNALS))
    assert outline.count("figure") == 8
    for name, signal in SIGNALS.items():
        assert f"{signal.meaning} {name} · {signal.unit} · {signal.tag} " in words(outline)
    assert words(outline).index("Turbine T01") < words(outline).index("Turbine T02")
    assert "20 May 2024, UTC Made 21 May 2024, 06:30 UTC Turbines 2 Signals wind_speed, power," in words(outline)
    assert "8 of 1,152 bins have values; 1,144 are missing, none carries a flag." in words(outline)


def test_a_signal_that_nobody_knows_has_its_name_and_no_unit(tmp_path: Path) -> None:
    outline = page(table(bin_(0, 5.0, of="rotor_mood")), tmp_path, columns=("rotor_mood",))
    assert " rotor_mood · " not in words(outline)
    assert outline.count("figure") == 1
    assert "10 samples in each." in words(outline)


def test_the_tables_have_the_counts_of_the_summary(tmp_path: Path) -> None:
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


def test_all_flags_are_explained(tmp_path: Path) -> None:
    assert list(MEANINGS) == [MISSING, *FLAGS]
    outline = page(table(bin_(0, 5.0)), tmp_path)
    assert all(f"{flag.replace('_', ' ')} {MEANINGS[flag]}" in words(outline) for flag in MEANINGS)
    assert "Less than 67 % of the ten minutes" in words(outline)


def test_the_page_is_whole_html_without_script_or_anything_to_fetch(tmp_path: Path) -> None:
    bins = simulated_bins(["T04", "T06"])
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


def test_a_source_that_knows_no_turbine_has_the_turbine(tmp_path: Path) -> None:
    files = write_page(tmp_path, table(bin_(0, 5.0)), day=DAY, columns=("wind_speed",), generated_at=MADE)
    assert files.svg == {"": tmp_path / "2024-05-20" / "turbine.svg"}
    assert files.html == tmp_path / "2024-05-20" / "day.html"
    assert "The turbine signal bins" in words(Outline(files.html.read_text()))
    assert files.svg[""].read_text() == day_svg(table(bin_(0, 5.0)), day=DAY, turbine="", columns=("wind_speed",))


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
        SVG + tag for tag in ("svg", "title", "desc", "style", "rect", "text", "tspan", "path", "g")
    }


def test_the_order_of_the_rows_does_not_matter(tmp_path: Path) -> None:
    bins = simulated_bins(["T06", "T07"])
    shuffled = bins.take(np.random.default_rng(5).permutation(bins.num_rows))
    one, other = (
        write_page(tmp_path / name, rows, day=DAY, columns=SIMULATED, generated_at=MADE)
        for name, rows in (("one", bins), ("other", shuffled))
    )
    assert one.html.read_bytes() == other.html.read_bytes()
    assert [path.read_bytes() for path in one.svg.values()] == [path.read_bytes() for path in other.svg.values()]


# The picture


def test_the_picture_has_a_chart_per_signal_in_the_order_asked_for_and_its_words() -> None:
    bins = table(*(bin_(0, 5.0, of=name, turbine="T01", flags="gap") for name in SIGNALS))
    picture = ET.fromstring(
        day_svg(bins, day=DAY, turbine="T01", columns=("power", "wind_speed", "ambient_temperature"))
    )
    words = ["".join(text.itertext()).split() for text in picture.iter(f"{SVG}text")]
    titles = [" ".join(word) for word in words if word[-1] in {signal.tag for signal in SIGNALS.values()}]
    assert titles == [
        f"{SIGNALS[name].meaning} {SIGNALS[name].tag}" for name in ("power", "wind_speed", "ambient_temperature")
    ]
    assert words.count(["gap"]) == 3
    assert picture.findtext(f"{SVG}title") == "Turbine T01, 20 May 2024, UTC"
    assert "Gap: 1 bin, 00:00–00:10." in (picture.findtext(f"{SVG}desc") or "")
    assert float(picture.get("height", 0)) == float(picture.get("viewBox", "").split()[3])


def test_the_picture_of_nothing_says_so() -> None:
    picture = ET.fromstring(day_svg(table(), day=DAY, turbine="T01", columns=("power",)))
    assert "No bin of this day has a value." in "".join(picture.itertext())


def test_the_wildest_day_is_a_small_picture_too() -> None:
    random = np.random.default_rng(3)

    def wild(name: str) -> list[dict[str, Any]]:
        low, mean, high = np.sort(random.uniform(0, 300, (144, 3)), axis=1).T
        flags = [";".join(FLAGS) if place % 2 else "" for place in range(144)]
        return [
            bin_(i, mean[i], of=name, min=low[i], max=high[i], std=random.uniform(1, 60), flags=flags[i])
            for i in range(144)
        ]

    picture = day_svg(
        table(*(row for name in SIGNALS for row in wild(name))), day=DAY, turbine="", columns=tuple(SIGNALS)
    )
    assert len(picture.encode()) < 65_000


def test_markdown_holds_the_whole_picture() -> None:
    svg = day_svg(table(bin_(0, 5.0)), day=DAY, turbine="", columns=("wind_speed",))
    found = re.fullmatch(
        r"!\[Ten-minute statistics of the day\]\(data:image/svg\+xml;base64,([\w+/=]+)\)", as_markdown(svg)
    )
    assert found
    assert base64.b64decode(found[1]).decode() == svg


# Files


def test_files_are_written_aside_and_renamed_the_page_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_page_that_cannot_be_written_is_a_clear_failure_and_leaves_nothing_behind(tmp_path: Path) -> None:
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

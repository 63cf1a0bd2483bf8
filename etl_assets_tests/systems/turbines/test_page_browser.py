"""The page of a day as a browser shows it, on a phone and on a desk, in light and in dark."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from etl_assets.core.charts.pictures import in_markdown
from etl_assets.systems.turbines.contracts import FLAGS
from etl_assets.systems.turbines.page import ALTERNATIVE, write_page
from etl_assets.systems.turbines.simulator import SIGNALS
from etl_assets.systems.turbines.statistics import OUTPUT
from etl_assets_tests.chromium import CONTRAST, CUT_OFF, OPEN_ALL, OVERFLOW, Browser, chromium, running
from etl_assets_tests.systems.turbines.minute_tables import at
from etl_assets_tests.systems.turbines.simulated_bins import TURBINES, simulated_bins

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium on the PATH"),
]
DAY = date(2024, 5, 20)
MADE = datetime(2024, 5, 21, tzinfo=UTC)
PHONE, DESKTOP = 360, 1440
# Whether the chart of a signal of the second turbine has anything in the middle of a bin, by shape.
PAINTED = """(signal, bin) => {
  const svg = document.querySelectorAll('#turbine-2 figure svg')[signal];
  return ['.22', '.45', '.5'].map(opacity => Array.from({length: 400}, (_, y) => new DOMPoint(2 * bin + 1, y / 2))
    .some(point => [...svg.querySelectorAll(`path[fill-opacity="0${opacity}"]`)].some(path => path.isPointInFill(point))));
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = chromium()
    assert path
    with running(path, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of the page of ten simulated turbines."""
    folder = tmp_path_factory.mktemp("real")
    files = write_page(folder, simulated_bins(TURBINES), day=DAY, columns=SIGNALS, generated_at=MADE)
    return files.html.as_uri()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a page with endless names, numbers of any size, and every flag at every second bin."""
    endless = "unbroken" * 40
    rows = [
        {
            "timestamp": at(10 * place), "turbine": endless, "source_signal": signal, "mean": mean, "min": -mean, "max": 2 * mean,
            "std": mean, "n": 10**12, "coverage": 1.0, "flags": ";".join(FLAGS),
        }
        for place in range(0, 144, 2)
        for signal, mean in ((endless, 1.23456789e150), ("power", 1234.56789), ("wind_direction", 359.0))
    ]  # fmt: skip
    files = write_page(
        tmp_path_factory.mktemp("wide"),
        pa.Table.from_pylist(rows, schema=OUTPUT),
        day=DAY,
        columns=(endless, "power", "wind_direction", "ambient_temperature"),
        turbines=(endless, "T02"),
        generated_at=MADE,
    )
    return files.html.as_uri()


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_renders_without_a_word_on_the_console_and_fetches_nothing(
    browser: Browser, real: str, width: int, scheme: str
) -> None:
    page = browser.open(real, width=width, scheme=scheme)
    assert page.value("document.title") == "Turbines: 20 May 2024, UTC"
    assert page.console == []
    assert page.requested == [real]


@pytest.mark.parametrize("width", [320, PHONE, 390, 641, 821, 1400, DESKTOP])
def test_nothing_is_wider_than_the_window_and_no_label_is_cut_off(
    browser: Browser, real: str, wide: str, width: int
) -> None:
    for url in (real, wide):
        page = browser.open(url, width=width)
        page.value(OPEN_ALL)
        assert page.value(OVERFLOW) == [width, width]
        assert page.value(CUT_OFF) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(browser: Browser, real: str, scheme: str) -> None:
    page = browser.open(real, width=DESKTOP, scheme=scheme)
    page.value(OPEN_ALL)
    assert page.value(CONTRAST) >= 4.5


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_a_chart_can_be_seen_for_each_turbine_and_signal_and_its_letters_can_be_read(
    browser: Browser, real: str, width: int
) -> None:
    page = browser.open(real, width=width)
    assert page.value("document.querySelectorAll('figure svg').length") == 40
    smallest = page.value(
        """[...document.querySelectorAll('figure svg')].reduce((least, svg) => {
          const {width, height} = svg.getBoundingClientRect();
          const size = parseFloat(getComputedStyle(svg.querySelector('text')).fontSize) * width / svg.viewBox.baseVal.width;
          return [Math.min(least[0], width), Math.min(least[1], height), Math.min(least[2], size)];
        }, [1e9, 1e9, 1e9])"""
    )
    assert smallest[0] >= 320 and smallest[1] >= 140 and smallest[2] >= 9.5


def test_hours_that_are_missing_are_empty(browser: Browser, real: str) -> None:
    page = browser.open(real, width=DESKTOP)
    for signal in range(len(SIGNALS)):
        for place, there in ((11, True), (12, False), (20, False), (29, False), (30, True)):
            assert page.value(f"({PAINTED})({signal}, {place})") == [there] * 3, (signal, place)


def test_a_table_fits_on_a_phone_or_scrolls_by_keyboard(browser: Browser, real: str, wide: str) -> None:
    boxes = "[...document.querySelectorAll('.scroll')]"
    page = browser.open(real, width=390)
    assert page.value(f"{boxes}.every(box => box.scrollWidth <= box.clientWidth)") is True
    for url in (real, wide):
        page = browser.open(url, width=320)
        assert page.value(f"{boxes}.every(box => box.scrollWidth <= box.clientWidth || box.tabIndex === 0)") is True


@pytest.mark.parametrize("width", [390, 1400])
def test_no_letters_of_a_chart_are_overprinted(browser: Browser, real: str, width: int) -> None:
    overprinted = """[...document.querySelectorAll('figure svg')].flatMap(svg => {
      const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
      return boxes.flatMap(([name, a], i) => boxes.slice(i + 1).filter(([_, b]) =>
        a.left < b.right - 1 && b.left < a.right - 1 && a.top + 3 < b.bottom - 3 && b.top + 3 < a.bottom - 3)
        .map(([other]) => name + ' on ' + other));
    })"""
    assert browser.open(real, width=width).value(overprinted) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_picture_of_the_metadata_is_shown_as_an_image(browser: Browser, scheme: str, tmp_path: Path) -> None:
    files = write_page(tmp_path, simulated_bins(["T06"]), day=DAY, columns=SIGNALS, generated_at=MADE)
    source = in_markdown(files.svg["T06"].read_text(), ALTERNATIVE).partition("](")[2].removesuffix(")")
    (tmp_path / "page.html").write_text(
        f"<!DOCTYPE html><html lang=en><title>Picture</title><img src='{source}'></html>"
    )
    page = browser.open((tmp_path / "page.html").as_uri(), width=DESKTOP, scheme=scheme)
    assert page.console == []
    assert page.value("document.images[0].complete && document.images[0].naturalWidth") > 700
    assert page.value("document.images[0].naturalHeight") > 400

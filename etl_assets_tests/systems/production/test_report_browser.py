"""The correlation report as a browser shows it, on a phone and on a desk, in light and in dark."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from etl_assets.systems.production.report import LeftOut, write_report
from etl_assets_tests.chromium import CONTRAST, CUT_OFF, LAUNCH, OPEN_ALL, OVERFLOW, Browser, Page, chromium, running
from etl_assets_tests.systems.production.findings import aligned, drifting, findings, row

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium on the PATH"),
]
PHONE, DESKTOP = 360, 1440
ENDLESS = "unbroken" * 40


Open = Callable[..., Page]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = chromium()
    assert path
    with running(path, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a report with the shapes of real data."""
    return write_report(tmp_path_factory.mktemp("real"), drifting()).latest_html.as_uri()


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a report with the longest words and the largest and smallest numbers."""
    numbers = [1.7e308, -1.7e308, 123456.789, -0.000012345] * 5
    series = [aligned(numbers, numbers, parameter=2**63 - 1), aligned([1e9, 1e9 + 1e-6], [5e-324, 1e-323], parameter=2)]
    rows = [
        row(2**63 - 1, 1, -0.99999, n=10**7, n_effective=123456.7, tie_group=1),
        row(2, 2, 0.5, tie_group=1),
        row(3, 3),
    ]
    found = findings(
        *rows,
        *({**one, "reading": "as_recorded"} for one in rows),
        aligned=pd.concat(series),
        source=ENDLESS,
        run_id=ENDLESS,
        method={"notes": [ENDLESS], ENDLESS: ENDLESS},
        left_out=[LeftOut(ENDLESS, ENDLESS, 10**12)],
    )
    return write_report(tmp_path_factory.mktemp("wide"), found).latest_html.as_uri()


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_renders_without_a_word_on_the_console_and_fetches_nothing(
    browser: Browser, real: str, width: int, scheme: str
) -> None:
    page = browser.open(real, width=width, scheme=scheme)
    assert page.value("document.title") == "Production: what goes with the output"
    assert page.console == []
    assert page.requested == [real]


@pytest.mark.parametrize("width", [320, PHONE, 641, 800, 961, DESKTOP])
def test_nothing_is_wider_than_the_window_and_no_label_is_cut_off(
    browser: Browser, real: str, wide: str, width: int
) -> None:
    for url in (real, wide):
        page = browser.open(url, width=width)
        page.value(OPEN_ALL)
        assert page.value(OVERFLOW) == [width, width]
        assert page.value(CUT_OFF) == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_three_rows_with_their_charts_can_be_seen_for_each_reading(browser: Browser, real: str, width: int) -> None:
    page = browser.open(real, width=width)
    seen = page.value(
        """[...document.querySelectorAll('.reading')].map(reading => [...reading.querySelectorAll('.rows > li')].map(row =>
          [...row.querySelectorAll('figure svg')].filter(svg => {
            const {width, height} = svg.getBoundingClientRect();
            return width > 250 && height > 150 && svg.querySelector('.mark-line path').getTotalLength() >= 0;
          }).length))"""
    )
    assert seen == [[2, 2, 2]] * 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out_from_what_is_behind_it(browser: Browser, real: str, scheme: str) -> None:
    page = browser.open(real, width=DESKTOP, scheme=scheme)
    page.value(OPEN_ALL)
    assert page.value(CONTRAST) >= 4.5
    assert (
        page.value("getComputedStyle(document.body).backgroundColor")
        == {
            "light": "rgb(253, 253, 251)",
            "dark": "rgb(20, 24, 27)",
        }[scheme]
    )


def test_the_table_of_all_parameters_opens_and_scrolls_by_keyboard(browser: Browser, real: str) -> None:
    page = browser.open(real, width=PHONE)
    page.value("document.querySelector('summary').focus()")
    for kind in ("keyDown", "keyUp"):
        page.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r")
    box = "document.querySelector('.scroll')"
    assert page.value("document.querySelector('details').open") is True
    assert page.value(f"{box}.querySelectorAll('tbody tr').length") == 20
    assert page.value(f"{box}.scrollWidth > {box}.clientWidth && {box}.tabIndex === 0") is True


def test_on_paper_the_tables_are_there_without_being_opened(browser: Browser, real: str) -> None:
    page = browser.open(real, width=800)
    table = "document.querySelector('details table')"
    assert page.value(f"{table}.checkVisibility()") is False
    page.call("Emulation.setEmulatedMedia", media="print")
    assert page.value(f"{table}.checkVisibility() && {table}.getBoundingClientRect().height > 100") is True


def test_a_large_report_opens(browser: Browser, tmp_path: Path) -> None:
    found = drifting(orders=20_000, parameters=200)
    files = write_report(tmp_path, replace(found, aligned=found.aligned[found.aligned["parameter_id"] < 20]))
    page = browser.open(files.html.as_uri(), width=DESKTOP)
    assert page.console == []
    assert page.value("document.querySelectorAll('tbody tr').length") == 800
    assert files.html.stat().st_size < 2_000_000


@pytest.mark.parametrize("numbers", [(3, 4), (4, 3), (10, 13), (14, 13), (20, 21)])
def test_a_browser_has_its_pipes_in_their_places_whatever_numbers_they_had(
    numbers: tuple[int, int], tmp_path: Path
) -> None:
    commands, events = tmp_path / "commands", tmp_path / "events"
    commands.write_text("open the page")
    # In place of the browser a program that answers with what it was told.
    answer = "import os; os.write(4, os.read(3, 99))"
    prepared = (
        "import fcntl, os, sys; files = [os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)]; "
        "files = [fcntl.fcntl(file, fcntl.F_DUPFD, 40) for file in files]; "
        "[os.dup2(file, int(number)) for file, number in zip(files, sys.argv[3:5])]; os.execv(sys.executable, sys.argv[5:])"
    )
    given = [str(number) for number in numbers]
    launched = [sys.executable, "-c", LAUNCH, *given, sys.executable, "-c", answer]
    subprocess.run([sys.executable, "-c", prepared, str(commands), str(events), *given, *launched], check=True)
    assert events.read_text() == "open the page"

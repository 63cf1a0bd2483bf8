"""The map of events as a browser shows it, as a file and as the image of the metadata, in light and in dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from etl_assets.core.charts.pictures import in_markdown
from etl_assets.systems.events.map import ALTERNATIVE, us_map_svg
from etl_assets_tests.chromium import Browser, chromium, running
from etl_assets_tests.systems.events.test_map import event, scattered, table

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(chromium() is None, reason="there is no Chromium on the PATH"),
]
# Words that are beyond the edge of the picture, and pairs of words that lie over one another.
CUT_OFF = """[...document.querySelectorAll('text')].filter(text => {
  const box = text.getBoundingClientRect();
  return box.left < 0 || box.right > document.documentElement.width.baseVal.value || box.bottom > document.documentElement.height.baseVal.value;
}).map(text => text.textContent)"""
OVERLAPPING = """(() => {
  const boxes = [...document.querySelectorAll('text')].map(text => [text.getBoundingClientRect(), text.textContent]);
  return boxes.flatMap(([a, first], at) => boxes.slice(at + 1)
    .filter(([b]) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
    .map(([b, second]) => [first, second]));
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    path = chromium()
    assert path
    with running(path, tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def pictures() -> dict[str, str]:
    """The most that a picture has to say, and the least."""
    odd = [event("unbroken" * 9), event(None), event("21"), event(at=(None, None)), event(at=(0.0, 0.0)), event(at=(13.4, 144.8), name="Guam")]  # fmt: skip
    rows = [*scattered(3000).to_pylist(), *odd, *[event("04", name="United States")] * 12_345, event("05", name="Iowa, United States")]  # fmt: skip
    return {
        "full": us_map_svg(
            table(*rows), title="Events in the United States by CAMEO root code", label="21 January 2019"
        ),
        "empty": us_map_svg(table(), title="Events", label=""),
    }


@pytest.mark.parametrize("name", ["full", "empty"])
def test_no_word_is_cut_off_or_lies_over_another(
    browser: Browser, pictures: dict[str, str], name: str, tmp_path: Path
) -> None:
    file = tmp_path / "map.svg"
    file.write_text(pictures[name])
    page = browser.open(file.as_uri(), width=1080, height=1600)
    assert page.value(CUT_OFF) == []
    assert page.value(OVERLAPPING) == []
    assert page.console == [] and page.requested == [file.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_the_picture_of_the_metadata_is_shown_as_an_image(
    browser: Browser, pictures: dict[str, str], scheme: str, width: int, tmp_path: Path
) -> None:
    source = in_markdown(pictures["full"], ALTERNATIVE).partition("](")[2].removesuffix(")")
    (tmp_path / "page.html").write_text(
        f"<!DOCTYPE html><html lang=en><title>Picture</title><img src='{source}'></html>"
    )
    page = browser.open((tmp_path / "page.html").as_uri(), width=width, scheme=scheme)
    assert page.console == []
    assert page.value("document.images[0].complete && document.images[0].naturalWidth") in (1080, 1081, 1082)
    assert page.value("document.images[0].naturalHeight") > 1250

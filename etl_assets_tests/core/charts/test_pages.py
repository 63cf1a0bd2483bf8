"""Templates of pages, and names from outside on them."""

from pathlib import Path

import pytest

from etl_assets.core.charts.pages import printable, template


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("T01", "T01"), ("Ångström 風車 🌀", "Ångström 風車 🌀"), ("a\tb", "a\tb"), ("a\x00b", "a�b"), ("\x1f\x7f\x9f", "���"),
        ("\ud800\uffff", "��"), ("\N{RIGHT-TO-LEFT OVERRIDE}1T", "�1T"),
    ],
)  # fmt: skip
def test_what_a_page_cannot_hold_is_replaced(name: str, shown: str) -> None:
    assert printable(name) == shown


def test_a_template_escapes_and_finds_what_is_beside_it_and_what_all_have_in_common(tmp_path: Path) -> None:
    (tmp_path / "beside.txt").write_text("beside")
    (tmp_path / "page.j2").write_text('{{ name | upper }} {% include "beside.txt" %} {% include "colours.css" %}')
    text = template(tmp_path / "page.j2").render(name="<b>")
    assert text.startswith("&lt;B&gt; beside :root {")
    assert "@media (prefers-color-scheme: dark)" in text


def test_a_template_calls_the_functions_that_it_is_given_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "page.j2").write_text("{{ name | printable }}")
    assert template(tmp_path / "page.j2", printable).render(name="a\x00") == "a�"

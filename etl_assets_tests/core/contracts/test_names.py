"""What may be a name, and the order of names."""

import pytest

from etl_assets.core.contracts.names import LONGEST_NAME, is_name, natural


@pytest.mark.parametrize("text", ["a", " a ", "Ü-1", "x" * LONGEST_NAME])
def test_what_can_be_shown_is_a_name(text: str) -> None:
    assert is_name(text)


@pytest.mark.parametrize("text", ["", "  ", "a\n", "\x00", "\u200b", "x" * (LONGEST_NAME + 1)])
def test_what_is_empty_hidden_or_endless_is_none(text: str) -> None:
    assert not is_name(text)


def test_names_come_as_people_count() -> None:
    ordered = ["", "1a2", "1a10", "2", "10", "017", "17", "a", "a2b", "a10", "spindle-2", "spindle-10"]
    assert sorted(set(ordered), key=natural) == ordered

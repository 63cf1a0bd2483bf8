"""Rows of several slices that are judged as one, and one by one where a row breaks its contract."""

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.core.slices import writing
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import _judged
from etl_assets_tests.core.slices.tables import NOON, Events, Readings, as_table, readings, site_slice

EVENTS = as_table(Events, pd.DataFrame({"at": [NOON], "text": ["x"]}))
PIECES = [site_slice("a"), Slice(Events), site_slice("b")]


def tables(*last: tuple[str, float]) -> list[pa.Table]:
    """Two readings of site a, an event, and readings of site b."""
    given = [as_table(Readings, readings(("a", 1), ("b", 2))), EVENTS]
    return [*given, as_table(Readings, readings(*last, site="b"))]


@pytest.fixture
def judgements(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each table that is judged."""
    original, seen = writing.split_arrow, []

    def counted(contract: Any, table: Any, **options: Any) -> Any:
        seen.append(len(table))
        return original(contract, table, **options)

    monkeypatch.setattr(writing, "split_arrow", counted)
    return seen


def test_slices_of_one_contract_are_judged_as_one_and_each_gets_its_own_rows(judgements: list[int]) -> None:
    given = tables(("c", 3))
    judged = _judged(given, PIECES, source="test")
    assert [split.valid for split in judged] == given
    assert [list(split.records) for split in judged] == [[], [], []]
    assert judgements == [3, 1]


def test_a_row_that_breaks_its_contract_is_rejected_in_its_own_slice_by_its_own_number() -> None:
    judged = _judged(tables(("c", 3), ("d", 1001)), PIECES, source="test")
    assert [split.valid.num_rows for split in judged] == [2, 1, 1]
    assert [list(split.records) for split in judged[:2]] == [[], []]
    [record] = judged[2].records
    assert (record.raw["id"], record.faults[0].rule, record.source) == ("d", "<= 1000", "test, row 1")


def test_a_frame_beside_tables_is_judged_by_itself(judgements: list[int]) -> None:
    given = [tables(("c", 3))[0], EVENTS, readings(("c", 3), site="b")]
    judged = _judged(given, PIECES, source="test")
    assert [split.valid.num_rows for split in judged] == [2, 1, 1]
    assert judgements == [2, 1, 1]

"""The root classes of CAMEO: twenty, by their codes of two digits."""

import pyarrow as pa

from etl_assets.systems.events.transform import ROOT_CLASSES, root_names
from etl_assets_tests.systems.events.raw_rows import needs_shared_file, shared_table


def test_there_are_twenty_classes_in_the_order_of_their_codes() -> None:
    assert list(ROOT_CLASSES) == [f"{number:02d}" for number in range(1, 21)]
    assert len(set(ROOT_CLASSES.values())) == 20


def test_a_code_has_the_name_of_its_class_and_an_unknown_or_missing_one_has_none() -> None:
    codes = pa.chunked_array([["01", "20", "1"], ["21", "--", None, "", "14"]], pa.string())

    assert root_names(codes).to_pylist() == [
        "MAKE PUBLIC STATEMENT", "USE UNCONVENTIONAL MASS VIOLENCE", None, None, None, None, None, "PROTEST",
    ]  # fmt: skip


def test_no_codes_have_no_names() -> None:
    assert root_names(pa.chunked_array([], pa.string())).to_pylist() == []


@needs_shared_file
def test_the_shared_file_has_events_of_all_twenty_classes_and_of_no_other() -> None:
    assert set(shared_table()["event_root_code"].to_pylist()) == set(ROOT_CLASSES)

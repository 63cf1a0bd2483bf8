"""The tables of the events system: what a row may say, and that the rows of a real file say nothing else."""

from typing import Any

import pyarrow as pa
import pytest

from etl_assets.core.contracts.contract import Kind
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.systems.events.contracts import CONTRACTS, FLAGS, RawEvents, UsEventData
from etl_assets.systems.events.format import RAW_COLUMNS
from etl_assets_tests.systems.events.raw_rows import event, needs_shared_file, raw_table, shared_table

KINDS = {"int": Kind.INT, "float": Kind.FLOAT, "text": Kind.TEXT, "date": Kind.DATE, "timestamp": Kind.TIMESTAMP}


def judged(**values: Any) -> list[tuple[str, str]]:
    """Column and rule of what an event with such values breaks."""
    records = split_arrow(RawEvents, raw_table(event(**values))).records
    return [(fault.column, fault.rule) for record in records for fault in record.faults]


def test_raw_events_have_the_interval_of_their_file_and_then_the_columns_of_the_format_in_its_order() -> None:
    assert {name: c.kind for name, c in RawEvents.columns.items()} == {
        "file_interval": Kind.TIMESTAMP,
        **{name: KINDS[kind] for name, kind in RAW_COLUMNS.items()},
    }
    assert list(RawEvents.columns) == ["file_interval", *RAW_COLUMNS]


def test_a_us_event_says_what_was_asked_for_and_what_is_made_of_it() -> None:
    assert list(UsEventData.columns) == [
        "file_interval", "global_event_id", "sql_date", "event_code", "event_base_code", "event_root_code",
        "event_root_name", "action_geo_full_name", "action_geo_country_code", "action_geo_lat", "action_geo_long",
        "date_added", "source_url", "upload_date", "flags",
    ]  # fmt: skip


def test_a_column_that_is_taken_over_means_the_same_in_both_tables() -> None:
    shared = RawEvents.columns.keys() & UsEventData.columns.keys()

    assert {name: UsEventData.columns[name] for name in shared} == {name: RawEvents.columns[name] for name in shared}
    assert len(shared) == 12


def test_every_code_is_text_so_that_its_zeros_stay() -> None:
    codes = [name for name in RawEvents.columns if name.endswith(("_code", "_feature_id"))]

    assert {RawEvents.columns[name].kind for name in codes} == {Kind.TEXT}
    assert {"event_code", "event_base_code", "event_root_code", "action_geo_adm2_code"} < set(codes)


def test_an_event_needs_an_identity_a_day_and_an_instant_and_nothing_else() -> None:
    needed = [name for name, c in RawEvents.columns.items() if not c.nullable]

    assert needed == ["file_interval", "global_event_id", "sql_date", "date_added"]
    assert judged(**dict.fromkeys(RawEvents.columns.keys() - set(needed))) == []
    assert judged(**dict.fromkeys(needed)) == [(name, "required") for name in needed]


@pytest.mark.parametrize(
    ("values", "broken"),
    [
        ({"action_geo_lat": 90.0, "action_geo_long": -180.0}, []),
        ({"action_geo_lat": 90.5}, [("action_geo_lat", "<= 90")]),
        ({"actor1_geo_long": -180.5}, [("actor1_geo_long", ">= -180")]),
        ({"quad_class": 0}, [("quad_class", ">= 1")]),
        ({"goldstein_scale": 10.0, "is_root_event": 1, "quad_class": 4, "actor2_geo_type": 5}, []),
        ({"goldstein_scale": -10.1}, [("goldstein_scale", ">= -10")]),
        ({"is_root_event": 2}, [("is_root_event", "<= 1")]),
        ({"actor2_geo_type": 6}, [("actor2_geo_type", "<= 5")]),
        ({"num_mentions": -1}, [("num_mentions", ">= 0")]),
        ({"avg_tone": -100.5, "year": 0, "event_root_code": "--"}, []),
    ],
)
def test_a_number_is_refused_only_where_the_format_gives_its_range(
    values: dict[str, Any], broken: list[tuple[str, str]]
) -> None:
    assert judged(**values) == broken


def test_the_page_of_us_events_explains_each_flag() -> None:
    description = UsEventData.columns["flags"].description

    assert all(f"{name}: {meaning}" in description for name, meaning in FLAGS.items())


def test_an_event_is_once_in_a_file_and_once_among_the_us_events_and_an_interval_once_in_the_manifest() -> None:
    assert {contract.config.table: contract.config.key for contract in CONTRACTS} == {
        "events.raw_events": ("file_interval", "global_event_id"),
        "events.us_event_data": ("global_event_id",),
        "events.intervals": ("interval",),
    }


def test_a_quiet_feed_is_in_order_in_every_table() -> None:
    assert all(contract.config.may_be_empty for contract in CONTRACTS)


@needs_shared_file
def test_no_row_of_the_shared_file_breaks_a_rule() -> None:
    table = shared_table()

    parts = split_arrow(RawEvents, table)

    assert (parts.valid.num_rows, parts.records) == (1629, ())
    assert parts.valid["global_event_id"][0].as_py() == 817930293
    assert parts.valid.equals(pa.table(table))

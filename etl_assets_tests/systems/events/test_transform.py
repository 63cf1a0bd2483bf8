"""From the events of a file to the US events among them: nothing is lost on the way, and nothing is read into a code."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import split_arrow
from etl_assets.systems.events.contracts import FLAGS, UsEventData
from etl_assets.systems.events.transform import ROOT_CLASSES, ByCountryCode, InBox, UsRule, us_events
from etl_assets_tests.systems.events.raw_rows import INTERVAL, event, needs_shared_file, raw_table, shared_table

NOW = datetime(2019, 1, 21, 22, 16, 3, 123456, tzinfo=UTC)
US = ByCountryCode()


def rows_of(*events: Mapping[str, Any], rule: UsRule = US) -> list[dict[str, Any]]:
    return us_events(raw_table(*events), rule=rule, uploaded_at=NOW).rows.to_pylist()


def test_an_event_in_the_united_states_is_taken_over_with_the_name_of_its_class() -> None:
    assert rows_of(event()) == [
        {
            "file_interval": INTERVAL,
            "global_event_id": 1,
            "sql_date": date(2019, 1, 21),
            "event_code": "043",
            "event_base_code": "043",
            "event_root_code": "04",
            "event_root_name": "CONSULT",
            "action_geo_full_name": "Lincoln, Nebraska, United States",
            "action_geo_country_code": "US",
            "action_geo_lat": 40.8,
            "action_geo_long": -96.667,
            "date_added": INTERVAL,
            "source_url": "https://example.com/report",
            "upload_date": NOW,
            "flags": "",
        }
    ]


@pytest.mark.parametrize("code", ["043", "0231", "010", "190"])
def test_a_code_keeps_its_leading_zeros(code: str) -> None:
    (row,) = rows_of(event(event_code=code, event_base_code=code[:3], event_root_code=code[:2]))

    assert (row["event_code"], row["event_base_code"], row["event_root_code"]) == (code, code[:3], code[:2])
    assert row["event_root_name"] == ROOT_CLASSES[code[:2]]


def test_the_day_of_a_late_event_stays_apart_from_the_instant_at_which_it_was_added() -> None:
    (row,) = rows_of(event(sql_date=date(2018, 1, 21), date_added=INTERVAL))

    assert (row["sql_date"], row["date_added"]) == (date(2018, 1, 21), INTERVAL)


def test_na_is_the_code_of_a_country_and_the_name_of_a_place() -> None:
    namesake = event(action_geo_country_code="NA", action_geo_full_name="NA")

    result = us_events(raw_table(namesake), rule=US, uploaded_at=NOW)

    assert result.left_out == {"another country": 1, "no action location": 0}
    (row,) = rows_of(namesake, rule=ByCountryCode(("NA",)))
    assert row["action_geo_full_name"] == "NA"


@pytest.mark.parametrize("code", ["21", "00", "1", "--", None])
def test_an_event_of_an_unknown_class_stays_without_a_name_and_flagged(code: str | None) -> None:
    (row,) = rows_of(event(event_root_code=code))

    assert (row["event_root_code"], row["event_root_name"], row["flags"]) == (code, None, "unknown_root_code")


@pytest.mark.parametrize(
    ("lat", "long", "flags"),
    [
        (0.0, 0.0, "null_island"),
        (-0.0, 0.0, "null_island"),
        (0.0, -96.667, ""),
        (40.8, 0.0, ""),
        (65.0, -150.0, ""),
        (None, None, "no_coordinates"),
        (40.8, None, "no_coordinates"),
        (None, 0.0, "no_coordinates"),
    ],
)
def test_a_us_event_stays_wherever_it_is_placed_and_is_flagged_where_that_is_nowhere(
    lat: float | None, long: float | None, flags: str
) -> None:
    (row,) = rows_of(event(action_geo_lat=lat, action_geo_long=long))

    assert (row["action_geo_lat"], row["action_geo_long"], row["flags"]) == (lat, long, flags)


def test_several_flags_are_joined_in_their_order() -> None:
    nowhere = event(event_root_code="21", action_geo_lat=None, action_geo_long=None)
    island = event(event_root_code=None, action_geo_lat=0.0, action_geo_long=0.0)

    rows = rows_of(nowhere, island)

    assert [row["flags"] for row in rows] == ["unknown_root_code;no_coordinates", "unknown_root_code;null_island"]
    assert {flag for row in rows for flag in row["flags"].split(";")} == set(FLAGS)


def test_the_events_left_out_are_counted_by_reason_also_by_reasons_of_none() -> None:
    raw = raw_table(
        event(),
        event(action_geo_country_code="CA"),
        event(action_geo_country_code="RQ"),
        event(action_geo_country_code=None, action_geo_lat=None, action_geo_long=None),
    )

    by_code = us_events(raw, rule=US, uploaded_at=NOW)
    in_box = us_events(raw.slice(0, 3), rule=InBox(), uploaded_at=NOW)

    assert (by_code.rows.num_rows, by_code.left_out) == (1, {"another country": 2, "no action location": 1})
    assert (in_box.rows.num_rows, in_box.left_out) == (3, {"outside the box": 0, "no coordinates": 0})


def test_a_file_without_events_has_no_us_events() -> None:
    for table in (raw_table(), raw_table(event(action_geo_country_code="CA"))):
        result = us_events(table, rule=US, uploaded_at=NOW)

        assert result.rows.num_rows == 0
        assert result.rows.schema.equals(arrow_schema(UsEventData))
        assert sum(result.left_out.values()) == table.num_rows


def test_the_rows_are_in_the_schema_of_their_contract_and_keep_it() -> None:
    rows = us_events(raw_table(event(), event(event_root_code=None)), rule=US, uploaded_at=NOW).rows

    assert rows.schema.equals(arrow_schema(UsEventData), check_metadata=True)
    assert split_arrow(UsEventData, rows).records == ()


def test_the_instant_of_the_upload_is_in_utc_and_needs_a_zone() -> None:
    lisbon_summer = NOW.astimezone(timezone(timedelta(hours=1)))

    rows = us_events(raw_table(event()), rule=US, uploaded_at=lisbon_summer).rows

    assert rows["upload_date"].to_pylist() == [NOW]
    with pytest.raises(ValueError, match=r"^uploaded_at 2019-01-21T22:16:03\.123456 has no zone"):
        us_events(raw_table(event()), rule=US, uploaded_at=NOW.replace(tzinfo=None))


def reason_by_hand(row: Mapping[str, Any], rule: UsRule) -> str | None:
    """Why one row is left out, as the rules say it in words."""
    if isinstance(rule, ByCountryCode):
        if row["action_geo_country_code"] is None:
            return "no action location"
        return None if row["action_geo_country_code"] in rule.codes else "another country"
    lat, long = row["action_geo_lat"], row["action_geo_long"]
    if lat is None or long is None:
        return "no coordinates"
    return None if 24.396308 <= lat <= 49.384358 and -125.0 <= long <= -66.93457 else "outside the box"


def row_by_hand(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row of a US event, made from its raw one."""
    lat, long = row["action_geo_lat"], row["action_geo_long"]
    flags = [
        *(["unknown_root_code"] if row["event_root_code"] not in ROOT_CLASSES else []),
        *(["no_coordinates"] if lat is None or long is None else []),
        *(["null_island"] if lat == 0 and long == 0 else []),
    ]
    made = {
        "event_root_name": ROOT_CLASSES.get(row["event_root_code"]),
        "upload_date": NOW,
        "flags": ";".join(flags),
    }
    return {name: made[name] if name in made else row[name] for name in UsEventData.columns}


def compared(raw: pa.Table, rule: UsRule) -> None:
    """Judge the transform by doing its work row by row; no row may be neither there nor counted."""
    result = us_events(raw, rule=rule, uploaded_at=NOW)

    rows = raw.to_pylist()
    reasons = [reason_by_hand(row, rule) for row in rows]
    assert result.rows.to_pylist() == [row_by_hand(row) for row, why in zip(rows, reasons, strict=True) if why is None]
    assert {why: n for why, n in result.left_out.items() if n} == Counter(why for why in reasons if why)
    assert result.rows.num_rows + sum(result.left_out.values()) == raw.num_rows


COORDINATES = {
    "action_geo_lat": st.sampled_from([None, 0.0, 24.396308, 24.3963, 40.8, 49.384358, 49.3844, 65.0, -90.0])
    | st.floats(-90, 90),
    "action_geo_long": st.sampled_from([None, 0.0, -125.0, -125.0001, -96.667, -66.93457, -66.9345, 180.0])
    | st.floats(-180, 180),
}
EVENTS = st.fixed_dictionaries(
    {
        "global_event_id": st.integers(0, 2**62),
        "event_root_code": st.sampled_from([None, "01", "14", "20", "21", "1", "--", ""]),
        "action_geo_country_code": st.sampled_from([None, "US", "RQ", "CA", "GM", "NA", "us"]),
        **COORDINATES,
    }
)
RULES = st.sampled_from([ByCountryCode(("US",)), ByCountryCode(("US", "RQ")), ByCountryCode(("VQ",)), InBox()])


@settings(max_examples=25)
@given(st.lists(st.lists(EVENTS, max_size=6), max_size=3), RULES)
def test_every_event_is_there_or_counted_as_left_out_in_however_many_chunks_they_come(
    chunks: Sequence[Sequence[Mapping[str, Any]]], rule: UsRule
) -> None:
    compared(pa.concat_tables([raw_table(), *(raw_table(*(event(**row) for row in rows)) for rows in chunks)]), rule)


@needs_shared_file
@pytest.mark.parametrize(
    ("rule", "rows", "left_out"),
    [
        (ByCountryCode(), 533, {"another country": 1060, "no action location": 36}),
        (InBox(), 603, {"outside the box": 990, "no coordinates": 36}),
    ],
)
def test_the_shared_file_has_as_many_us_events_as_counted_by_hand(
    rule: UsRule, rows: int, left_out: Mapping[str, int]
) -> None:
    raw = shared_table()

    result = us_events(raw, rule=rule, uploaded_at=NOW)

    assert (result.rows.num_rows, result.left_out) == (rows, left_out)
    assert split_arrow(UsEventData, result.rows).records == ()
    compared(raw, rule)

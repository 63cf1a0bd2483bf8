"""The rule of the system, as pure functions: which outages of a site are delivered, and as what."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_assets.systems.outages.contracts import SiteOutages
from etl_assets.systems.outages.transform import (
    CUTOFF,
    batch_key,
    corrected_outages,
    delivery_keys,
    devices_of_sites,
    outages_of_sites,
    payload,
    raw_outages_frame,
    site_info_frame,
)
from etl_assets_tests.systems.outages.world import FETCHED, SITE, Outage, info, outage

AT_CUTOFF = "2022-01-01T00:00:00.000Z"
END = "2022-06-01T00:00:00.000Z"


def mapped(elements: Sequence[Any], *infos: dict[str, Any], began_from: datetime = CUTOFF) -> pd.DataFrame:
    """What the table of outages holds after the transforms; by default of one site with the devices d1 and d2."""
    described = infos or (info(d1="One", d2="Two"),)
    raw = raw_outages_frame(elements, fetched_at=FETCHED).valid
    devices = devices_of_sites(site_info_frame({one["id"]: one for one in described}, fetched_at=FETCHED).valid).valid
    known = devices.drop_duplicates(["site_id", "device_id"], keep="last")
    outages = outages_of_sites(raw, known, began_from=began_from)
    return outages.drop_duplicates(list(SiteOutages.config.key), keep="last")


def delivered(elements: Sequence[Any], *infos: dict[str, Any], began_from: datetime = CUTOFF) -> list[dict[str, str]]:
    """The body of the site's first delivery."""
    rows = mapped(elements, *infos, began_from=began_from)
    body: list[dict[str, str]] = json.loads(payload(rows[rows["site_id"] == SITE].to_dict("records")))
    return body


def faults(element: Any) -> list[tuple[str, str]]:
    """Outcome or fault of an element that is alone in its answer."""
    [record] = raw_outages_frame([element], fetched_at=FETCHED).records
    return [(record.outcome, ""), *((fault.column, fault.rule) for fault in record.faults)]


# The cut-off


@pytest.mark.parametrize(
    ("begin", "kept"),
    [
        (AT_CUTOFF, True),
        ("2022-01-01T00:00:00.001Z", True),
        ("2022-01-01T00:00:00.000001Z", True),
        ("2021-12-31T23:59:59.999Z", False),
        ("2021-12-31T23:59:59.999999Z", False),
        ("2022-01-01T00:00:00Z", True),
        ("2022-01-01T00:00:00+00:00", True),
        ("2022-01-01T02:00:00.000+02:00", True),
        ("2022-01-01T01:59:59.999+02:00", False),
        ("2021-12-31T19:00:00.000-05:00", True),
        ("2021-12-31T18:59:59.999-05:00", False),
        ("2022-01-01T05:45:00.000+05:45", True),
        ("2020-02-29T12:00:00.000Z", False),
        ("2024-02-29T12:00:00.000Z", True),
    ],
)
def test_an_outage_is_kept_from_the_cutoff_on_in_whatever_zone_it_is_written(begin: str, kept: bool) -> None:
    assert [row["begin"] for row in delivered([outage("d1", begin)])] == ([begin] if kept else [])


@pytest.mark.parametrize("end", ["2021-12-31T00:00:00.000Z", AT_CUTOFF, "2030-01-01T00:00:00.000Z"])
def test_the_end_plays_no_part(end: str) -> None:
    early, kept = outage("d1", "2021-12-31T23:59:59.999Z", end), outage("d1", AT_CUTOFF, end)
    assert [row["begin"] for row in delivered([early, kept])] == [AT_CUTOFF]


def test_another_cutoff_takes_the_place_of_the_fixed_one() -> None:
    rows = [outage("d1", "2021-06-01T00:00:00.000Z"), outage("d1", AT_CUTOFF), outage("d1", "2022-03-01T00:00:00.000Z")]
    earlier, later = datetime(2021, 6, 1, tzinfo=UTC), datetime(2022, 2, 1, tzinfo=UTC)
    assert [row["begin"] for row in delivered(rows, began_from=earlier)] == [row["begin"] for row in rows]
    assert [row["begin"] for row in delivered(rows, began_from=later)] == ["2022-03-01T00:00:00.000Z"]


# Order, names, duplicates


def test_the_order_is_that_of_the_answer_and_not_of_time() -> None:
    rows = [outage("d2", "2022-03-01T00:00:00Z"), outage("d1", "2022-02-01T00:00:00Z"), outage("d2", AT_CUTOFF)]
    assert [(row["id"], row["begin"]) for row in delivered(rows)] == [(row["id"], row["begin"]) for row in rows]


def test_a_row_goes_out_with_exactly_four_fields_and_the_devices_name() -> None:
    assert delivered([outage("d2", AT_CUTOFF, more=1)]) == [{"id": "d2", "name": "Two", "begin": AT_CUTOFF, "end": END}]


@pytest.mark.parametrize("begin", ["2022-01-01T00:00:00Z", "2022-01-01T00:00:00.0Z", "2022-01-01 00:00:00+00:00"])
def test_the_text_of_a_time_goes_out_as_it_came(begin: str) -> None:
    assert delivered([outage("d1", begin)])[0]["begin"] == begin


def test_a_device_without_a_site_is_left_out() -> None:
    assert delivered([outage("stranger", AT_CUTOFF), outage("D1", AT_CUTOFF), outage(" d1", AT_CUTOFF)]) == []


def test_a_device_that_repeats_keeps_all_its_outages() -> None:
    rows = [outage("d1", f"2022-01-0{day}T00:00:00.000Z") for day in (3, 1, 2)]
    assert [row["begin"] for row in delivered(rows)] == [row["begin"] for row in rows]


def test_an_exact_duplicate_goes_out_once_in_the_place_of_the_first() -> None:
    first, other = outage("d1", "2022-02-01T00:00:00.000Z"), outage("d2", AT_CUTOFF)
    rows = [first, other, dict(first)]
    assert [row["id"] for row in delivered(rows)] == ["d1", "d2"]
    assert mapped(rows)["position"].tolist() == [1, 0]


def test_rows_of_the_same_instants_are_one_outage_and_the_first_spelling_goes_out() -> None:
    rows = [
        outage("d1", "2022-01-01T01:00:00+01:00"),
        outage("d1", AT_CUTOFF, "2022-06-01T00:00:00Z"),
        outage("d1", "2022-01-01T00:00:00.0000001Z"),
        outage("d1", "2022-01-01T00:00:00.000001Z"),
    ]
    assert [(row["begin"], row["end"]) for row in delivered(rows)] == [
        ("2022-01-01T01:00:00+01:00", END),
        ("2022-01-01T00:00:00.000001Z", END),
    ]
    assert mapped(rows)["position"].tolist() == [0, 3]


def test_a_device_of_two_sites_is_reported_for_both_under_each_ones_name() -> None:
    other = info("other", d1="Eins")
    rows = mapped([outage("d1", AT_CUTOFF)], info(d1="One"), other)
    assert rows[["site_id", "name"]].values.tolist() == [[SITE, "One"], ["other", "Eins"]]
    assert rows["delivery_key"].nunique() == 2


def test_of_a_device_that_is_named_twice_the_last_counts() -> None:
    described = info(d1="One")
    described["devices"].append({"id": "d1", "name": "One B"})
    assert [row["name"] for row in delivered([outage("d1", AT_CUTOFF)], described)] == ["One B"]


@pytest.mark.parametrize("name", ["", "  ", "\t", None])
def test_a_device_without_a_name_is_rejected_and_nothing_of_it_goes_out(name: str | None) -> None:
    described = info(d1="One")
    described["devices"].append({"id": "d2", "name": name})
    found = devices_of_sites(site_info_frame({SITE: described}, fetched_at=FETCHED).valid)
    assert found.valid["device_id"].tolist() == ["d1"]
    assert [(one.outcome, one.faults[0].column, one.faults[0].rule) for one in found.records] == [
        ("rejected", "device_name", "required")
    ]
    assert [row["id"] for row in delivered([outage("d1", AT_CUTOFF), outage("d2", AT_CUTOFF)], described)] == ["d1"]


def test_a_device_within_a_device_is_not_read_and_that_is_said() -> None:
    described = info(d1="One")
    described["devices"][0]["devices"] = [{"id": "d2", "name": "Two"}]
    found = devices_of_sites(site_info_frame({SITE: described}, fetched_at=FETCHED).valid)
    assert found.valid["device_id"].tolist() == ["d1"]
    assert [(one.outcome, one.faults[0].rule) for one in found.records] == [
        ("flagged", "devices within a device are not read")
    ]


@pytest.mark.parametrize(
    "name", ["Batterie Öst", "電池 1", "🔋", 'a "quoted" \\ name', "  blanks  ", "e\u0301", "\u202eabc"]
)
def test_any_name_goes_out_as_it_is(name: str) -> None:
    assert delivered([outage("ü-🔋", AT_CUTOFF)], info(**{"ü-🔋": name}))[0] == {
        "id": "ü-🔋",
        "name": name,
        "begin": AT_CUTOFF,
        "end": END,
    }


def test_nothing_gives_nothing() -> None:
    assert delivered([]) == []
    assert delivered([], info()) == []
    assert delivered([outage("d1", AT_CUTOFF)], info()) == []
    assert list(mapped([]).columns) == list(SiteOutages.columns)


# Rows that are not as they should be


@pytest.mark.parametrize(
    ("element", "expected"),
    [
        ({"id": "d1", "end": END}, [("rejected", ""), ("begin", "required")]),
        ({"id": "d1", "begin": AT_CUTOFF}, [("rejected", ""), ("end", "required")]),
        ({"begin": AT_CUTOFF, "end": END}, [("rejected", ""), ("id", "required")]),
        (outage("", AT_CUTOFF), [("rejected", ""), ("id", "at least 1 characters")]),
        (outage("d1", AT_CUTOFF, "2021-01-01T00:00:00Z"), [("flagged", ""), ("end", "before begin")]),
        (outage("d1", AT_CUTOFF, cause="storm"), [("flagged", ""), ("cause", "additional field")]),
    ],
)
def test_what_is_wrong_with_a_row_is_said_by_the_apis_own_field(element: Any, expected: Any) -> None:
    assert faults(element) == expected


@pytest.mark.parametrize(
    "element",
    [
        {"id": 17, "begin": AT_CUTOFF, "end": END},
        {"id": None, "begin": AT_CUTOFF, "end": END},
        {"id": ["d1"], "begin": AT_CUTOFF, "end": END},
        {"id": True, "begin": AT_CUTOFF, "end": END},
        outage("d1", "soon"),
        outage("d1", "N/A"),
        outage("d1", ""),
        outage("d1", "2022-01-01T00:00:00"),
        outage("d1", "2022-01-01"),
        outage("d1", "2022-02-30T00:00:00Z"),
        {"id": "d1", "begin": 1641081600, "end": END},
        {"id": "d1", "begin": float("nan"), "end": END},
        {"Id": "d1", "begin": AT_CUTOFF, "end": END},
        None,
        "text",
        7,
        [],
        {},
    ],
)
def test_a_row_that_lacks_a_field_or_has_a_wrong_one_is_rejected_and_the_others_are_kept(element: Any) -> None:
    good = outage("d1", AT_CUTOFF)
    judged = raw_outages_frame([good, element, good], fetched_at=FETCHED)
    assert judged.valid["position"].tolist() == [0, 2]
    [record] = judged.records
    assert record.outcome == "rejected"
    assert "row 1" in record.source
    assert len(delivered([good, element])) == 1


def test_all_faults_of_a_row_are_in_one_record() -> None:
    assert [column for column, _ in faults({"id": 7, "end": "never"})[1:]] == ["id", "begin", "end"]


def test_a_backwards_outage_and_one_with_more_fields_are_delivered_all_the_same() -> None:
    rows = [outage("d1", AT_CUTOFF, "2021-01-01T00:00:00.000Z"), outage("d2", AT_CUTOFF, cause="storm")]
    assert [row["id"] for row in delivered(rows)] == ["d1", "d2"]


def test_corrected_rows_follow_those_of_the_snapshot() -> None:
    there = raw_outages_frame([outage("d1", AT_CUTOFF)] * 3, fetched_at=FETCHED).valid
    corrected = corrected_outages([outage("d2", AT_CUTOFF), outage("d2", END)], there).valid
    assert corrected["position"].tolist() == [3, 4]
    assert corrected["fetched_at"].tolist() == [pd.Timestamp(FETCHED)] * 2


# Properties

devices = st.sampled_from(["d1", "d2", "d3", "stranger"])
zones = st.sampled_from([UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=5, minutes=30))])
around_cutoff = st.integers(-5, 5).flatmap(
    lambda n: st.sampled_from(
        [timedelta(microseconds=n), timedelta(milliseconds=n), timedelta(hours=n), timedelta(days=n)]
    )
)


@st.composite
def times(draw: st.DrawFn) -> str:
    instant = (CUTOFF + draw(around_cutoff)).astimezone(draw(zones))
    text = instant.isoformat(timespec=draw(st.sampled_from(["milliseconds", "microseconds"])))
    return text.replace("+00:00", "Z") if draw(st.booleans()) else text


elements = st.lists(st.builds(outage, devices, times(), times()), max_size=12)
names = st.dictionaries(
    st.sampled_from(["d1", "d2", "d3"]), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"))
)


def rule(rows: Sequence[Outage], known: dict[str, str]) -> list[dict[str, str]]:
    """The rule once more, as one would say it."""
    result: list[dict[str, str]] = []
    for row in rows:
        named = {"id": row["id"], "name": known.get(row["id"]), "begin": row["begin"], "end": row["end"]}
        if known.get(row["id"], "").strip() and datetime.fromisoformat(row["begin"]) >= CUTOFF and named not in result:
            result.append(named)
    return result


@settings(max_examples=30)
@given(elements, names)
def test_what_is_delivered_is_the_rule(rows: list[Outage], known: dict[str, str]) -> None:
    assert delivered(rows, info(**known)) == rule(rows, known)


@pytest.mark.long
@settings(max_examples=25)
@given(elements, names)
def test_a_second_mapping_of_the_same_answer_gives_the_same_keys(rows: list[Outage], known: dict[str, str]) -> None:
    first, second = mapped(rows, info(**known)), mapped(list(rows), info(**known))
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.long
@settings(max_examples=25)
@given(elements, names, st.randoms(use_true_random=False))
def test_the_order_of_the_answer_changes_the_order_and_nothing_else(
    rows: list[Outage], known: dict[str, str], random: Any
) -> None:
    shuffled = random.sample(rows, len(rows))
    assert set(mapped(rows, info(**known))["delivery_key"]) == set(mapped(shuffled, info(**known))["delivery_key"])


@pytest.mark.long
@settings(max_examples=25)
@given(elements, names)
def test_every_element_is_loaded_or_rejected(rows: list[Outage], known: dict[str, str]) -> None:
    broken: list[Any] = [{**row, "begin": None} if i % 3 == 0 else row for i, row in enumerate(rows)]
    judged = raw_outages_frame(broken, fetched_at=FETCHED)
    assert len(judged.valid) + len(judged.rejected) == len(rows)
    assert judged.valid["begin_text"].tolist() == [row["begin"] for i, row in enumerate(rows) if i % 3]


texts = st.text(max_size=3)
instants = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
rows_of_payloads = st.tuples(texts, texts, texts, instants, instants)


def keys_of(site: str, device: str, name: str, begin: str, end: str) -> list[str]:
    return delivery_keys(site, [{"id": device, "name": name, "begin": begin, "end": end}])


@given(rows_of_payloads, rows_of_payloads, st.integers(-720, 720), st.booleans())
def test_delivery_keys_are_equal_only_for_equal_outages_in_whatever_zone_they_are_written(
    one: Any, other: Any, minutes: int, same: bool
) -> None:
    other = one if same else other
    zone = timezone(timedelta(minutes=minutes))
    first = keys_of(*one[:3], *(instant.isoformat() for instant in one[3:]))
    second = keys_of(*other[:3], *(instant.astimezone(zone).isoformat(sep=" ") for instant in other[3:]))
    assert (first == second) is (one == other)


@given(elements, names)
def test_the_keys_of_a_payload_are_those_of_its_rows(rows: list[Outage], known: dict[str, str]) -> None:
    table = mapped(rows, info(**known))
    body = json.loads(payload(table.to_dict("records")))
    in_order = table.sort_values("position")["delivery_key"].tolist()
    assert delivery_keys(SITE, body) == in_order


def test_the_key_of_a_batch_is_that_of_its_site_and_its_payload() -> None:
    assert len({batch_key(site, body) for site in ("a", "b") for body in ("[]", "[1]")}) == 4

"""The faults that can reach this system, by name, each with its stated outcome; those of the parts are tested with them."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable, Limits
from etl_assets.errors import PermanentError, PlatformError
from etl_assets.simulators.controls import Refusal
from etl_assets.simulators.faults import KINDS
from etl_assets.systems.outages import script
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets_tests.systems.outages.world import SITE, Crash, World, crashing, info, outage, quick_api

pytestmark = pytest.mark.long

FIRST, SECOND = "2022-01-01T00:00:00.000Z", "2022-02-01T00:00:00.000Z"
RETRIED = sorted(set(KINDS) - {"slow"})


@pytest.fixture
def one(world: World) -> World:
    """One outage is to be delivered."""
    world.serve([outage("d1", FIRST)])
    return world


# HTTP in


@pytest.mark.parametrize("kind", RETRIED)
def test_any_fault_of_a_call_is_tried_again(one: World, kind: str) -> None:
    for call in ("outages", "site-info", "site-outages"):
        one.simulator.faults.script(call, [kind])
    assert one.sync()[0].delivered == 1
    one.assert_delivered_once()


def test_one_byte_after_the_other_ends_at_the_deadline_of_the_call(one: World) -> None:
    one.simulator.faults.rates("outages", {"slow": 1.0})
    one.api = quick_api(one.url, one.simulator.api_key, limits=Limits(deadline_s=0.4))
    with pytest.raises(ApiUnavailable, match=r"GET /outages: tried once in \d\.\d s \(deadline 0\.4 s\)"):
        one.sync()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 422])
def test_a_refused_fetch_fails_at_once_and_nothing_is_stored(
    one: World, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    def refuse() -> bytes:
        raise Refusal(status, "no")

    monkeypatch.setattr(one.simulator, "outages_document", refuse)
    with pytest.raises(ApiRefused, match=f"GET /outages: answered {status} "):
        one.sync()
    assert one.simulator.faults.counts()["outages"] == {"none": 1}
    assert one.column("SELECT count(*) FROM etl.ledger") == [0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"outages": []}', "with an object \\(outages\\), not with an array"),
        (b'"text"', "with text, not with an array"),
        (b"null", "with null, not with an array"),
        (b"12", "with 12, not with an array"),
    ],
)
def test_another_shape_of_the_outages_is_an_error_that_names_it(
    one: World, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str
) -> None:
    monkeypatch.setattr(one.simulator, "outages_document", lambda: answer)
    with pytest.raises(ApiRefused, match=f"GET /outages: answered 200 {said}"):
        one.sync()
    assert one.posts() == 0


@pytest.mark.parametrize(
    "answer", [None, [], {}, {"id": SITE}, {"id": SITE, "devices": None}, {"id": "other", "devices": []}]
)
def test_another_shape_of_the_site_is_an_error_and_nothing_is_stored(one: World, answer: Any) -> None:
    one.simulator.serve_exactly([outage("d1", FIRST)], {SITE: answer})
    with pytest.raises(ApiRefused, match="GET /site-info/kingfisher: answered 200 with "):
        one.sync()
    assert one.column("SELECT count(*) FROM etl.ledger") == [0]


def test_a_number_that_json_does_not_have_is_no_answer(one: World) -> None:
    one.serve([outage("d1", FIRST, cause=float("nan"))])
    with pytest.raises(ApiUnavailable, match="NaN, which JSON does not have"):
        one.sync()


def test_the_same_outage_with_two_ends_is_two_outages(one: World) -> None:
    one.serve([outage("d1", FIRST, SECOND), outage("d1", FIRST)])
    assert one.sync()[0].delivered == 2
    one.assert_delivered_once()


def test_a_site_whose_name_is_a_path_is_asked_for_as_one_name(world: World) -> None:
    name = "a/../b ü?x=1"
    world.simulator.serve_exactly([outage("d1", FIRST)], {name: info(name, d1="One")})
    with pytest.raises(PlatformError, match="GET /site-info/a%2F..%2Fb%20%C3%BC%3Fx%3D1: "):
        world.sync(name)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_a_host_that_is_not_there_is_named(one: World, url: str) -> None:
    one.api = quick_api(url, "k")
    with pytest.raises(ApiUnavailable, match="outages API, GET /outages: tried 3 times"):
        one.sync()


@pytest.mark.parametrize("name", [None, 17])
def test_a_missing_name_of_the_site_is_flagged_and_its_outages_are_delivered(one: World, name: object) -> None:
    one.serve([outage("d1", FIRST)], {**info(d1="One"), "name": name})
    result = one.sync()[0]
    assert (result.delivered, result.flagged, result.quarantined) == (1, 1, 0)
    assert one.column("SELECT concat_ws(' ', asset, partition, outcome) FROM etl.quarantine") == [
        f"outages.raw_site_info {SITE} flagged"
    ]


# Time


def test_a_clock_change_of_the_zone_does_not_matter(one: World) -> None:
    twice = [outage("d1", "2022-10-30T02:30:00.000+02:00"), outage("d1", "2022-10-30T02:30:00.000+01:00")]
    one.serve([*twice, outage("d1", "2022-03-27T03:00:00.000+02:00")])
    assert one.sync()[0].delivered == 3
    stored = one.column("SELECT begin_at FROM outages.site_outages ORDER BY position")
    assert stored == [datetime(2022, 10, 30, hour, 30, tzinfo=UTC) for hour in (0, 1)] + [
        datetime(2022, 3, 27, 1, tzinfo=UTC)
    ]


@pytest.mark.parametrize("begin", ["2024-02-29T23:59:59.999Z", "2022-12-31T23:59:59.999999Z", "9999-12-31T23:59:59Z"])
def test_the_edges_of_the_calendar_are_delivered_as_they_came(one: World, begin: str) -> None:
    one.serve([outage("d1", begin)])
    one.sync()
    assert one.begins() == [[begin]]


@pytest.mark.parametrize(
    "begin", ["2023-02-29T00:00:00Z", "2022-01-01T24:30:00Z", "2022-01-01T00:00:00", "0000-01-01T00:00:00Z"]
)
def test_a_time_that_is_none_is_quarantined(one: World, begin: str) -> None:
    one.serve([outage("d1", begin), outage("d1", FIRST)])
    result = one.sync()[0]
    assert (result.quarantined, result.delivered) == (1, 1)
    [faults] = one.column("SELECT faults FROM etl.quarantine")
    assert [fault["column"] for fault in json.loads(faults)] == ["begin"]


# Process


@pytest.mark.parametrize(
    "step", ["raw_outages_frame", "devices_of_sites", "write_parquet", "write_together", "outages_of_sites"]
)
@pytest.mark.parametrize("after", [False, True])
def test_a_sync_that_ends_at_a_step_is_made_good_by_the_next(one: World, step: str, after: bool) -> None:
    with crashing(script, step, after=after), pytest.raises(Crash):
        one.sync()
    assert one.sync()[0].outages == 1
    one.assert_delivered_once()


def test_a_file_that_was_left_half_written_is_not_read(one: World) -> None:
    one.sync()
    folder = OutagesSettings.load().etl_data_dir / "lake" / "outages" / "raw_outages"
    (folder / f"{'f' * 32}.parquet").write_bytes(b"PAR1 half")
    assert one.sync()[0].delivered == 0
    one.assert_delivered_once()


def test_a_table_that_lost_a_column_is_an_error_before_anything_is_sent(one: World) -> None:
    one.execute("ALTER TABLE outages.site_outages RENAME COLUMN name TO title")
    with pytest.raises(PermanentError, match="outages.site_outages.*column name is missing"):
        one.sync()
    assert one.posts() == 0

"""The system without an orchestrator, as a function: what intervals become, and what becomes of them when the feed changes."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from etl_assets.core.slices.entries import Filter, list_entries
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.core.slices.replay import replay
from etl_assets.errors import ConfigurationError, PermanentError, PlatformError, TransientError
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.files import INTERVAL, FileRejected, file_name, quarters
from etl_assets.systems.events.raw_layer import Stores
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.simulator.files import BAD_LINES, DEFECTS
from etl_assets.systems.events.source import EventsFeed, FeedFile
from etl_assets.systems.events.transform import us_rule
from etl_assets.systems.events.us_events import store_us_events, totals
from etl_assets_tests.systems.events.world import ROWS, Changes, World, quarter, us_changes

EVERY = (0, 1, 2, 3)
HOUR = timedelta(hours=1)


# What intervals become


def test_all_intervals_are_stored_with_the_us_events_of_each(world: World) -> None:
    done = world.load_all()
    expected = world.in_the_us(*EVERY)
    assert world.us() == expected
    assert len(expected) == 52
    assert us_changes(done) == Changes(52, 0, 0, 0)
    for number in EVERY:
        rows = world.raw(number).drop_columns(["file_interval"]).to_pylist()
        assert rows == world.served(number)
    counts = Counter(values[0] for values in expected.values())
    for number, entry in world.manifest().items():
        listed = world.simulator.listed(quarter(number))
        assert (entry.state, entry.size, entry.md5) == ("loaded", listed.size, listed.md5)
        assert (entry.rows_raw, entry.rows_us, entry.attempts) == (ROWS, counts[quarter(number)], 1)
        assert entry.first_asked_at == entry.last_asked_at == entry.loaded_at == world.now()
        assert (entry.reason, entry.refused_md5) == (None, None)
    assert set(world.uploads().values()) == {world.now()}
    assert world.left_behind() == []


def test_a_second_run_fetches_and_writes_nothing_and_upload_dates_stay(world: World) -> None:
    world.load_all()
    before, files, asked = world.tables(), world.raw_versions(), world.asked()
    world.ahead += HOUR
    done = world.load_all()
    assert (us_changes(done), done.taken) == (Changes(0, 0, 0, 52), [])
    assert (world.tables(), world.raw_versions(), world.asked()) == (before, files, asked)


@pytest.mark.long
def test_one_interval_that_is_stored_as_the_lists_say_is_not_fetched_again(world: World) -> None:
    world.load_all()
    before, files, asked = world.tables(), world.raw_versions(), world.asked()
    world.ahead += HOUR
    assert us_changes(world.load(2)) == Changes(0, 0, 0, 13)
    assert (world.tables(), world.raw_versions(), world.asked()) == (before, files, asked)


@pytest.mark.long
def test_without_an_interval_the_newest_file_is_loaded(world: World) -> None:
    world.load()
    assert world.states() == {3: "loaded"}
    assert world.us() == world.in_the_us(3)
    assert (world.asked(), world.lists()) == (1, 0)


@pytest.mark.long
def test_one_interval_is_verified_by_what_the_lists_say_of_it(world: World) -> None:
    half = world.simulator.archive(quarter(2))
    world.load(1)
    assert world.us() == world.in_the_us(1)
    assert (world.asked(), world.lists()) == (1, 1)
    world.simulator.change(quarter(2), halves=99)
    world.load(2)
    assert (world.states(), world.us()) == ({1: "loaded", 2: "missing"}, world.in_the_us(1))
    assert f"should have {len(half)} " in str(world.manifest()[2].reason)


@pytest.mark.long
def test_one_interval_is_taken_by_the_newest_file_alone_where_the_list_of_all_is_away(world: World) -> None:
    world.simulator.faults.rates("masterfilelist.txt", {"503": 1.0})
    world.load(3)
    assert world.us() == world.in_the_us(3)
    with pytest.raises(TransientError, match="GET /masterfilelist.txt"):
        world.load(2)


@pytest.mark.long
@pytest.mark.parametrize("stale", ["lastupdate.txt", "masterfilelist.txt"])
def test_of_two_lists_that_disagree_the_one_that_names_the_file_is_right(
    world: World, monkeypatch: pytest.MonkeyPatch, stale: str
) -> None:
    world.load_all()
    old = world.simulator.listed(quarter(3))
    world.simulator.republish(quarter(3))
    said = FeedFile(file_name(quarter(3)), quarter(3), old.size, old.md5)
    if stale == "lastupdate.txt":
        monkeypatch.setattr(EventsFeed, "latest", lambda _: said)
    else:
        listed = EventsFeed.listed
        monkeypatch.setattr(
            EventsFeed,
            "listed",
            lambda *args: (said if file.interval == quarter(3) else file for file in listed(*args)),
        )
    world.load_all()
    assert world.us() == world.in_the_us(0, 1, 2, 3)
    assert (world.manifest()[3].md5, world.manifest()[3].reason) == (world.simulator.listed(quarter(3)).md5, None)


@pytest.mark.long
def test_the_end_of_a_stretch_is_not_in_it(world: World) -> None:
    world.load(1, 3)
    assert world.states() == {1: "loaded", 2: "loaded"}
    assert world.us() == world.in_the_us(1, 2)


@pytest.mark.long
def test_a_file_that_is_there_before_its_interval_is_over_is_taken(world: World) -> None:
    world.ahead = -INTERVAL
    world.load(0, 100)
    assert world.states() == dict.fromkeys(EVERY, "loaded")
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
def test_an_interval_that_is_not_over_is_not_missing(world: World) -> None:
    world.simulator.change(quarter(3), held=True)
    world.ahead = -timedelta(microseconds=1)
    world.load(0, 100)
    assert world.states() == {0: "loaded", 1: "loaded", 2: "loaded"}
    world.ahead = timedelta(0)
    world.load(0, 100)
    assert world.states() == {0: "loaded", 1: "loaded", 2: "loaded", 3: "missing"}


# Published again


@pytest.mark.long
def test_a_republished_file_replaces_its_slice_and_only_changed_rows_have_a_new_upload_date(world: World) -> None:
    world.load_all()
    first, uploaded = world.now(), world.us()
    others = [row for row in world.tables()["us_event_data"] if row[0] != quarter(1)]
    world.simulator.republish(quarter(1))
    world.ahead += HOUR
    asked = world.asked()
    done = world.load_all()
    expected = world.in_the_us(*EVERY)
    assert world.us() == expected
    assert world.asked() == asked + 1
    assert world.raw(1).drop_columns(["file_interval"]).to_pylist() == world.served(1)
    inserted = expected.keys() - uploaded.keys()
    updated = {number for number in expected if expected[number] != uploaded.get(number)} - inserted
    deleted = uploaded.keys() - expected.keys()
    assert us_changes(done) == Changes(
        len(inserted), len(updated), len(deleted), len(expected) - len(inserted) - len(updated)
    )
    new = {number for number, at in world.uploads().items() if at == world.now()}
    assert new == inserted | updated
    assert {at for number, at in world.uploads().items() if number not in new} == {first}
    assert [row for row in world.tables()["us_event_data"] if row[0] != quarter(1)] == others
    assert world.manifest()[1].md5 == world.simulator.listed(quarter(1)).md5


@pytest.mark.long
def test_the_upload_date_of_a_changed_row_moves_and_that_of_others_stays(world: World) -> None:
    world.load_own(0, 0, 1, 2)
    first = world.now()
    world.ahead += HOUR
    moved = {"global_event_id": "817930294", "action_geo_full_name": "Omaha, Nebraska, United States"}
    done = world.load_own(0, 0, moved, 3)
    assert us_changes(done) == Changes(1, 1, 1, 1)
    assert world.uploads() == {817930293: first, 817930294: world.now(), 817930296: world.now()}
    assert world.us()[817930294][5] == "Omaha, Nebraska, United States"
    world.ahead += HOUR
    assert us_changes(world.load_own(0, 0, moved, 3)) == Changes(0, 0, 0, 3)
    assert set(world.uploads().values()) == {first, world.now() - HOUR}


@pytest.mark.long
def test_a_republished_file_that_is_refused_leaves_what_is_stored_and_is_fetched_once(world: World) -> None:
    world.load_all()
    before, files = world.tables(), world.raw_versions()
    world.simulator.change(quarter(1), defect="truncated")
    world.ahead += HOUR
    asked = world.asked()
    (taken,) = world.load_all().taken
    assert (taken.outcome, taken.entry.state) == (None, "loaded")
    entry, listed = world.manifest()[1], world.simulator.listed(quarter(1))
    assert (entry.state, entry.refused_md5, entry.attempts) == ("loaded", listed.md5, 2)
    assert entry.md5 != listed.md5
    assert str(entry.reason).startswith("20190121001500.export.CSV.zip: ")
    assert (world.tables()["us_event_data"], world.raw_versions()) == (before["us_event_data"], files)
    assert world.asked() == asked + 1
    known = world.tables()
    world.ahead += HOUR
    assert world.load_all().taken == []
    assert (world.tables(), world.asked()) == (known, asked + 1)
    world.simulator.restore(quarter(1))
    world.simulator.republish(quarter(1))
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)
    assert (world.manifest()[1].reason, world.manifest()[1].refused_md5) == (None, None)
    assert world.left_behind() == []


@pytest.mark.long
@pytest.mark.parametrize("defect", sorted(set(DEFECTS) - {"no-events", "bad-rows", "nul", "latin-1"}))
def test_a_file_that_cannot_be_taken_is_refused_named_and_fetched_once(world: World, defect: str) -> None:
    world.simulator.change(quarter(2), defect=defect)
    done = world.load_all()
    assert world.states() == {0: "loaded", 1: "loaded", 2: "refused", 3: "loaded"}
    assert world.us() == world.in_the_us(0, 1, 3)
    (entry,) = done.of_state("refused")
    assert (entry.rows_raw, entry.md5, entry.refused_md5) == (None, None, world.simulator.listed(quarter(2)).md5)
    assert str(entry.reason).startswith("20190121003000.export.CSV.zip: ")
    assert not world.raw_file(2).exists()
    assert world.left_behind() == []
    asked = world.asked()
    world.ahead += timedelta(days=7)
    world.load_all()
    assert (world.asked(), world.states()[2]) == (asked, "refused")
    world.simulator.restore(quarter(2))
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
@pytest.mark.parametrize("listed", [{"listed_md5": "0" * 32}, {"listed_size": 7}], ids=["md5", "size"])
def test_a_file_that_stays_another_one_than_listed_is_missing_and_asked_for_again(
    world: World, listed: dict[str, Any]
) -> None:
    world.simulator.change(quarter(2), **listed)
    asked = world.asked()
    world.load_all()
    assert world.states() == {0: "loaded", 1: "loaded", 2: "missing", 3: "loaded"}
    assert world.asked() - asked == 3 + 3
    assert "(3 attempts)" in str(world.manifest()[2].reason)
    world.simulator.restore(quarter(2))
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
def test_a_file_that_is_being_published_is_fetched_again_and_taken_whole(world: World) -> None:
    world.simulator.change(quarter(2), halves=2)
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)
    assert world.manifest()[2].reason is None


@pytest.mark.long
def test_a_newest_file_that_is_republished_after_the_list_was_read_is_taken_as_it_is_now(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    latest = EventsFeed.latest

    def republished(self: EventsFeed) -> FeedFile:
        world.simulator.republish(quarter(3))
        return latest(self)

    monkeypatch.setattr(EventsFeed, "latest", republished)
    world.load_all()
    assert world.asked() == 4
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
def test_a_file_without_events_leaves_an_interval_without_any(world: World) -> None:
    world.load_all()
    world.simulator.change(quarter(2), defect="no-events")
    assert us_changes(world.load_all()).deleted == 13
    assert world.us() == world.in_the_us(0, 1, 3)
    assert (world.manifest()[2].state, world.manifest()[2].rows_raw, world.manifest()[2].rows_us) == ("loaded", 0, 0)


# Missing, late, absent


@pytest.mark.long
def test_a_missing_interval_is_asked_for_again_and_loaded_when_it_comes(world: World) -> None:
    world.simulator.change(quarter(1), held=True)
    done = world.load_all()
    (entry,) = done.of_state("missing")
    assert (entry.interval, entry.reason, entry.rows_raw) == (quarter(1), "the feed does not list it", None)
    assert world.us() == world.in_the_us(0, 2, 3)
    first = world.now()
    world.ahead += HOUR
    world.load_all()
    assert (world.states()[1], world.manifest()[1].attempts) == ("missing", 2)
    world.simulator.restore(quarter(1))
    world.ahead += HOUR
    world.load_all()
    entry = world.manifest()[1]
    assert (entry.state, entry.attempts, entry.reason) == ("loaded", 3, None)
    assert (entry.first_asked_at, entry.last_asked_at) == (first, world.now())
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.parametrize(
    ("after", "state"),
    [
        pytest.param(timedelta(hours=24) - timedelta(microseconds=1), "missing", marks=pytest.mark.long),
        (timedelta(hours=24), "absent"),
    ],
)
def test_a_missing_interval_is_absent_from_the_last_instant_on(world: World, after: timedelta, state: str) -> None:
    world.simulator.change(quarter(3), held=True)
    world.ahead = after
    world.load(3, 4)
    assert world.states() == {3: state}


@pytest.mark.long
def test_how_long_an_interval_may_be_late_is_a_setting(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTS_LATE_HOURS", "2")
    world.simulator.change(quarter(3), held=True)
    for world.ahead, state in ((2 * HOUR - INTERVAL, "missing"), (2 * HOUR, "absent")):
        world.load(3, 4)
        assert world.states() == {3: state}


@pytest.mark.long
def test_an_absent_interval_is_loaded_when_somebody_asks_and_it_is_there_after_all(world: World) -> None:
    world.simulator.change(quarter(1), held=True)
    world.ahead = timedelta(days=2)
    world.load_all()
    assert world.states()[1] == "absent"
    world.simulator.restore(quarter(1))
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)


@pytest.mark.long
def test_a_file_that_is_listed_and_not_there_is_missing(world: World) -> None:
    world.simulator.change(quarter(1), withdrawn=True)
    world.load_all()
    assert world.states() == {0: "loaded", 1: "missing", 2: "loaded", 3: "loaded"}
    assert "404" in str(world.manifest()[1].reason)
    assert world.us() == world.in_the_us(0, 2, 3)


@pytest.mark.long
def test_a_stored_interval_stays_when_the_feed_takes_its_file_away(world: World) -> None:
    world.load_all()
    before = world.tables()
    world.simulator.change(quarter(1), held=True)
    world.ahead = timedelta(days=7)
    world.load_all()
    assert world.tables() == before


@pytest.mark.long
def test_a_list_with_lines_that_say_nothing_gives_all_the_files(world: World) -> None:
    world.simulator.broken_lines = "nonsense\n\n12 34 56\n"
    world.load_all()
    assert world.us() == world.in_the_us(*EVERY)


# Each event once


@pytest.mark.long
def test_an_event_in_two_intervals_is_stored_once_by_the_first_that_brought_it(world: World) -> None:
    world.load_own(0, 0, 1)
    done = world.load_own(1, 1, 2)
    assert {number: values[0] for number, values in world.us().items()} == {
        817930293: quarter(0),
        817930294: quarter(0),
        817930295: quarter(1),
    }
    (stored,) = done.stored
    assert (stored.outcome.received, stored.outcome.change.inserted, stored.outcome.change.deduplicated) == (2, 1, 1)
    assert (world.manifest()[1].rows_raw, world.manifest()[1].rows_us) == (2, 1)
    before = world.tables()["us_event_data"]
    for _ in range(3):
        world.load_own(1, 1, 2)
        world.load_own(0, 0, 1)
    assert world.tables()["us_event_data"] == before


@pytest.mark.long
def test_an_event_that_a_file_has_twice_is_stored_once_as_it_is_last(world: World) -> None:
    again = {"global_event_id": "817930293", "action_geo_full_name": "Omaha, Nebraska, United States"}
    world.load_own(0, 0, 1, again)
    assert {number: values[5] for number, values in world.us().items()} == {
        817930293: "Omaha, Nebraska, United States",
        817930294: "Lincoln, Nebraska, United States",
    }
    assert world.query("SELECT received, inserted, deduplicated FROM etl.ledger WHERE asset = 'events.raw_events'") == [
        (3, 2, 1)
    ]


# The rule


@pytest.mark.long
def test_another_rule_is_derived_from_what_is_stored_without_fetching(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load_all()
    by_country, asked = world.us(), world.asked()
    monkeypatch.setenv("EVENTS_US_RULE", "bounding_box")
    done = world.load_all()
    in_the_box = {
        event["global_event_id"]
        for number in EVERY
        for event in world.served(number)
        if event["action_geo_lat"] is not None
        and 24.396308 <= event["action_geo_lat"] <= 49.384358
        and -125.0 <= event["action_geo_long"] <= -66.93457
    }
    assert world.us().keys() == in_the_box != by_country.keys()
    assert sum(totals(done.stored)[1].values()) == 4 * ROWS - len(in_the_box)
    assert world.asked() == asked
    monkeypatch.setenv("EVENTS_US_RULE", "country_code")
    monkeypatch.setenv("EVENTS_US_COUNTRY_CODES", "US,rq")
    world.load_all()
    codes = {
        event["global_event_id"]
        for n in EVERY
        for event in world.served(n)
        if event["action_geo_country_code"] in ("US", "RQ")
    }
    assert world.us().keys() == codes
    assert world.asked() == asked


@pytest.mark.long
def test_a_wrong_country_code_is_refused_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTS_US_COUNTRY_CODES", "USA")
    with pytest.raises(ConfigurationError, match="EVENTS_US_COUNTRY_CODES"):
        world.load_all()


# Quarantine


@pytest.mark.long
def test_single_bad_rows_are_in_quarantine_with_file_and_line_and_the_rest_is_taken(world: World) -> None:
    world.simulator.change(quarter(1), defect="bad-rows")
    done = world.load_all()
    assert done.quarantined == 5
    name = file_name(quarter(1))
    assert [(source, column, rule) for _, source, column, rule in world.quarantine()] == [
        (f"{name}, line 2", "", "60 fields, not 61"),
        (f"{name}, line 4", "", "62 fields, not 61"),
        (f"{name}, line 6", "sql_date", "not a day (YYYYMMDD)"),
        (f"{name}, line 8", "action_geo_lat", "not a number"),
        (f"{name}, line 10", "global_event_id", "not a whole number"),
    ]
    assert {partition for partition, *_ in world.quarantine()} == {"20190121001500"}
    assert (world.manifest()[1].state, world.manifest()[1].rows_raw) == ("loaded", ROWS - len(BAD_LINES))
    good = world.raw(1)["global_event_id"].to_pylist()
    assert world.us().keys() == world.in_the_us(0, 2, 3).keys() | (set(good) & world.us().keys())
    assert len(good) == 35


@pytest.mark.long
@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("action_geo_lat", "90.5", "ge=-90, le=90"),
        ("quad_class", "5", "le=4"),
        ("date_added", "", "required"),
        ("sql_date", "2018-01-21", "not a day"),
        ("action_geo_lat", "NaN", "not a number"),
        ("action_geo_long", "inf", "not a number"),
        ("num_mentions", "1e3", "not a whole number"),
        ("num_mentions", "8.0", "not a whole number"),
    ],
)
def test_a_row_that_breaks_a_rule_is_in_quarantine_wherever_the_rule_is_judged(
    world: World, field: str, value: str, rule: str
) -> None:
    done = world.load_own(0, 0, 1, {"global_event_id": "7", field: value}, 2)
    assert (done.quarantined, world.manifest()[0].rows_raw) == (1, 3)
    assert len(world.us()) == 3
    ((partition, source, column, _),) = world.quarantine()
    assert (partition, column) == ("20190121000000", field)
    assert source.startswith("20190121000000.export.CSV.zip")


@pytest.mark.long
def test_a_raw_file_that_is_gone_or_damaged_is_fetched_again_and_no_us_event_is_deleted(world: World) -> None:
    world.load_all()
    before = world.us()
    world.raw_file(1).unlink()
    world.raw_file(2).write_bytes(world.raw_file(2).read_bytes()[:500])
    asked = world.asked()
    world.load_all()
    assert (world.us(), world.asked()) == (before, asked + 2)
    assert (world.raw(1).num_rows, world.raw(2).num_rows) == (ROWS, ROWS)


@pytest.mark.long
def test_a_raw_file_that_is_gone_and_not_in_the_feed_fails_the_load_and_no_us_event_is_deleted(world: World) -> None:
    world.load_all()
    before = world.us()
    world.raw_file(1).unlink()
    world.simulator.change(quarter(1), held=True)
    with pytest.raises(PermanentError, match=r"20190121001500.*is gone"):
        world.load_all()
    assert world.us() == before


@pytest.mark.long
def test_an_event_that_one_of_its_two_files_no_longer_has_is_not_lost(world: World) -> None:
    world.load_own(0, 0, 1)
    world.load_own(1, 0, 2)
    world.load_own(0, 1)
    assert world.us().keys() == {817930293, 817930294, 817930295}


@pytest.mark.long
def test_one_interval_that_is_asked_for_before_it_is_over_is_not_missing(world: World) -> None:
    world.simulator.change(quarter(3), held=True)
    world.ahead = -timedelta(minutes=5)
    world.load(3)
    assert world.states() == {}


@pytest.mark.long
def test_a_file_that_is_published_slower_than_the_client_tries_is_taken_when_it_is_whole(world: World) -> None:
    world.simulator.change(quarter(2), halves=3)
    world.load_all()
    world.ahead += HOUR
    world.load_all()
    assert world.us() == world.in_the_us(0, 1, 2, 3)


@pytest.mark.long
def test_a_feed_that_goes_back_to_the_file_that_is_stored_takes_the_reason_away(world: World) -> None:
    world.load_all()
    world.simulator.change(quarter(1), defect="truncated")
    world.load_all()
    world.simulator.restore(quarter(1))
    world.load_all()
    assert world.manifest()[1].reason is None


@pytest.mark.long
def test_a_refused_md5_is_remembered_when_the_file_is_away_in_between(world: World) -> None:
    world.load_all()
    world.simulator.change(quarter(1), defect="truncated")
    world.load_all()
    world.simulator.change(quarter(1), withdrawn=True)
    world.load(1)
    world.simulator.change(quarter(1), withdrawn=False)
    asked = world.asked()
    world.load_all()
    assert world.asked() == asked


@pytest.mark.long
def test_a_temporary_folder_that_cannot_be_made_is_named_with_what_to_do(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(world.folder / "none"))
    with pytest.raises(PlatformError, match="TMPDIR"):
        world.load()


@pytest.mark.long
def test_a_raw_file_that_is_damaged_is_replaced_when_its_interval_is_fetched_again(world: World) -> None:
    world.load_all()
    world.raw_file(1).write_bytes(world.raw_file(1).read_bytes()[:500])
    world.load(1)
    assert world.raw(1).num_rows == ROWS


def replayed(world: World, **corrections: Any) -> list[str]:
    """The faults that the one row in quarantine still has when it is replayed."""
    (entry,), _ = list_entries(world.database, Filter(asset="events.raw_events", status="all"))
    root = ParquetRoot(EventsSettings.load().storage_url)
    return list(replay(world.database, root, entry.id, contract=RawEvents, corrections=corrections).faults)


@pytest.mark.long
@pytest.mark.parametrize(
    ("fields", "corrections"),
    [
        ({"action_geo_lat": "95"}, {"action_geo_lat": 61.2}),
        ({"sql_date": "20190230"}, {"sql_date": "2019-02-28"}),
        ({"num_mentions": "many"}, {"num_mentions": 3}),
        ({"date_added": ""}, {"date_added": "2019-01-21T00:15:00Z"}),
    ],
)
def test_a_row_in_quarantine_is_stored_once_it_is_corrected_and_derived_by_the_next_load(
    world: World, fields: dict[str, str], corrections: dict[str, Any]
) -> None:
    world.load_own(0, 0, {"global_event_id": "7", **fields}, 1)
    (entry,), _ = list_entries(world.database, Filter(asset="events.raw_events"))
    assert entry.source.startswith("20190121000000.export.CSV.zip, ")

    (column,) = corrections
    assert [fault.split(":")[0] for fault in replayed(world)] == [column]
    assert replayed(world, **{column: "a\nb"}) != []
    assert world.raw(0).num_rows == 2
    assert replayed(world, **corrections) == replayed(world, **corrections) == []
    assert world.raw(0)["global_event_id"].to_pylist() == [817930293, 817930294, 7]
    stores = Stores(world.database, ParquetRoot(EventsSettings.load().storage_url))
    list(store_us_events(stores, [quarter(0)], rule=us_rule(), clock=world.now))
    assert (world.us().keys(), world.manifest()[0].rows_raw) == ({7, 817930293, 817930294}, 3)


@pytest.mark.long
@pytest.mark.parametrize("own_file", [True, False])
def test_a_rule_that_cannot_be_right_is_said_before_anything_is_written(
    world: World, monkeypatch: pytest.MonkeyPatch, own_file: bool
) -> None:
    monkeypatch.setenv("EVENTS_US_COUNTRY_CODES", "PR")
    with pytest.raises(ConfigurationError, match="RQ"):
        world.load_own(0, 0) if own_file else world.load(0)
    assert (world.written(), world.asked()) == (False, 0)


def test_a_stretch_in_a_zone_with_daylight_saving_has_the_intervals_of_utc() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for day, hours in (((2019, 10, 27), 25), ((2019, 3, 31), 23)):
        begin = datetime(*day, tzinfo=berlin)
        found = list(quarters(begin, begin + timedelta(days=1)))
        assert found == [begin.astimezone(UTC) + number * INTERVAL for number in range(4 * hours)]


@pytest.mark.long
def test_a_row_that_was_replayed_stays_when_the_same_file_is_loaded_again(world: World) -> None:
    events = (0, {"global_event_id": "7", "action_geo_lat": "95"}, 1)
    world.load_own(0, *events)
    assert replayed(world, action_geo_lat=61.2) == []
    for _ in range(2):
        world.load_own(0, *events)
        assert world.us().keys() == {7, 817930293, 817930294}
        assert (world.manifest()[0].rows_raw, world.manifest()[0].rows_us) == (3, 3)
    world.load_own(0, 0, 1, 2)
    assert world.us().keys() == {817930293, 817930294, 817930295}


@pytest.mark.long
def test_a_row_that_the_feed_has_corrected_is_not_replaced_by_a_replayed_one(world: World) -> None:
    world.load_own(0, 0, {"global_event_id": "7", "action_geo_lat": "95"}, 1)
    world.load_own(0, 0, {"global_event_id": "7", "action_geo_lat": "45"}, 1)
    assert list_entries(world.database) == ([], 0)
    with pytest.raises(PermanentError, match="is gone: its source"):
        replayed(world, action_geo_lat=61.2)
    assert world.us()[7][7] == 45


@pytest.mark.long
def test_a_row_that_is_in_its_file_a_second_time_and_right_is_not_replayed(world: World) -> None:
    event = {"global_event_id": "7"}
    world.load_own(0, 0, {**event, "action_geo_lat": "45"}, {**event, "num_mentions": "many"}, 1)
    assert replayed(world, num_mentions=3) == ["global_event_id: the file has this event by now"]
    assert world.us()[7][7] == 45


@pytest.mark.long
def test_a_replayed_row_that_a_republished_file_has_wrong_again_is_corrected_again(world: World) -> None:
    wrong = {"global_event_id": "7", "action_geo_lat": "95"}
    world.load_own(0, 0, wrong)
    assert replayed(world, action_geo_lat=61.2) == []
    world.load_own(0, 0, wrong)
    assert list_entries(world.database) == ([], 0)
    world.load_own(0, 0, wrong, 1)
    assert world.us().keys() == {7, 817930293, 817930294}
    world.load_own(0, 0, 1)
    assert world.us().keys() == {817930293, 817930294}
    assert list_entries(world.database) == ([], 0)


def damage(path: Path) -> None:
    """In the middle, where the end of the file says nothing of it."""
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xee" * 60 + data[64:])


@pytest.mark.long
def test_a_raw_file_that_is_damaged_in_its_middle_is_fetched_again_by_the_next_run(world: World) -> None:
    world.load_all()
    before = world.us()
    damage(world.raw_file(1))
    with pytest.raises(
        PermanentError,
        match=r"20190121001500.*is damaged.*: materialise it again, by a run of raw_events for 2019-01-21 or",
    ):
        world.load_all()
    assert (world.us(), world.states()) == (before, {0: "loaded", 1: "missing", 2: "loaded", 3: "loaded"})
    asked = world.asked()
    world.load_all()
    assert (world.us(), set(world.states().values()), world.asked()) == (before, {"loaded"}, asked + 1)
    assert world.raw(1).num_rows == ROWS


@pytest.mark.long
def test_a_replayed_row_outlives_damage_of_the_raw_file(world: World) -> None:
    events = (0, {"global_event_id": "7", "action_geo_lat": "95"}, 1)
    world.load_own(0, *events)
    assert replayed(world, action_geo_lat=61.2) == []
    world.load_own(0, *events)
    damage(world.raw_file(0))
    world.load_own(0, *events)
    assert world.us().keys() == {7, 817930293, 817930294}
    assert list_entries(world.database) == ([], 0)


@pytest.mark.long
@pytest.mark.parametrize("field", [{"date_added": ""}, {"action_geo_lat": "-96.7"}, {"quad_class": "0"}])
def test_a_file_of_which_most_rows_break_the_contract_is_refused_whole(world: World, field: dict[str, str]) -> None:
    world.load_own(0, 0, 1, 2)
    before = world.tables()
    with pytest.raises(FileRejected, match=r"2 of 3 rows cannot be taken \(line 2: "):
        world.load_own(0, 0, *({"global_event_id": f"{number}", **field} for number in (7, 8)))
    assert world.tables() == before

"""The manifest of intervals: what it says is what was noted, and which intervals are due."""

from datetime import UTC, date, timedelta, timezone

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.errors import PermanentError
from etl_assets.systems.events.files import INTERVAL, quarters
from etl_assets.systems.events.manifest import Entry, entries, midnight
from etl_assets_tests.systems.events.manifests import record
from etl_assets_tests.systems.events.world import FIRST, quarter

SECOND = timedelta(seconds=1)
FULL = Entry(
    quarter(1), "loaded", 99, "a" * 32, "b" * 32, 40, 13, 2, 3, FIRST, quarter(2), quarter(3), "it was refused, once"
)


def test_entries_are_what_was_noted_in_the_order_of_their_intervals(database: Database) -> None:
    noted = [FULL, Entry(quarter(0)), Entry(quarter(3), "absent", attempts=2, reason="the feed does not list it")]
    record(database, *noted)
    found = entries(database, quarter(0), quarter(4))
    assert list(found.items()) == [(entry.interval, entry) for entry in (noted[1], noted[0], noted[2])]
    assert all(entry.interval.tzinfo is UTC for entry in found.values())


def test_the_end_of_a_stretch_is_not_in_it(database: Database) -> None:
    record(database, *(Entry(quarter(number)) for number in range(4)))
    for first, last, found in ((1, 3, [1, 2]), (1, 1, []), (3, 9, [3]), (4, 9, [])):
        assert list(entries(database, quarter(first), quarter(last))) == [quarter(number) for number in found]


@pytest.mark.long
def test_an_entry_is_found_whatever_zone_it_is_asked_for_in(database: Database) -> None:
    record(database, FULL, run_id="a run")
    elsewhere = timezone(timedelta(hours=-5))
    assert entries(database, quarter(1).astimezone(elsewhere), quarter(2).astimezone(elsewhere)) == {quarter(1): FULL}


@pytest.mark.long
def test_an_entry_that_says_what_it_said_is_not_written_again(database: Database) -> None:
    with database.connect() as connection:
        record(database, FULL, Entry(quarter(0)), run_id="a run")
        versions = "SELECT xmin::text FROM events.intervals ORDER BY interval"
        before = connection.execute(versions).fetchall()
        connection.commit()
        record(database, FULL, Entry(quarter(0), attempts=1), run_id="another run")
        after = connection.execute(versions).fetchall()
    assert after[0] != before[0]
    assert after[1] == before[1]


@pytest.mark.long
def test_nothing_to_note_is_no_write(database: Database) -> None:
    record(database, run_id="a run")
    with database.connect() as connection:
        assert connection.execute("SELECT count(*) FROM etl.ledger").fetchone() == (0,)


@pytest.mark.long
def test_a_state_that_there_is_not_is_never_in_the_manifest(database: Database) -> None:
    record(database, Entry(quarter(0), "lost"), Entry(quarter(1), "missing"), run_id="a run")
    assert {at: entry.state for at, entry in entries(database, quarter(0), quarter(9)).items()} == {
        quarter(1): "missing"
    }
    with pytest.raises(PermanentError), database.connect() as connection:
        connection.execute("INSERT INTO events.intervals (interval, state, attempts) VALUES (now(), 'lost', 0)")


def test_nothing_is_in_a_stretch_that_ends_where_it_begins_or_before() -> None:
    assert list(quarters(quarter(3), quarter(3))) == list(quarters(quarter(3), quarter(0))) == []
    assert list(quarters(quarter(3), quarter(3) + SECOND)) == [quarter(3)]


@pytest.mark.parametrize("day", [date(2020, 2, 29), date(2019, 12, 31), date(2019, 3, 31), date(2019, 11, 3)])
def test_each_day_of_the_calendar_has_96_intervals_of_utc(day: date) -> None:
    begin = midnight(day)
    found = list(quarters(begin, begin + timedelta(days=1)))
    assert (len(found), found[0], found[-1] + INTERVAL) == (96, begin, midnight(day + timedelta(days=1)))
    assert begin.isoformat() == f"{day}T00:00:00+00:00"


def test_an_interval_without_a_row_is_stored_and_one_that_was_never_read_is_not() -> None:
    assert Entry(FIRST, "loaded", rows_raw=0).stored
    assert not Entry(FIRST, "refused").stored

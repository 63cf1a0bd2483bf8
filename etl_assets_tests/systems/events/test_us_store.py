"""From the raw layer to the US events: which are stored, once each, in which transactions, with what the manifest says."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.errors import PermanentError
from etl_assets.systems.events import us_events as us_store
from etl_assets.systems.events.manifest import Entry
from etl_assets.systems.events.raw_layer import ReadFile, Stores, interval_slice, read_file, store_raw
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.transform import InBox, UsRule, us_rule
from etl_assets.systems.events.us_events import StoredIntervals, store_us_events, totals
from etl_assets_tests.systems.events.manifests import record
from etl_assets_tests.systems.events.world import World, quarter

ID = 817930293
ABROAD = {"action_geo_country_code": "GM", "action_geo_lat": "52.5", "action_geo_long": "13.4"}
NOWHERE = {"action_geo_country_code": "", "action_geo_lat": "", "action_geo_long": ""}


def stores(world: World) -> Stores:
    return Stores(world.database, ParquetRoot(EventsSettings.load().storage_url), "a run")


def raw(world: World, number: int, *events: dict[str, str] | int) -> None:
    """An interval in the raw layer, noted in the manifest."""
    file = read_file(world.own(number, *events), quarter(number))
    stored(world, number, file)


def stored(world: World, number: int, file: ReadFile) -> None:
    with locked(world.database, [interval_slice(quarter(number))]) as lock:
        store_raw(stores(world), quarter(number), file, lock=lock)


def derived(
    world: World, *numbers: int, rule: UsRule | None = None, now: datetime | None = None
) -> list[StoredIntervals]:
    intervals = [quarter(number) for number in numbers]
    return list(
        store_us_events(stores(world), intervals, rule=rule or us_rule(), clock=(lambda: now) if now else world.now)
    )


def ids(world: World) -> dict[int, list[int]]:
    """The events of each interval."""
    found: dict[int, list[int]] = {}
    for number, values in sorted(world.us().items()):
        found.setdefault((values[0] - quarter(0)) // timedelta(minutes=15), []).append(number - ID)
    return found


@pytest.mark.long
def test_only_intervals_with_rows_in_the_raw_layer_are_derived(world: World) -> None:
    raw(world, 1, 0)
    record(world.database, Entry(quarter(0), "missing"), Entry(quarter(2), "refused"))
    assert [(one.day, len(one.intervals)) for one in derived(world, 0, 1, 2, 3)] == [(date(2019, 1, 21), 1)]
    assert derived(world) == derived(world, 0, 2, 3) == []
    assert world.states() == {0: "missing", 1: "loaded", 2: "refused"}


@pytest.mark.long
def test_reasons_are_counted_by_transaction_and_together(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(us_store, "STORED_TOGETHER", 2)
    raw(world, 0, 0, {"global_event_id": "1", **ABROAD}, {"global_event_id": "2", **NOWHERE})
    raw(world, 1, {"global_event_id": "3", **ABROAD})
    raw(world, 2, {"global_event_id": "4", **ABROAD})
    stored = derived(world, 0, 1, 2)
    assert [totals([one])[1] for one in stored] == [
        {"another country": 2, "no action location": 1},
        {"another country": 1, "no action location": 0},
    ]
    assert totals(stored)[1] == {"another country": 3, "no action location": 1}
    assert totals([])[1] == {}
    assert [(one.outcome.received, one.outcome.change.inserted) for one in stored] == [(1, 1), (0, 0)]
    assert (world.manifest()[1].rows_raw, world.manifest()[1].rows_us, world.manifest()[1].state) == (1, 0, "loaded")


def test_of_an_event_in_several_intervals_the_one_that_brought_it_first_keeps_it(world: World) -> None:
    for number in (0, 1, 2):
        raw(world, number, number, 7, number + 1)
    derived(world, 2)
    assert ids(world) == {2: [2, 3, 7]}
    (stored,) = derived(world, 0, 1, 2)
    assert ids(world) == {0: [0, 1], 2: [2, 3, 7]}
    change = stored.outcome.change
    assert (change.inserted, change.unchanged, change.deduplicated, stored.outcome.received) == (2, 3, 4, 9)
    assert {number: (entry.rows_us, entry.rows_repeated) for number, entry in world.manifest().items()} == {
        0: (2, 1),
        1: (0, 3),
        2: (3, 0),
    }


@pytest.mark.long
@pytest.mark.parametrize("together", [1, 2, 32])
def test_however_many_intervals_a_transaction_has_each_event_is_stored_once(
    world: World, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    monkeypatch.setattr(us_store, "STORED_TOGETHER", together)
    for number in range(5):
        raw(world, number, number, number + 1, 100)
    stored = derived(world, *range(5))
    assert ids(world) == {0: [0, 1, 100], 1: [2], 2: [3], 3: [4], 4: [5]}
    assert sum(one.outcome.change.deduplicated for one in stored) == 8
    assert [world.manifest()[number].rows_repeated for number in range(5)] == [0, 2, 2, 2, 2]
    before = world.tables()
    derived(world, *range(5), now=world.now() + timedelta(hours=1))
    assert world.tables() == before


@pytest.mark.long
def test_an_event_that_its_interval_gives_up_is_stored_with_another_that_has_it(world: World) -> None:
    for number in (0, 1, 95, 96):
        raw(world, number, number, 7)
    derived(world, 0, 1, 95, 96)
    assert ids(world) == {0: [0, 7], 1: [1], 95: [95], 96: [96]}
    raw(world, 0, 0)
    again = derived(world, 0)
    # In their order, and as always no two days in one transaction.
    assert [(one.day.day, len(one.intervals)) for one in again] == [(21, 1), (21, 2), (22, 1)]
    assert ids(world) == {0: [0], 1: [1, 7], 95: [95], 96: [96]}
    assert set(world.states().values()) == {"loaded"}
    assert world.uploads()[ID + 7] == world.now()


@pytest.mark.long
def test_until_it_is_stored_with_another_the_manifest_has_that_as_fetched(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(world, 0, 0, 7)
    raw(world, 1, 1, 7)
    derived(world, 0, 1)
    raw(world, 0, 0)
    coming = store_us_events(stores(world), [quarter(0)], rule=us_rule(), clock=world.now)
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert (world.states(), ids(world)) == ({0: "loaded", 1: "fetched"}, {0: [0], 1: [1]})
    derived(world, 0, 1)
    assert ids(world) == {0: [0], 1: [1, 7]}


@pytest.mark.long
def test_an_event_that_moves_within_a_transaction_is_never_away(world: World) -> None:
    raw(world, 0, 0)
    raw(world, 1, 1, 7)
    derived(world, 0, 1)
    raw(world, 0, 0, 7)
    raw(world, 1, 1)
    (stored,) = derived(world, 0, 1)
    assert ids(world) == {0: [0, 7], 1: [1]}
    change = stored.outcome.change
    assert (change.inserted, change.updated, change.deleted, change.unchanged) == (0, 1, 0, 2)


@pytest.mark.long
def test_two_that_derive_intervals_with_events_in_common_take_turns(world: World) -> None:
    for number in range(6):
        raw(world, number, *range(40))
    start = threading.Barrier(3)

    def derive(*numbers: int) -> None:
        start.wait()
        derived(world, *numbers)

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(derive, *numbers) for numbers in ((0, 1), (2, 3), (4, 5))]:
            done.result()
    (held,) = ids(world).values()
    assert held == list(range(40))
    manifest = world.manifest().values()
    assert (sum(entry.rows_us or 0 for entry in manifest), sum(entry.rows_repeated or 0 for entry in manifest)) == (
        40,
        200,
    )


@pytest.mark.long
@pytest.mark.parametrize("spoil", ["gone", "damaged"])
def test_of_an_interval_whose_raw_rows_are_gone_or_damaged_what_is_stored_stays(world: World, spoil: str) -> None:
    for number in range(3):
        raw(world, number, number)
    derived(world, 0, 1, 2)
    before = world.tables()
    path = world.raw_file(1)
    path.unlink() if spoil == "gone" else path.write_bytes(path.read_bytes()[:500])
    raw(world, 2, 2, 3)
    with pytest.raises(PermanentError, match=r"20190121001500"):
        derived(world, 0, 1, 2)
    assert world.tables()["us_event_data"][:2] == before["us_event_data"][:2]
    assert ids(world) == {0: [0], 1: [1], 2: [2, 3]}


@pytest.mark.long
def test_what_is_loaded_is_passed_over_where_only_what_was_fetched_is_asked_for(world: World) -> None:
    raw(world, 0, 0)
    derived(world, 0)
    raw(world, 1, 1)
    options = {"rule": us_rule(), "clock": world.now, "only_fetched": True}
    (stored,) = store_us_events(stores(world), [quarter(0), quarter(1)], **options)  # type: ignore[arg-type]
    assert (len(stored.intervals), stored.outcome.received) == (1, 1)
    assert list(store_us_events(stores(world), [quarter(0), quarter(1)], **options)) == []  # type: ignore[arg-type]


@pytest.mark.long
def test_us_events_and_the_manifest_are_one_transaction_of_some_intervals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(us_store, "STORED_TOGETHER", 2)
    for number in range(3):
        raw(world, number, number)
    intervals = [quarter(number) for number in range(3)]
    coming = store_us_events(stores(world), intervals, rule=us_rule(), clock=world.now)
    next(coming)
    assert world.states() == {0: "loaded", 1: "loaded", 2: "fetched"}
    assert ids(world) == {0: [0], 1: [1]}
    transactions = "SELECT count(DISTINCT xmin::text) FROM {} WHERE {} < '2019-01-21T00:30Z'"
    assert world.query(
        "SELECT (SELECT xmin::text FROM events.us_event_data LIMIT 1) = ALL (SELECT xmin::text FROM events.intervals"
        " WHERE state = 'loaded')"
    ) == [(True,)]
    assert world.query(transactions.format("events.us_event_data", "file_interval")) == [(1,)]
    assert [len(one.intervals) for one in coming] == [1]


@pytest.mark.long
def test_another_rule_replaces_what_is_stored_and_keeps_the_upload_date_of_what_stays(world: World) -> None:
    alaska = {"global_event_id": "1", "action_geo_lat": "61.2", "action_geo_long": "-149.9"}
    toronto = {
        "global_event_id": "2",
        "action_geo_country_code": "CA",
        "action_geo_lat": "43.7",
        "action_geo_long": "-79.4",
    }
    raw(world, 0, 0, alaska, toronto)
    derived(world, 0)
    first = world.now()
    (stored,) = derived(world, 0, rule=InBox(), now=first + timedelta(hours=1))
    assert world.uploads() == {ID: first, 2: first + timedelta(hours=1)}
    change = stored.outcome.change
    assert (change.inserted, change.deleted, change.unchanged) == (1, 1, 1)
    assert totals([stored])[1] == {"outside the box": 1, "no coordinates": 0}


@pytest.mark.long
def test_an_interval_whose_rows_all_went_has_none_and_the_manifest_says_so(world: World) -> None:
    raw(world, 0, 0, 1)
    derived(world, 0)
    raw(world, 0, {"global_event_id": "1", **ABROAD})
    (stored,) = derived(world, 0)
    assert (stored.outcome.change.deleted, world.us()) == (2, {})
    assert (world.manifest()[0].rows_raw, world.manifest()[0].rows_us) == (1, 0)


@pytest.mark.long
def test_a_naive_present_is_refused_before_anything_is_written(world: World) -> None:
    raw(world, 0, 0)
    with pytest.raises(ValueError, match="has no zone"):
        derived(world, 0, now=datetime(2019, 1, 21))
    assert (world.states(), world.us()) == ({0: "fetched"}, {})


@pytest.mark.long
def test_a_file_that_comes_while_its_interval_is_derived_is_derived_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw(world, 0, 0, 1)
    newer = read_file(world.own(0, 5), quarter(0))
    original = us_store.us_events
    threads: list[threading.Thread] = []

    def take() -> None:
        stored(world, 0, newer)

    def derive(*args: Any, **options: Any) -> Any:
        if not threads:
            threads.append(threading.Thread(target=take))
            threads[0].start()
            threads[0].join(0.3)
        return original(*args, **options)

    monkeypatch.setattr(us_store, "us_events", derive)
    derived(world, 0)
    threads[0].join()
    assert (world.manifest()[0].state, world.manifest()[0].md5) == ("fetched", newer.md5)
    derived(world, 0)
    assert (world.states(), ids(world)) == ({0: "loaded"}, {0: [5]})


@pytest.mark.long
def test_what_is_stored_is_seen_whatever_isolation_the_database_has_as_its_default(world: World) -> None:
    for number in range(4):
        raw(world, number, *range(20))
    [(name,)] = world.query("SELECT current_database()")
    world.execute(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = 'repeatable read'")
    fresh = replace(stores(world), database=Database(world.database.url))
    start = threading.Barrier(4)

    def derive(number: int) -> None:
        start.wait()
        list(store_us_events(fresh, [quarter(number)], rule=us_rule(), clock=world.now))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(derive, number) for number in range(4)]:
            done.result()
    (held,) = ids(world).values()
    assert held == list(range(20))


@pytest.mark.long
def test_another_rule_for_one_interval_changes_no_other(world: World) -> None:
    toronto = {"action_geo_country_code": "CA", "action_geo_lat": "43.7", "action_geo_long": "-79.4"}
    alaska = {"global_event_id": "1", "action_geo_lat": "61.2", "action_geo_long": "-149.9"}
    raw(world, 0, 0, alaska)
    raw(world, 1, 1, alaska, {"global_event_id": "2", **toronto})
    derived(world, 0, 1)
    before = world.us()
    derived(world, 0, rule=InBox())
    assert world.us() == {event: values for event, values in before.items() if event != 1}
    derived(world, 0)
    assert world.us() == before

"""Histories after which the manifest, the raw layer and the US events must still say the same: ends between two commits, feeds that fail over
some of what they list, events that move between files, rows that were replayed.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest

from etl_assets.cli import run
from etl_assets.core.slices import parquet as parquet_files
from etl_assets.core.slices import replay as replaying
from etl_assets.core.slices.entries import list_entries
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.errors import PermanentError, PlatformError, TransientError
from etl_assets.systems.events import files as archive
from etl_assets.systems.events import manifest as manifest
from etl_assets.systems.events import raw_layer as intake
from etl_assets.systems.events import script
from etl_assets.systems.events import us_events as us_store
from etl_assets.systems.events.files import INTERVAL, FileRejected
from etl_assets.systems.events.raw_layer import Stores, interval_slice, read_file, store_raw
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.transform import us_rule
from etl_assets.systems.events.us_events import store_us_events
from etl_assets_tests.systems.events.test_command import lost
from etl_assets_tests.systems.events.world import FIRST, World, quarter

ABROAD = {"action_geo_country_code": "GM"}
BROKEN = {"global_event_id": "7", "action_geo_lat": "95"}


def away(*_: Any, **__: Any) -> Any:
    raise TransientError("the database is away")


# A feed that fails


@pytest.mark.long
@pytest.mark.parametrize(("status", "failure"), [(403, PermanentError), (500, TransientError)])
def test_a_feed_that_gives_none_of_what_it_lists_has_failed_whatever_it_does_not_list(
    world: World, status: int, failure: type[PlatformError]
) -> None:
    world.simulator.change(quarter(2), held=True)
    if status == 500:
        world.simulator.faults.rates("files", {"500": 1.0})
    else:
        for number in (0, 1, 3):
            world.simulator.change(quarter(number), withdrawn=True, withdrawn_as=status)
    with pytest.raises(failure, match=f"events API, GET /.*{status}"):
        world.load_all()
    # What was tried is known, also of the file over which the load has ended.
    assert {number: entry.attempts for number, entry in world.manifest().items()} == {0: 1, 1: 1, 2: 1, 3: 1}
    assert f"{status}" in str(world.manifest()[3].reason)


@pytest.mark.long
def test_a_feed_that_is_away_is_given_up_though_it_lists_only_some_of_the_files(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "AWAY_IN_A_ROW", 2)
    world.simulator.advance(4)
    for number in (1, 3, 5):
        world.simulator.change(quarter(number), held=True)
    world.simulator.faults.rates("files", {"500": 1.0})
    with pytest.raises(TransientError, match="20190121003000"):
        world.load_all()
    assert set(world.manifest()) == {0, 1, 2}


@pytest.mark.long
def test_a_fault_of_this_machine_is_no_refusal_of_the_file(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.load_all()
    world.simulator.republish(quarter(1))

    def unreadable(*_: object) -> bytes:
        raise FileRejected("a file", "cannot be read (Too many open files)", "close some", "unreadable")

    with monkeypatch.context() as broken:
        broken.setattr(archive, "_read", unreadable)
        world.load_all()
    assert (world.manifest()[1].state, world.manifest()[1].refused_md5) == ("loaded", None)
    world.load_all()
    assert world.us() == world.in_the_us(0, 1, 2, 3)


# Ends between two commits


@pytest.mark.long
@pytest.mark.parametrize("committed", [True, False])
def test_a_load_that_ends_around_the_commit_of_a_file_is_made_good_though_the_feed_goes_back(
    world: World, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """Rows and manifest are in one commit: the file is fetched, or it is as before."""
    world.load_all()
    before = world.manifest()[1]
    world.simulator.republish(quarter(1))
    with monkeypatch.context() as broken:
        place, step = (script, "store_us_events") if committed else (parquet_files, "commit")
        broken.setattr(place, step, away)
        with pytest.raises(TransientError):
            world.load_all()
    after = world.manifest()[1]
    assert (after.state == "fetched", after.md5 != before.md5, after == before) == (committed, committed, not committed)
    world.simulator.restore(quarter(1))
    world.load_all()
    assert world.us() == world.in_the_us(0, 1, 2, 3)
    assert world.raw(1)["global_event_id"].to_pylist() == [event["global_event_id"] for event in world.served(1)]


@pytest.mark.long
def test_rows_of_another_file_are_never_taken_for_replayed_ones(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.load_own(0, 0, 1)
    with monkeypatch.context() as broken:
        broken.setattr(script, "store_us_events", away)
        with pytest.raises(TransientError):
            world.load_own(0, 5, 6)
    world.load_own(0, 0, 1)
    assert world.raw(0)["global_event_id"].to_pylist() == [817930293, 817930294]
    assert world.us().keys() == {817930293, 817930294}


@pytest.mark.long
def test_a_replay_that_ends_before_it_is_done_is_derived_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.load_own(0, 0, BROKEN, 1)
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    done = []

    def killed(*_: Any) -> Any:
        done.append(1)
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        # All that comes after its commit.
        broken.setattr(replaying, "publish", killed)
        assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) != 0
    assert (len(done), world.states()) == (1, {0: "fetched"})
    world.simulator.change(quarter(0), held=True)
    world.load(0, 1)
    assert world.us().keys() == {7, 817930293, 817930294}


# Events that several files have


@pytest.mark.long
@pytest.mark.parametrize("alone", [True, False])
def test_an_event_that_its_file_no_longer_has_in_the_us_goes_to_another_that_has(world: World, alone: bool) -> None:
    seven = {"global_event_id": "7"}
    world.load_own(0, 0, seven)
    world.load_own(1, 1, seven)
    world.load_own(0, 0, {**seven, **ABROAD})
    assert world.us()[7][0] == quarter(1)
    before = world.us()
    derive(world, *([0] if alone else [0, 1]))
    assert world.us() == before
    assert {number: (entry.rows_us, entry.rows_repeated) for number, entry in world.manifest().items()} == {
        0: (1, 0),
        1: (2, 0),
    }


def derive(world: World, *numbers: int, **options: Any) -> None:
    stores = Stores(world.database, ParquetRoot(EventsSettings.load().storage_url))
    options = {"rule": us_rule(), "clock": world.now, **options}
    list(store_us_events(stores, [quarter(number) for number in numbers], **options))


@pytest.mark.long
def test_the_upload_date_is_the_instant_of_the_transaction_and_not_of_the_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(us_store, "STORED_TOGETHER", 1)
    world.load_own(0, 0)
    world.load_own(1, 1)
    world.execute("TRUNCATE events.us_event_data")
    instants = iter(quarter(100 + number) for number in range(9))
    derive(world, 0, 1, clock=lambda: next(instants))
    assert list(world.uploads().values()) == [quarter(100), quarter(101)]


# Rows that were replayed


@pytest.mark.long
def test_a_replayed_line_counts_once_when_its_file_is_loaded_again(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load_own(0, 0, BROKEN, 1)
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) == 0
    capsys.readouterr()
    assert world.command("--file", str(world.own(0, 0, BROKEN, 1))) == 0
    assert "quarantine" not in capsys.readouterr().err
    newest = "SELECT received, unchanged, quarantined FROM etl.ledger WHERE asset = 'events.raw_events' ORDER BY committed_at DESC LIMIT 1"
    assert world.query(newest) == [(3, 3, 0)]


@pytest.mark.long
def test_a_correction_ends_with_its_record_and_one_that_comes_again_is_open_again(world: World) -> None:
    worse = {**BROKEN, "global_event_id": "8"}
    world.load_own(0, 0, BROKEN, 1, worse, 2)
    for (identity,) in world.query("SELECT id FROM etl.quarantine"):
        assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) == 0
    world.load_own(0, 0, BROKEN, 1, worse, 2)
    assert world.us().keys() == {7, 8, 817930293, 817930294, 817930295}
    world.load_own(0, 0, 1, worse, 2)
    assert world.us().keys() == {8, 817930293, 817930294, 817930295}
    world.load_own(0, 0, BROKEN, 1, worse, 2)
    assert world.us().keys() == {8, 817930293, 817930294, 817930295}
    (entry,), _ = list_entries(world.database)
    assert entry.raw["global_event_id"] == 7


@pytest.mark.long
@pytest.mark.parametrize("corrected", ["action_geo_lat=96", "event_code=1"])
def test_a_replay_that_stores_nothing_leaves_its_interval_as_it_is(world: World, corrected: str) -> None:
    world.load_own(0, 0, BROKEN, 1)
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    before = world.tables()
    assert run(["quarantine", "replay", identity, "--set", corrected]) == 1
    world.load_own(0, 0, 1)
    assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) == 1
    assert before["intervals"][0][:2] == world.tables()["intervals"][0][:2] == (quarter(0), "loaded")


@pytest.mark.long
def test_a_row_that_goes_while_its_replay_waits_is_not_stored(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.load_own(0, 0, BROKEN, 1)
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    waiting = threading.Event()

    def waits(*args: Any) -> Any:
        waiting.set()
        return locked(*args)

    monkeypatch.setattr(replaying, "locked", waits)
    with ThreadPoolExecutor(1) as pool:
        with locked(world.database, [interval_slice(quarter(0))]) as lock:
            replay = pool.submit(run, ["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"])
            waiting.wait(10)
            republished = read_file(world.own(0, 0, 1), quarter(0))
            stores = Stores(world.database, ParquetRoot(EventsSettings.load().storage_url))
            store_raw(stores, quarter(0), republished, lock=lock)
        assert replay.result() == 1
    assert world.raw(0)["global_event_id"].to_pylist() == [817930293, 817930294]


# Raw files that are lost


@pytest.mark.long
@pytest.mark.parametrize("damaged", [True, False])
def test_a_raw_file_that_the_feed_no_longer_has_is_named_until_somebody_accepts_that(
    world: World, damaged: bool
) -> None:
    world.load_all()
    before = world.us()
    path = world.raw_file(1)
    data = path.read_bytes()
    path.write_bytes(data[:4] + b"\xee" * 60 + data[64:]) if damaged else path.unlink()
    world.simulator.change(quarter(1), held=True)
    world.ahead += timedelta(days=3)
    with pytest.raises(PermanentError, match="20190121001500.*by a run of raw_events for 2019-01-21 or"):
        world.load_all()
    assert [entry.interval for entry in manifest.unsettled(world.database)] == [quarter(1)]
    world.load_all()
    assert (world.states()[1], world.us(), lost(world)) == ("absent", before, (1, 0))
    assert run(["events", "accept", "--interval", "2019-01-21T00:15Z", "--reason", "lost"]) == 0
    world.load_all()
    assert (manifest.unsettled(world.database), world.us()) == ([], before)
    world.simulator.restore(quarter(1))
    world.load_all()
    assert (set(world.states().values()), world.manifest()[1].accepted, world.us()) == ({"loaded"}, None, before)


# What is asked for


@pytest.mark.parametrize(
    ("first", "last", "said"),
    [
        (FIRST + timedelta(minutes=7), FIRST + timedelta(hours=1), "is not on a quarter of an hour"),
        (FIRST + timedelta(seconds=1), None, "is not on a quarter of an hour"),
        (datetime(2019, 1, 21), FIRST + INTERVAL, "is naive"),
        (datetime(2019, 1, 21), None, "is naive"),
        (FIRST.replace(year=2014), FIRST, "is of the year 2014, which no file of the feed is of"),
    ],
)
def test_intervals_that_cannot_be_are_refused_before_anything_is_asked_or_written(
    world: World, first: datetime, last: datetime | None, said: str
) -> None:
    from etl_assets.systems.events import load

    with pytest.raises(ValueError, match=said):
        load(first, last, database=world.database, now=world.now())
    assert (world.lists(), world.asked(), world.written()) == (0, 0, False)


@pytest.mark.long
def test_what_a_load_was_about_is_given_as_it_is_in_the_end(world: World) -> None:
    world.simulator.change(quarter(1), defect="nested")
    for _ in range(2):
        done = world.load_all()
        assert [entry.interval for entry in done.of_state("loaded")] == [quarter(0), quarter(2), quarter(3)]
        assert [entry.interval for entry in done.of_state("refused")] == [quarter(1)]


@pytest.mark.long
def test_a_refused_file_is_said_each_time_and_not_only_when_it_is_fetched(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.simulator.change(quarter(3), defect="nested")
    for arguments in ((), (), ("--interval", "2019-01-21T00:45Z"), ("--from", "2019-01-21T00:45Z")):
        assert world.command(*arguments) == 1
        assert capsys.readouterr().err.startswith("2019-01-21T00:45Z refused: 20190121004500.export.CSV.zip: ")

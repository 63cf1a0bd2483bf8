"""The command `etl-assets events load`: what it loads, what it says, and its exit codes."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.cli import run
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.errors import TransientError
from etl_assets.systems.events.checks import no_interval_is_lost
from etl_assets.systems.events.files import INTERVAL, file_name
from etl_assets.systems.events.manifest import unsettled
from etl_assets.systems.events.script import FileRejected, load_file
from etl_assets_tests.systems.events.raw_rows import SHARED_FILE, needs_shared_file
from etl_assets_tests.systems.events.world import World, quarter


@pytest.mark.long
def test_the_command_loads_a_stretch_and_says_what_became_of_it(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.simulator.change(quarter(1), held=True)
    world.simulator.change(quarter(2), defect="bad-rows")
    assert world.command("--from", "2019-01-21T00:00Z", "--to", "2019-01-21T01:00Z") == 0
    said = capsys.readouterr()
    assert said.out == (
        f"3 files taken with 115 events; {len(world.us())} US events inserted, 0 updated, 0 deleted, 0 unchanged\n"
    )
    assert said.err.splitlines() == [
        "2019-01-21T00:15Z missing: the feed does not list it",
        "5 rows in quarantine: see `etl-assets quarantine list`",
    ]
    assert world.command("--from", "2019-01-21") == 0
    assert capsys.readouterr().out.startswith("0 files taken with 0 events; 0 US events inserted")


@pytest.mark.long
def test_intervals_that_follow_each_other_with_the_same_fate_are_said_in_one_line(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (0, 1, 3):
        world.simulator.change(quarter(number), held=True)
    assert world.command("--from", "2019-01-21", "--to", "2019-01-21T01:00Z") == 0
    assert capsys.readouterr().err.splitlines() == [
        "2019-01-21T00:00Z until 2019-01-21T00:30Z, 2 intervals, missing: the feed does not list it",
        "2019-01-21T00:45Z missing: the feed does not list it",
    ]


@pytest.mark.long
def test_a_lost_interval_that_somebody_accepts_is_named_no_more_and_taken_if_it_comes(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.simulator.change(quarter(1), held=True)
    world.simulator.change(quarter(2), defect="truncated")
    world.ahead = timedelta(hours=25)
    world.load_all()
    assert lost(world) == (2, 0)
    stretch = ("--from", "2019-01-21", "--to", "2019-01-21T01:00Z")
    assert run(["events", "accept", *stretch, "--reason", "the feed stood still"]) == 0
    assert capsys.readouterr().out == "2 intervals accepted as lost: the feed stood still\n"
    assert (lost(world), world.states()[1]) == ((0, 2), "absent")
    world.load_all()
    assert lost(world) == (0, 2)
    world.simulator.restore(quarter(1))
    world.simulator.change(quarter(2), defect="nested")
    world.load_all()
    assert (world.states(), lost(world)) == ({0: "loaded", 1: "loaded", 2: "refused", 3: "loaded"}, (1, 0))
    world.simulator.restore(quarter(2))
    world.load_all()
    assert run(["events", "accept", *stretch, "--reason", "none"]) == 2
    assert (
        "none is missing, absent, refused or damaged that is not accepted: there is nothing" in capsys.readouterr().err
    )


@pytest.mark.long
def test_what_is_missing_is_looked_for_no_more_once_somebody_has_accepted_that(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.simulator.change(quarter(3), held=True)
    world.load_all()
    assert [entry.interval for entry in unsettled(world.database)] == [quarter(3)]
    assert run(["events", "accept", "--interval", "2019-01-21T00:45Z", "--reason", "a hole"]) == 0
    assert unsettled(world.database) == []
    assert world.command("--interval", "2019-01-21T00:45Z") == 0
    assert "2019-01-21T00:45Z absent, accepted (a hole): the feed does not list it" in capsys.readouterr().err
    assert (world.states()[3], world.manifest()[3].accepted) == ("absent", "a hole")


@pytest.mark.long
def test_a_newer_version_that_is_refused_can_be_accepted_and_the_next_one_is_named(world: World) -> None:
    world.load_all()
    for defect, expected in (("truncated", (1, 0)), ("nested", (1, 0))):
        world.simulator.change(quarter(1), defect=defect)
        world.load_all()
        assert (lost(world), world.states()[1]) == (expected, "loaded")
        assert run(["events", "accept", "--interval", "2019-01-21T00:15Z", "--reason", "we have it"]) == 0
        assert (lost(world), world.states()[1]) == ((0, 1), "loaded")
    world.simulator.restore(quarter(1))
    world.load_all()
    assert lost(world) == (0, 0)


def lost(world: World) -> tuple[int, int]:
    """How many intervals are lost, and for how many somebody has accepted that, as the check says it."""
    result = no_interval_is_lost(postgres=PostgresResource(url=world.database.url))
    assert isinstance(result, dg.AssetCheckResult)
    found = {name: value.value for name, value in result.metadata.items()}
    assert result.passed == (found["lost"] == 0)
    return found["lost"], found["accepted"]


WRONGLY_ACCEPTED = {
    "no reason": (["--interval", "2019-01-21"], "Missing option"),
    "an empty reason": (["--interval", "2019-01-21", "--reason", " "], "say why"),
    "nothing named": (["--reason", "r"], "give --interval, or --from and --to"),
    "both": (["--interval", "2019-01-21", "--from", "2019-01-21", "--to", "2019-01-22", "--reason", "r"], "give"),
    "no end": (["--from", "2019-01-21", "--reason", "r"], "give --interval, or --from and --to"),
    "no begin": (["--to", "2019-01-21", "--reason", "r"], "give --interval, or --from and --to"),
    "backwards": (["--from", "2019-01-22", "--to", "2019-01-21", "--reason", "r"], "is not after --from"),
}


def test_what_is_accepted_wrongly_exits_with_2(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    for case, (arguments, said) in WRONGLY_ACCEPTED.items():
        assert run(["events", "accept", *arguments]) == 2, case
        assert said in " ".join(capsys.readouterr().err.split()), case


@pytest.mark.long
def test_the_command_without_anything_loads_the_newest_file(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert world.command() == 0
    assert world.us() == world.in_the_us(3)
    assert capsys.readouterr().out == (
        "1 file taken with 40 events; 14 US events inserted, 0 updated, 0 deleted, 0 unchanged\n"
    )


@pytest.mark.long
@pytest.mark.parametrize("text", ["2019-01-21T00:15Z", "2019-01-21T00:15:00Z"])
def test_the_command_loads_one_interval(world: World, text: str) -> None:
    assert world.command("--interval", text) == 0
    assert world.us() == world.in_the_us(1)


@pytest.mark.long
def test_the_command_loads_files_that_somebody_has_and_asks_nobody(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EVENTS_FEED_URL", "http://127.0.0.1:1")
    assert world.command("--file", str(world.saved(0)), "--file", str(world.saved(2))) == 0
    assert world.us() == world.in_the_us(0, 2)
    assert capsys.readouterr().out.startswith("2 files taken with 80 events; ")
    assert world.command("--file", str(world.saved(0))) == 0
    assert world.us() == world.in_the_us(0, 2)
    assert (world.asked(), world.manifest()[0].attempts) == (0, 0)
    assert sorted(path.name for path in world.folder.iterdir()) == [file_name(quarter(0)), file_name(quarter(2))]


@needs_shared_file
def test_the_command_loads_the_shared_file(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.command("--file", str(SHARED_FILE)) == 0
    assert capsys.readouterr() == (
        "1 file taken with 1,629 events; 533 US events inserted, 0 updated, 0 deleted, 0 unchanged\n",
        "",
    )
    assert world.query("SELECT sum(inserted), sum(quarantined) FROM etl.ledger WHERE asset = 'events.raw_events'") == [
        (1629, 0)
    ]
    monkeypatch.setenv("EVENTS_US_RULE", "bounding_box")
    assert world.command("--file", str(SHARED_FILE)) == 0
    assert world.query("SELECT count(*) FROM events.us_event_data") == [(603,)]
    (entry,) = world.manifest().values()
    assert (entry.interval, entry.state) == (datetime(2019, 1, 21, 22, tzinfo=UTC), "loaded")
    assert (entry.rows_raw, entry.rows_us) == (1629, 603)


@needs_shared_file
@pytest.mark.long
def test_the_first_event_of_the_shared_file_is_an_event(world: World) -> None:
    assert world.command("--file", str(SHARED_FILE)) == 0
    number = (datetime(2019, 1, 21, 22, tzinfo=UTC) - quarter(0)) // INTERVAL
    first = world.raw(number).slice(0, 1).to_pylist()[0]
    assert (first["global_event_id"], first["event_code"][0], world.raw(number).num_rows) == (817930293, "0", 1629)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def gone(path: Path) -> None:
    path.unlink()


def misnamed(path: Path) -> None:
    """Its member is that of another interval."""
    shutil.copyfile(path.with_name(file_name(quarter(1))), path)


@pytest.mark.long
@pytest.mark.parametrize(
    ("spoil", "said"),
    [(truncated, "breaks off after 500 bytes"), (gone, "is missing"), (misnamed, "20190121001500.export.CSV")],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_file_that_is_refused_is_said_and_nothing_is_written(
    world: World, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], said: str
) -> None:
    world.saved(1)
    path = world.saved(0)
    spoil(path)
    with pytest.raises(FileRejected, match=said):
        load_file(path, database=world.database)
    assert world.command("--file", str(path)) != 0
    assert said in capsys.readouterr().err
    assert not world.written()
    assert world.left_behind() == []


REFUSED = {
    "file and interval": (["--file", "x.zip", "--interval", "2019-01-21"], "give --file, or --interval, or --from"),
    "interval and from": (["--interval", "2019-01-21", "--from", "2019-01-21"], "give --file"),
    "to alone": (["--to", "2019-01-21"], "give --file, or --interval, or --from"),
    "to with interval": (["--interval", "2019-01-21", "--to", "2019-01-22"], "give --file"),
    "malformed": (["--interval", "21.01.2019"], "is no instant in UTC: give one like 2019-01-21T22:00Z"),
    "naive": (["--interval", "2019-01-21T22:00"], "is no instant in UTC"),
    "another zone": (["--interval", "2019-01-21T22:00+02:00"], "is no instant in UTC"),
    "no such day": (["--from", "2019-02-29"], "is no instant in UTC"),
    "no such hour": (["--from", "2019-02-28T24:00Z"], "is no instant in UTC"),
    "not on a quarter": (["--from", "2019-01-21T22:10Z"], "is not on a quarter of an hour"),
    "no such option": (["--day", "2019-01-21"], "--day"),
}


def test_wrong_usage_exits_with_2_and_nothing_is_asked_or_written(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    for case, (arguments, said) in REFUSED.items():
        assert world.command(*arguments) == 2, case
        assert said in " ".join(capsys.readouterr().err.split()), case
    assert (world.asked(), world.lists(), world.written()) == (0, 0, False)


def test_a_feed_that_is_away_is_a_failure_that_names_it(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.simulator.faults.script("lastupdate.txt", ["503"] * 3)
    with pytest.raises(TransientError, match="events API, GET /lastupdate.txt"):
        world.load()
    monkeypatch.setenv("EVENTS_FEED_URL", f"{world.url}/elsewhere")
    assert world.command() == 1
    assert "GET /lastupdate.txt" in capsys.readouterr().err
    assert not world.written()


def test_files_that_are_refused_exit_with_2_and_the_others_are_stored(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    path = world.saved(0)
    path.write_bytes(b"nonsense")
    assert world.command("--file", str(path), "--file", str(world.saved(1))) == 2
    said = capsys.readouterr()
    assert said.out.startswith("1 file taken with 40 events; ")
    assert said.err.startswith("error: 20190121000000.export.CSV.zip: ")
    assert world.us() == world.in_the_us(1)


def test_a_stretch_that_ends_before_it_begins_exits_with_2(world: World) -> None:
    assert world.command("--from", "2019-01-22", "--to", "2019-01-21") == 2


@pytest.mark.long
@pytest.mark.parametrize("option", ["--interval", "--from"])
def test_an_interval_that_is_still_to_come_exits_with_2(
    world: World, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert world.command(option, "2019-02-22") == 2
    assert "2019-02-22T00:00Z is still to come" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize("change", [{"withdrawn": True}, {"defect": "nested"}])
def test_an_interval_that_could_not_be_stored_exits_with_1(world: World, change: dict[str, Any]) -> None:
    world.simulator.change(quarter(3), **change)
    assert (world.command("--interval", "2019-01-21T00:45Z"), world.command("--from", "2019-01-21T00:45Z")) == (1, 1)
    assert world.command("--from", "2019-01-21") == 0
    world.simulator.restore(quarter(3))
    assert (world.command(), world.command()) == (0, 0)


@pytest.mark.long
def test_a_replayed_event_is_derived_by_the_next_run_and_stays_in_its_interval(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.load_own(0, 0, {"global_event_id": "7", "action_geo_lat": "95"}, 1)
    ((identity,),) = world.query("SELECT id FROM etl.quarantine")
    assert run(["quarantine", "replay", identity, "--set", "file_interval=2019-01-21T00:15:00Z"]) == 2
    assert "file_interval cannot be set" in capsys.readouterr().err
    assert run(["quarantine", "replay", identity, "--set", "action_geo_lat=61.2"]) == 0
    assert world.states() == {0: "fetched"}
    world.simulator.change(quarter(0), held=True)
    world.load(0, 1)
    assert (world.states(), world.us().keys()) == ({0: "loaded"}, {7, 817930293, 817930294})

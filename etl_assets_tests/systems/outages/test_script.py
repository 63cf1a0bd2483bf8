"""The system without an orchestrator: as a function, and as the command `etl-assets outages`."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from etl_assets.core.slices.files import OF_COMMIT
from etl_assets.core.sources.http.client import ApiRefused, ApiUnavailable
from etl_assets.errors import ConfigurationError, TransientError
from etl_assets.systems import outages
from etl_assets.systems.outages.script import sync_sites
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets_tests.systems.outages.conftest import KEY
from etl_assets_tests.systems.outages.forker import Command
from etl_assets_tests.systems.outages.world import SITE, World, info, outage

CUTOFF, LATER = "2022-01-01T00:00:00.000Z", "2022-02-01T00:00:00.000Z"
EARLY = "2021-12-31T23:59:59.999Z"
END = "2022-06-01T00:00:00.000Z"
GOOD = [outage("d1", EARLY), outage("d2", LATER), outage("d1", CUTOFF), outage("d2", LATER)]
NEW = "is new, nothing was stored of it before: see whether its name is right"
BAD = [
    {"id": "d1", "end": END},
    outage("d1", LATER, CUTOFF),
    outage("d2", CUTOFF, cause="storm"),
    {"id": 17, "begin": CUTOFF, "end": END},
]


# As a function


def test_a_sync_does_everything_for_a_site_and_says_what(world: World) -> None:
    world.serve(GOOD)
    result = outages.sync(SITE)
    assert (result.site, result.outages, result.delivered) == (SITE, 2, 2)
    assert (result.quarantined, result.flagged) == (0, 0)
    assert result.watermark is not None
    world.assert_delivered_once()
    world.assert_books_balance()


def test_a_second_sync_posts_nothing_and_keeps_the_watermark(world: World) -> None:
    world.serve(GOOD)
    first, second = outages.sync(SITE), outages.sync(SITE)
    assert (second.outages, second.delivered, second.watermark) == (2, 0, first.watermark)
    assert world.posts() == 1


@pytest.mark.long
def test_since_replaces_the_cutoff_of_one_call(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve(GOOD)
    monkeypatch.setattr(world.simulator, "cutoff", datetime(2022, 2, 1, tzinfo=UTC))
    assert outages.sync(SITE, since=datetime(2022, 2, 1, tzinfo=UTC)).outages == 1
    assert world.begins() == [[LATER]]
    monkeypatch.setattr(world.simulator, "cutoff", datetime(2022, 1, 1, tzinfo=UTC))
    assert outages.sync(SITE).delivered == 1
    assert world.begins() == [[LATER], [CUTOFF]]
    monkeypatch.setattr(world.simulator, "cutoff", datetime(2021, 1, 1, tzinfo=UTC))
    assert outages.sync(SITE, since=datetime(2021, 1, 1, tzinfo=UTC)).delivered == 1
    assert world.begins() == [[LATER], [CUTOFF], [EARLY]]


@pytest.mark.long
def test_several_sites_fetch_the_outages_once(world: World) -> None:
    world.serve([outage("d1", CUTOFF), outage("d2", CUTOFF)], info("a", d1="One"), info("b", d2="Two"))
    assert [(result.site, result.delivered) for result in world.sync("a", "b", "a")] == [("a", 1), ("b", 1)]
    assert world.simulator.faults.counts()["outages"] == {"none": 1}


def test_the_rows_of_one_answer_are_counted_once_however_many_sites_it_is_for(world: World) -> None:
    world.serve(BAD, info("a", d1="One"), info("b", d2="Two"))
    results = world.sync("a", "b")
    assert (sum(r.quarantined for r in results), sum(r.flagged for r in results)) == (2, 2)
    assert world.column("SELECT seen FROM etl.quarantine") == [1, 1, 1, 1]


def test_a_sync_of_many_sites_keeps_the_snapshots_of_earlier_ones(world: World) -> None:
    world.serve(GOOD, *(info(f"s{number}") for number in range(3)))
    world.sync("s0", "s1", "s2")
    folder = Path(OutagesSettings.load().storage_url) / "outages/raw_outages"
    found = [path for path in folder.iterdir() if OF_COMMIT.fullmatch(path.name)]
    assert len(found) == 1


@pytest.mark.parametrize("call", ["outages", "site-info"])
def test_both_answers_must_be_there_before_anything_is_stored(world: World, call: str) -> None:
    world.serve(GOOD)
    world.simulator.faults.rates(call, {"503": 1.0})
    with pytest.raises(ApiUnavailable, match=f"GET /{call}.*: tried 3 times .* answered 503"):
        world.sync()
    assert world.column("SELECT count(*) FROM etl.ledger") == [0]
    assert world.posts() == 0


def test_each_answer_is_tried_for_on_its_own(world: World) -> None:
    world.serve(GOOD)
    world.simulator.faults.script("outages", ["500", "502"])
    world.simulator.faults.script("site-info", ["503", "504"])
    assert world.sync()[0].delivered == 2
    assert {call: sum(kinds.values()) for call, kinds in world.simulator.faults.counts().items()} == {
        "outages": 3, "site-info": 3, "site-outages": 1
    }  # fmt: skip


def test_an_unknown_site_is_refused_by_name(world: World) -> None:
    with pytest.raises(ApiRefused, match="GET /site-info/unknown-x: answered 404 .*there is no site 'unknown-x'"):
        world.sync("unknown-x")


def test_a_missing_setting_is_named(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OUTAGES_API_KEY")
    with pytest.raises(ConfigurationError, match="OUTAGES_API_KEY is not set"):
        outages.sync(SITE)


def test_a_database_that_is_not_there_is_said_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve(GOOD)
    monkeypatch.setenv("ETL_POSTGRES_URL", "postgresql://user:hidden-password@127.0.0.1:9/none")
    with pytest.raises(TransientError, match="could not") as caught:
        outages.sync(SITE)
    assert "hidden-password" not in str(caught.value)
    assert world.posts() == 0


# As a command


def test_the_command_syncs_sites_and_exits_with_0(world: World) -> None:
    """The one that starts from nothing, as a user does."""
    world.serve(GOOD, info(d1="One", d2="Two"), info("empty"))
    done = subprocess.run(
        [sys.executable, "-m", "etl_assets.cli", "outages", "sync", SITE, "empty"],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).resolve().parents[3],
        check=False,
    )
    assert done.returncode == 0
    assert done.stderr == "".join(f"{site}: {NEW}\n" for site in (SITE, "empty"))
    first, second = done.stdout.splitlines()
    assert re.fullmatch(
        r"kingfisher: 2 outages, 2 delivered, newest delivery \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", first
    )
    assert second == "empty: 0 outages, nothing to deliver, no POST"


def test_a_site_of_which_nothing_was_stored_before_is_said_to_be_new(world: World, etl_assets: Command) -> None:
    world.serve(GOOD)
    for said in (f"{SITE}: {NEW}\n", ""):
        assert etl_assets("outages", "sync", SITE, "--json") == 0
        assert [site["new"] for site in json.loads(etl_assets.out)["sites"]] == [bool(said)]
        assert NEW in etl_assets.err or not said


def test_a_failed_command_exits_with_1_and_without_a_secret(world: World, etl_assets: Command) -> None:
    world.serve(GOOD)
    assert etl_assets("outages", "sync", SITE, OUTAGES_API_KEY="a-wrong-secret") == 1
    assert etl_assets.err.startswith("error: outages API, GET /outages: answered 403")
    assert "set OUTAGES_API_KEY to a key that" in etl_assets.err
    assert "a-wrong-secret" not in etl_assets.out + etl_assets.err


@pytest.mark.long
def test_the_simulator_can_be_asked_instead(world: World, etl_assets: Command) -> None:
    assert etl_assets("outages", "sync", "norwich-pear-tree", "--simulate", OUTAGES_API_URL="", OUTAGES_API_KEY="") == 0
    assert re.match(r"norwich-pear-tree: \d+ outages, \d+ delivered", etl_assets.out)
    assert world.simulator.faults.counts() == {}


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "unset", "said"),
    [
        (["outages", "sync"], None, "Missing argument"),
        (["outages", "sync", "a", "--since", "yesterday"], None, "'yesterday' is no instant"),
        (["outages", "sync", "a", "--nonsense"], None, "No such option"),
        (["outages", "settle", "abc"], None, "Missing option '--as'"),
        (["outages", "settle", "abc", "--as", "both"], None, "'both' is not one of"),
        (["outages", "sync", "a"], "OUTAGES_API_URL", "error: OUTAGES_API_URL is not set"),
        (["outages", "sync", "a"], "OUTAGES_API_KEY", "error: OUTAGES_API_KEY is not set"),
        (["quarantine", "replay", "x", "--set", "begin"], None, "error: --set 'begin': give field=value"),
    ],
)
def test_wrong_usage_and_missing_settings_exit_with_2(
    world: World, etl_assets: Command, arguments: list[str], unset: str | None, said: str
) -> None:
    if arguments[1] == "replay":
        world.serve(BAD)
        world.sync()
        arguments = [*arguments[:2], world.column("SELECT id FROM etl.quarantine")[0], *arguments[3:]]
    assert etl_assets(*arguments, **({unset: ""} if unset else {})) == 2
    assert said in etl_assets.err


def test_an_entry_of_the_quarantine_that_is_not_there_exits_with_1(world: World, etl_assets: Command) -> None:
    assert etl_assets("quarantine", "show", "ffff") == 1
    assert etl_assets.err == "error: no entry of the quarantine begins with 'ffff'\n"


@pytest.mark.long
def test_since_without_a_zone_means_utc(world: World, etl_assets: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    world.serve(GOOD)
    monkeypatch.setattr(world.simulator, "cutoff", datetime(2022, 2, 1, tzinfo=UTC))
    assert etl_assets("outages", "sync", SITE, "--since", "2022-02-01T00:00:00") == 0
    assert etl_assets.out.startswith("kingfisher: 1 outages, 1 delivered")


def test_what_does_not_answer_exits_with_1(world: World, etl_assets: Command) -> None:
    world.simulator.faults.rates("outages", {"503": 1.0})
    assert etl_assets("outages", "sync", SITE, quick=True) == 1
    assert re.match(r"error: outages API, GET /outages: tried 3 times in .* answered 503", etl_assets.err)


# Quarantine


def test_the_bad_rows_are_listed(world: World, etl_assets: Command) -> None:
    world.serve([*BAD, *GOOD])
    assert etl_assets("outages", "sync", SITE) == 0
    remarks = "2 rows in quarantine, 2 loaded with a remark: see `etl-assets quarantine list`\n"
    assert etl_assets.err == f"{SITE}: {NEW}\n{remarks}"
    assert "4 outages, 4 delivered" in etl_assets.out
    assert etl_assets("quarantine", "list") == 0
    assert "4 of 4 entries" in etl_assets.out
    for said in ("begin: required", "end: before begin", "cause: additional field", "id: ", "outages.raw_outages"):
        assert said in etl_assets.out
    assert etl_assets("quarantine", "list", "--json") == 0
    entries = [json.loads(line) for line in etl_assets.out.splitlines()]
    found = {entry["faults"][0]["column"]: (entry["outcome"], entry["raw"]) for entry in entries}
    assert found == {
        "begin": ("rejected", BAD[0]),
        "end": ("flagged", BAD[1]),
        "cause": ("flagged", BAD[2]),
        "id": ("rejected", BAD[3]),
    }


@pytest.mark.long
def test_a_bad_row_is_shown_and_replayed_with_its_correction(world: World, etl_assets: Command) -> None:
    world.serve(BAD)
    world.sync()
    [lacking] = world.column("SELECT id FROM etl.quarantine WHERE faults LIKE '%%required%%'")
    [flagged] = world.column("SELECT id FROM etl.quarantine WHERE faults LIKE '%%before begin%%'")
    assert etl_assets("quarantine", "show", lacking[:6]) == 0
    shown = json.loads(etl_assets.out)
    assert (shown["id"], shown["raw"]) == (lacking, BAD[0])
    assert shown["faults"] == [{"column": "begin", "raw": None, "rule": "required"}]
    assert etl_assets("quarantine", "replay", lacking) == 1
    assert "begin: required" in etl_assets.out
    assert etl_assets("quarantine", "replay", lacking, "--set", f"begin={LATER}") == 0
    assert etl_assets.out == f"{lacking}: stored in outages.raw_outages\n"
    assert etl_assets("quarantine", "list", "--status", "replayed") == 0
    assert "1 of 1 entries" in etl_assets.out
    assert etl_assets("quarantine", "replay", flagged) == 1
    assert "was flagged, not rejected" in etl_assets.err
    world.assert_books_balance()


@pytest.mark.long
def test_the_same_bad_rows_are_counted_and_not_repeated(world: World) -> None:
    world.serve(BAD)
    world.sync()
    world.sync()
    assert world.column("SELECT seen FROM etl.quarantine") == [2, 2, 2, 2]


# Settling


@pytest.fixture
def disputed(world: World) -> World:
    """A delivery that was taken, of which we have forgotten whether it was."""
    world.serve(GOOD)
    world.sync()
    world.execute("UPDATE outages.delivery_batches SET state = 'disputed'")
    world.execute("DELETE FROM outages.delivered_site_outages")
    return world


@pytest.mark.long
def test_a_disputed_delivery_is_settled_by_the_command_that_the_message_names(
    disputed: World, etl_assets: Command
) -> None:
    assert etl_assets("outages", "sync", SITE) == 1
    told = re.search(r"etl-assets (outages settle \w+) --as delivered", etl_assets.err)
    assert told
    assert etl_assets(*told[1].split(), "--as", "delivered") == 0
    assert etl_assets.out == "2 outages of kingfisher are now delivered, 0 pending\n"
    assert etl_assets(*told[1].split(), "--as", "pending") == 1
    assert "0 disputed deliveries" in etl_assets.err
    disputed.assert_delivered_once()
    assert disputed.posts() == 1


@pytest.mark.long
def test_a_disputed_delivery_is_settled_as_pending(disputed: World, etl_assets: Command) -> None:
    key = disputed.batches()[0]["batch_key"]
    assert etl_assets("outages", "settle", key[:12], "--as", "pending") == 0
    assert etl_assets.out == "0 outages of kingfisher are now delivered, 2 pending\n"
    assert etl_assets("outages", "sync", SITE) == 0
    assert "2 delivered" in etl_assets.out
    assert disputed.simulator.replays == 1
    disputed.assert_delivered_once()


@pytest.mark.long
def test_the_key_of_the_api_is_in_nothing_that_is_stored_or_printed(world: World, etl_assets: Command) -> None:
    world.serve([*BAD, *GOOD])
    world.simulator.faults.script("site-outages", ["500", "502", "503"])
    assert etl_assets("outages", "sync", SITE, quick=True) == 1
    printed = etl_assets.out + etl_assets.err
    assert etl_assets("outages", "sync", SITE) == 0
    tables = ("outages.delivery_batches", "etl.ledger", "etl.quarantine")
    stored = [str(world.rows(f"SELECT * FROM {table}")) for table in tables]
    assert [text for text in (printed, etl_assets.out, etl_assets.err, *stored) if KEY in text] == []


def test_a_site_that_fails_does_not_keep_the_others_from_being_done(world: World) -> None:
    world.serve(GOOD, info("s1"), info("s2"))
    done: list[str] = []
    results = sync_sites(["s1", "unknown-x", "s2"], database=world.database, api=world.api)
    with pytest.raises(ApiRefused, match="GET /site-info/unknown-x"):
        done.extend(result.site for result in results)
    assert done == ["s1", "s2"]


def test_an_answer_of_which_no_element_can_be_read_changes_nothing_and_exits_with_1(
    world: World, etl_assets: Command
) -> None:
    world.serve([outage("d1", "2022-02-01T00:00:00.000Z")])
    assert etl_assets("outages", "sync", SITE) == 0
    before = world.rows("SELECT * FROM outages.site_outages"), world.rows("SELECT * FROM etl.ledger")
    world.serve([outage("d1", "yesterday"), outage("d2", "today")])
    assert etl_assets("outages", "sync", SITE) == 1
    assert (
        "outages.raw_outages: none of the 2 rows can be loaded, nothing was changed; the first, GET /outages, row 0"
        in etl_assets.err
    )
    assert (world.rows("SELECT * FROM outages.site_outages"), world.rows("SELECT * FROM etl.ledger")) == before
    assert world.column("SELECT count(*) FROM etl.quarantine") == [0]

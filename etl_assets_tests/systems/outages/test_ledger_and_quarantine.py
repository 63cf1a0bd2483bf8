"""What people ask of the ledger and do to the quarantine by `etl-assets ledger …` and `etl-assets quarantine …`, on what syncs have left."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.core.dagster.checks import is_current
from etl_assets.core.dagster.contract_types import asset_key
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.systems.outages.contracts import SiteOutages
from etl_assets_tests.systems.outages.forker import Command
from etl_assets_tests.systems.outages.world import SITE, World, outage

CUTOFF, LATER = "2022-01-01T00:00:00.000Z", "2022-02-01T00:00:00.000Z"
END = "2022-06-01T00:00:00.000Z"
BAD = [{"id": "d1", "end": END, "by": "ann@example.org"}, {"id": "d2", "end": END}]
GOOD = [outage("d1", CUTOFF), outage("d2", LATER)]


def commits(etl_assets: Command, table: str, *options: str) -> list[dict[str, Any]]:
    assert etl_assets("ledger", "show", table, *options, "--json") == 0
    return [json.loads(line) for line in etl_assets.out.splitlines()]


def entries(etl_assets: Command, *options: str) -> list[dict[str, Any]]:
    assert etl_assets("quarantine", "list", "--json", *options) == 0
    return [json.loads(line) for line in etl_assets.out.splitlines()]


# The ledger


@pytest.mark.long
def test_the_history_of_a_slice_says_what_each_commit_changed_and_from_what(world: World, etl_assets: Command) -> None:
    for outages in (GOOD, GOOD[:1]):
        world.serve(outages)
        world.sync()
    last, first = commits(etl_assets, "outages.site_outages", SITE)
    assert [(one["partition"], one["inserted"], one["deleted"], one["stands"]) for one in (first, last)] == [
        (SITE, 2, 0, False),
        (SITE, 0, 1, True),
    ]
    raw = {one["commit_id"] for one in commits(etl_assets, "outages.raw_outages")}
    derived_of = [one["inputs"]["outages.raw_outages"][""] for one in (first, last)]
    assert len(set(derived_of)) == 2
    assert raw == set(derived_of)
    assert etl_assets("ledger", "show", "outages.site_outages", SITE) == 0
    assert f"{last['commit_id']} [{SITE}] (stands)" in etl_assets.out
    assert "1 deleted" in etl_assets.out
    assert f"from outages.raw_outages: whole {derived_of[1]}" in etl_assets.out


@pytest.mark.long
def test_a_slice_without_a_commit_and_a_table_that_is_none(world: World, etl_assets: Command) -> None:
    world.serve(GOOD)
    world.sync()
    assert etl_assets("ledger", "show", "outages.site_outages", "nowhere") == 0
    assert etl_assets.out == "outages.site_outages[nowhere] has no commit\n"
    assert etl_assets("ledger", "show", "outages.nothing") == 1
    assert "outages.nothing" in etl_assets.err


@pytest.mark.long
def test_an_instance_that_knows_nothing_is_told_once_what_is_stored(
    world: World, etl_assets: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve(GOOD)
    world.sync()
    assert etl_assets("ledger", "report") == 2
    assert "DAGSTER_HOME is not set" in etl_assets.err
    monkeypatch.setenv("DAGSTER_HOME", f"{tmp_path}/nowhere")
    assert etl_assets("ledger", "report") == 2
    assert f"DAGSTER_HOME ({tmp_path}/nowhere) has no Dagster instance" in etl_assets.err
    home = tmp_path / "instance"
    home.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", f"{home}")
    assert etl_assets("ledger", "report") == 0
    assert "outages/site_outages: 1" in etl_assets.out
    assert etl_assets("ledger", "report") == 0
    assert etl_assets.out == "0 materialisations reported\n"
    (stands,) = (one for one in commits(etl_assets, "outages.site_outages", SITE) if one["stands"])
    with dg.DagsterInstance.get() as instance:
        assert instance.get_materialized_partitions(asset_key(SiteOutages)) == {SITE}
        event = instance.get_latest_materialization_event(asset_key(SiteOutages))
    assert event is not None
    assert event.asset_materialization is not None
    assert event.asset_materialization.metadata["commit"].value == stands["commit_id"]


@pytest.mark.long
def test_sites_are_added_to_the_partitions_by_a_command(
    world: World, etl_assets: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert etl_assets("outages", "add", "kiwi") == 2
    assert "DAGSTER_HOME is not set" in etl_assets.err
    monkeypatch.setenv("DAGSTER_HOME", f"{tmp_path}")
    assert etl_assets("outages", "add", "kiwi", SITE, "kiwi") == 0
    assert etl_assets.out == f"kiwi: added\n{SITE}: added\n"
    assert etl_assets("outages", "add", "kiwi") == 0
    assert etl_assets.out == "kiwi: was there already\n"
    with dg.DagsterInstance.get() as instance:
        assert set(instance.get_dynamic_partitions("outages_sites")) == {"kiwi", SITE}


@pytest.mark.long
@pytest.mark.parametrize("site", ["", "  ", "x" * 300, "a\nb"])
def test_what_is_no_name_of_a_site_is_refused_before_anything_is_asked(
    world: World, etl_assets: Command, site: str
) -> None:
    for command in ("sync", "add"):
        assert etl_assets("outages", command, SITE, site) == 2
        assert "is no name of a site" in etl_assets.err
    assert world.column("SELECT count(*) FROM etl.heads") == [0]


def test_a_table_is_behind_once_its_input_has_been_another_for_longer_than_it_may_be(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    check: Any = is_current(asset_key(SiteOutages), SiteOutages)

    def judged() -> tuple[bool, int]:
        result = check(postgres=PostgresResource(url=world.database.url))
        return result.passed, result.metadata["rows_evaluated"].value

    assert judged() == (True, 0)
    world.serve(GOOD)
    world.sync()
    assert judged() == (True, 1)
    world.execute("UPDATE etl.heads SET commit_id = 'another', changed_at = now() WHERE asset = 'outages.raw_outages'")
    assert judged() == (True, 1)
    within = timedelta(hours=SiteOutages.config.current_within_h)
    world.execute("UPDATE etl.heads SET changed_at = changed_at - %s WHERE asset = 'outages.raw_outages'", within)
    assert judged() == (False, 1)


# The quarantine


@pytest.mark.long
def test_what_nobody_will_mend_is_accepted_with_the_reason_and_stays_so(world: World, etl_assets: Command) -> None:
    world.serve([*BAD, *GOOD])
    world.sync()
    assert etl_assets("quarantine", "accept", "--reason", "no begin is known") == 2
    assert "give ids, or say which entries" in etl_assets.err
    assert etl_assets("quarantine", "accept", "--column", "begin", "--reason", " ") == 2
    assert etl_assets("quarantine", "accept", "--column", "begin", "--containing", "d1", "--reason", "unknown") == 0
    assert etl_assets.out == "1 entries accepted: unknown\n"
    world.sync()
    assert [one["raw"]["id"] for one in entries(etl_assets, "--column", "begin")] == ["d2"]
    (accepted,) = entries(etl_assets, "--status", "accepted")
    assert accepted["raw"] == BAD[0]
    assert accepted["seen"] == 2
    assert accepted["remark"].startswith("unknown (")
    assert [one["mode"] for one in commits(etl_assets, "outages.raw_outages")].count("accept") == 1
    world.assert_books_balance()


@pytest.mark.long
def test_a_replay_by_a_filter_takes_what_was_rejected_and_goes_on_after_what_cannot_be_stored(
    world: World, etl_assets: Command
) -> None:
    world.serve([*BAD, outage("d1", LATER, CUTOFF), *GOOD, {"id": 17, "begin": CUTOFF, "end": END}])
    world.sync()
    replay = ("quarantine", "replay", "--asset", "outages.raw_outages")
    assert etl_assets(*replay, "--set", f"begin={LATER}") == 1
    assert [line.split(": ")[1] for line in etl_assets.out.splitlines()[:-1]].count(
        "stored in outages.raw_outages"
    ) == 2
    assert etl_assets.out.endswith("2 stored, 1 rejected\n")
    assert etl_assets(*replay, "--containing", "nobody") == 0
    assert etl_assets.out == "no rejected row is chosen\n"


@pytest.mark.long
def test_entries_are_named_by_their_ids_or_chosen_by_options(world: World, etl_assets: Command) -> None:
    world.serve([*BAD, *GOOD])
    world.sync()
    first, second = (one["id"] for one in entries(etl_assets))
    for command in ("accept", "forget"):
        assert etl_assets("quarantine", command, first, "--column", "end", "--reason", "why") == 2
        assert "not both" in etl_assets.err
        assert etl_assets("quarantine", command, "", "--reason", "why") == 2
        assert "'' is no id" in etl_assets.err
    assert {one["id"] for one in entries(etl_assets)} == {first, second}
    assert etl_assets("quarantine", "list", "--asset", "outages.nothing") == 1
    assert etl_assets("quarantine", "accept", first, "--reason", "why") == 0
    before = len(commits(etl_assets, "outages.raw_outages"))
    assert etl_assets("quarantine", "accept", first, "--reason", "again") == 0
    assert etl_assets.out == f"{first} is accepted, not open: left as it is\n0 entries accepted: again\n"
    assert len(commits(etl_assets, "outages.raw_outages")) == before


@pytest.mark.long
def test_what_is_forgotten_is_nowhere_and_the_ledger_says_that_it_was(world: World, etl_assets: Command) -> None:
    world.serve([*BAD, *GOOD])
    world.sync()
    (found,) = entries(etl_assets, "--containing", "ann@example.org", "--column", "begin")
    assert etl_assets("quarantine", "replay", found["id"], "--set", f"begin={LATER}") == 0
    assert etl_assets("quarantine", "forget", "--containing", "ann@example.org", "--reason", "asked by her") == 0
    assert etl_assets.out.endswith("entries forgotten: asked by her\n")
    assert entries(etl_assets, "--status", "all", "--containing", "ann@example.org") == []
    for table in ("etl.quarantine", "etl.corrections", "etl.ledger"):
        rows = world.column(f"SELECT t::text FROM {table} AS t")
        assert not any("ann@example.org" in row for row in rows), table
    (done,) = (one for one in commits(etl_assets, "outages.raw_outages") if one["mode"] == "forget")
    assert done["remark"].startswith("asked by her (")
    assert (
        etl_assets("quarantine", "forget", "--asset", "outages.raw_outages", "--older-than", "1", "--reason", "age")
        == 0
    )
    assert etl_assets.out == "0 entries forgotten: age\n"

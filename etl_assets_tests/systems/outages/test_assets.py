"""The assets in a run: what is in the tables, what the materialisations say, what is tried again and what is not."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from etl_assets.core.contracts import Split
from etl_assets.core.dagster.checks import has_rows
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.slices.parquet import ParquetRoot, read_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.simulators.controls import Refusal
from etl_assets.systems.outages import checks as outage_checks
from etl_assets.systems.outages import delivery
from etl_assets.systems.outages.contracts import (
    CONTRACTS,
    DeliveryBatches,
    RawOutages,
    RawSiteInfo,
    SiteDevices,
    SiteOutages,
)
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets.systems.outages.transform import CUTOFF as CUTOFF_AS_INSTANT
from etl_assets_tests.systems.outages.runs import Runs, attempts, checks, failed_steps, failure, metadata
from etl_assets_tests.systems.outages.world import SITE, World, info, outage, quick_api

CUTOFF, LATER, LAST = (f"2022-0{month}-01T00:00:00.000Z" for month in (1, 2, 3))
EARLY = "2021-12-31T23:59:59.999Z"
END = "2022-06-01T00:00:00.000Z"
EXAMPLE = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "outages"
UNTOUCHED = {"inserted": 0, "updated": 0, "deleted": 0}


@pytest.fixture
def runs(world: World) -> Runs:
    return Runs.of(world)


@pytest.fixture
def small(world: World) -> World:
    """Two devices, five elements of which three are to be delivered, one of them twice."""
    twice = outage("d2", LATER)
    world.serve([outage("d1", EARLY), twice, outage("d1", CUTOFF), outage("stranger", LATER), dict(twice)])
    return world


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are tried again without a pause."""
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", lambda policy, attempt: 0.001)


# What is stored


@pytest.mark.long
def test_a_run_stores_and_delivers(small: World, runs: Runs) -> None:
    result = runs()
    assert result.success
    devices = small.rows("SELECT * FROM outages.site_devices ORDER BY device_id")
    assert devices == [
        {"site_id": SITE, "device_id": "d1", "device_name": "One"},
        {"site_id": SITE, "device_id": "d2", "device_name": "Two"},
    ]
    outages = small.rows(
        "SELECT site_id, device_id, name, begin_text, end_text, position FROM outages.site_outages ORDER BY position"
    )
    assert [tuple(row.values()) for row in outages] == [
        (SITE, "d2", "Two", LATER, END, 1),
        (SITE, "d1", "One", CUTOFF, END, 2),
    ]
    [delivery] = small.simulator.deliveries
    assert json.loads(delivery.body) == [
        {"id": "d2", "name": "Two", "begin": LATER, "end": END},
        {"id": "d1", "name": "One", "begin": CUTOFF, "end": END},
    ]
    root = ParquetRoot(OutagesSettings.load().storage_url)
    raw = read_parquet(root, small.database, [Slice(RawOutages)]).to_pylist()
    assert [(row["position"], row["device_id"], row["begin_text"]) for row in raw] == [
        (0, "d1", EARLY), (1, "d2", LATER), (2, "d1", CUTOFF), (3, "stranger", LATER), (4, "d2", LATER)
    ]  # fmt: skip
    [site] = read_parquet(root, small.database, [Slice(RawSiteInfo, SITE)]).to_pylist()
    assert json.loads(site["body"]) == small.simulator.site_info(SITE)
    small.assert_delivered_once()
    small.assert_books_balance()


def test_a_run_says_what_became_of_the_rows(small: World, runs: Runs) -> None:
    result = runs()
    raw, outages = metadata(result, "raw_outages", None), metadata(result, "site_outages")
    assert (raw["received"], raw["inserted"], raw["quarantined"]) == (5, 5, 0)
    assert (outages["received"], outages["inserted"], outages["deduplicated"]) == (3, 2, 1)
    assert outages["relation"] == "outages.site_outages"
    delivered = metadata(result, "delivered_site_outages")
    [batch] = small.batches()
    assert (delivered["note"], delivered["delivered"], delivered["batches"]) == (
        "2 outages delivered",
        2,
        batch["batch_key"][:12],
    )
    [entry] = small.rows("SELECT * FROM etl.ledger WHERE asset = 'outages.delivered_site_outages'")
    assert (entry["partition"], entry["mode"], entry["received"], entry["inserted"]) == (SITE, "delivery", 2, 2)
    assert entry["run_id"] == result.run_id
    assert json.loads(entry["source_position"]) == {"batch": batch["batch_key"]}


@pytest.mark.long
def test_a_second_run_writes_nothing_and_posts_nothing(small: World, runs: Runs) -> None:
    runs()
    versions = "SELECT xmin::text || ctid::text FROM outages.{} ORDER BY 1"
    tables = ("site_devices", "site_outages", "delivered_site_outages", "delivery_batches")
    before = [small.column(versions.format(table)) for table in tables]
    result = runs()
    assert [small.column(versions.format(table)) for table in tables] == before
    assert metadata(result, "site_devices").items() >= {**UNTOUCHED, "unchanged": 2}.items()
    assert metadata(result, "site_outages").items() >= {**UNTOUCHED, "unchanged": 2, "deduplicated": 1}.items()
    assert metadata(result, "delivered_site_outages")["note"] == "nothing to deliver, no POST"
    assert metadata(result, "delivered_site_outages")["watermark"] != "none"
    (commit,) = small.column("SELECT commit_id FROM etl.heads WHERE asset = 'outages.delivered_site_outages'")
    assert metadata(result, "delivered_site_outages")["commit"] == commit
    assert small.posts() == 1
    small.assert_books_balance()


@pytest.mark.long
def test_a_site_with_nothing_to_deliver_gets_no_post_and_the_materialisation_says_so(world: World, runs: Runs) -> None:
    world.serve([outage("d1", EARLY)])
    result = runs()
    assert result.success
    said = metadata(result, "delivered_site_outages")
    assert (said["note"], said["delivered"], said["batches"], said["watermark"]) == (
        "nothing to deliver, no POST",
        0,
        "none",
        "none",
    )
    assert world.posts() == 0


@pytest.mark.long
def test_a_late_outage_is_all_that_the_next_run_writes_and_posts(small: World, runs: Runs) -> None:
    runs()
    small.simulator.add_outage(SITE, 0, "2022-01-15T00:00:00.000Z", END)
    result = runs()
    assert (
        metadata(result, "site_outages").items() >= {"inserted": 1, "updated": 0, "deleted": 0, "unchanged": 2}.items()
    )
    assert small.begins()[1:] == [["2022-01-15T00:00:00.000Z"]]
    small.assert_delivered_once()


@pytest.mark.long
def test_bad_rows_are_in_quarantine_and_the_others_are_delivered(world: World, runs: Runs) -> None:
    world.serve(
        [
            {"id": "d1", "end": END},
            outage("d1", LATER, CUTOFF),
            outage("d2", LATER, cause="storm"),
            {"id": 17, "begin": CUTOFF, "end": END},
            outage("d1", CUTOFF),
        ]
    )
    result = runs()
    assert result.success
    assert (
        metadata(result, "raw_outages", None).items()
        >= {"received": 5, "inserted": 3, "quarantined": 2, "flagged": 2}.items()
    )
    assert world.begins() == [[LATER, LATER, CUTOFF]]
    noted = world.rows("SELECT outcome, faults, raw, asset FROM etl.quarantine")
    found = {(row["outcome"], fault["column"], fault["rule"]) for row in noted for fault in json.loads(row["faults"])}
    assert found >= {
        ("rejected", "begin", "required"),
        ("flagged", "end", "before begin"),
        ("flagged", "cause", "additional field"),
    }
    assert {json.loads(row["raw"]).get("id") for row in noted} == {"d1", "d2", 17}
    assert {row["asset"] for row in noted} == {"outages.raw_outages"}
    world.assert_delivered_once()
    world.assert_books_balance()


@pytest.mark.long
def test_a_device_without_an_id_or_a_name_is_in_quarantine_with_its_site(world: World, runs: Runs) -> None:
    described = info(d1="One")
    described["devices"] += [{"id": 7, "name": "Seven"}, {"id": "d2"}, "d3"]
    world.serve([outage("d1", CUTOFF), outage("d2", CUTOFF)], described)
    result = runs()
    assert metadata(result, "site_devices").items() >= {"received": 4, "inserted": 1, "quarantined": 3}.items()
    assert set(world.column("SELECT partition FROM etl.quarantine WHERE asset = 'outages.site_devices'")) == {SITE}
    assert world.begins() == [[CUTOFF]]


# The example


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[list[bytes], list[Any]]]:
    """A plain HTTP server with the files of the example; gives the bodies posted to it, and the body expected."""
    if not EXAMPLE.is_dir():
        pytest.skip("the example data are not beside this checkout")
    posted: list[bytes] = []
    files = {"/outages": "kingfisher.outages.json", "/site-info/kingfisher": "kingfisher.site-info.json"}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.answer((EXAMPLE / files[self.path]).read_bytes())

        def do_POST(self) -> None:
            assert self.path == "/site-outages/kingfisher"
            posted.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.answer(b"{}")

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setenv("OUTAGES_API_URL", f"http://127.0.0.1:{server.server_port}")
        yield posted, json.loads((EXAMPLE / "kingfisher.expected-post.json").read_text())
        server.shutdown()
        thread.join()


@pytest.mark.long
def test_the_example_is_posted_as_expected_by_a_run(world: World, example: Any) -> None:
    posted, expected = example
    assert Runs.of(world)().success
    assert [json.loads(body) for body in posted] == [expected]


@pytest.mark.long
def test_the_example_is_posted_as_expected_by_the_script(world: World, example: Any) -> None:
    posted, expected = example
    world.api = quick_api(OutagesSettings.load().required("outages_api_url"), "any")
    for _ in range(2):
        world.sync()
    assert [json.loads(body) for body in posted] == [expected]


# Many sites


@pytest.mark.long
def test_several_sites_in_one_run_have_a_materialisation_each(world: World, runs: Runs) -> None:
    world.serve(
        [outage("d1", CUTOFF), outage("d2", CUTOFF), outage("d2", LATER)],
        info("a", d1="One"),
        info("b", d2="Two"),
        info("c"),
    )
    result = runs("a", "b", "c")
    assert result.success
    assert [metadata(result, "site_outages", site)["inserted"] for site in "abc"] == [1, 2, 0]
    assert [metadata(result, "delivered_site_outages", site)["delivered"] for site in "abc"] == [1, 2, 0]
    assert [metadata(result, "site_devices", site)["received"] for site in "abc"] == [1, 1, 0]
    assert sorted((d.site, len(d.rows)) for d in world.simulator.deliveries) == [("a", 1), ("b", 2)]
    assert world.simulator.faults.counts()["outages"] == {"none": 1}


class Kept(dg.IOManager):
    """Keeps what assets return in memory: for a run of which only the calls to the API matter."""

    def __init__(self) -> None:
        self.kept: dict[dg.AssetKey, Any] = {}

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        self.kept[context.asset_key] = obj.valid if isinstance(obj, Split) else obj

    def load_input(self, context: dg.InputContext) -> Any:
        frame, chosen = self.kept[context.asset_key], context.dagster_type.chosen
        return frame[list(chosen)] if chosen else frame


@pytest.mark.long
def test_a_hundred_sites_in_one_run_fetch_the_outages_once(world: World) -> None:
    sites = [f"site-{number:03}" for number in range(100)]
    world.serve(
        [outage(f"d-{site}", CUTOFF) for site in sites], *(info(site, **{f"d-{site}": "One"}) for site in sites)
    )
    kept = Kept()
    result = Runs.of(world, parquet_io=kept, postgres_io=kept)(*sites)
    assert result.success
    assert world.simulator.faults.counts() == {"outages": {"none": 1}, "site-info": {"none": 100}}
    assert len(kept.kept[dg.AssetKey(["outages", "site_outages"])]) == 100
    assert (
        len(
            [
                e
                for e in result.get_asset_materialization_events()
                if e.asset_key == dg.AssetKey(["outages", "site_outages"])
            ]
        )
        == 100
    )


@pytest.mark.long
def test_a_site_whose_delivery_is_refused_does_not_keep_the_others_from_theirs(
    world: World, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.serve([outage("d1", CUTOFF)], info("a", d1="One"), info("b", d1="Eins"))
    accept = world.simulator.deliver

    def choosy(site: str, body: bytes, *, key: str | None) -> int:
        if site == "a":
            raise Refusal(400, "not a")
        return accept(site, body, key=key)

    monkeypatch.setattr(world.simulator, "deliver", choosy)
    result = runs("a", "b")
    assert failed_steps(result) == ["delivered_site_outages"]
    assert [delivery.site for delivery in world.simulator.deliveries] == ["b"]
    assert (world.states("a"), world.states("b")) == (["refused"], ["delivered"])
    assert "POST /site-outages/a: answered 400 (“not a”)" in failure(result, "delivered_site_outages")


# The cut-off of a run


@pytest.mark.long
def test_since_replaces_the_cutoff_of_this_run_and_redelivers_nothing(
    small: World, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs()
    monkeypatch.setattr(small.simulator, "cutoff", CUTOFF_AS_INSTANT - timedelta(milliseconds=1))
    assert runs(since="2021-12-31T23:59:59.999+00:00").success
    assert small.begins() == [[LATER, CUTOFF], [EARLY]]
    rows = small.column("SELECT begin_text FROM outages.site_outages ORDER BY position")
    assert rows == [EARLY, LATER, CUTOFF]


@pytest.mark.long
def test_a_later_since_leaves_what_was_delivered_as_it_is(small: World, runs: Runs) -> None:
    runs()
    assert runs(since="2022-02-01T01:00:00+01:00").success
    assert small.column("SELECT begin_text FROM outages.site_outages") == [LATER]
    assert runs().success
    assert small.begins() == [[LATER, CUTOFF]]
    small.assert_delivered_once()


@pytest.mark.long
@pytest.mark.parametrize("since", ["2022-01-01T00:00:00", "2022-01-01", "yesterday", ""])
def test_a_since_that_is_no_instant_fails_at_once_and_says_what_to_give(small: World, runs: Runs, since: str) -> None:
    result = runs(since=since)
    assert failed_steps(result) == ["site_outages"]
    assert attempts(result, "site_outages") == 1
    assert f"since is {since!r}: give an instant with a zone, like 2022-01-01T00:00:00Z" in failure(
        result, "site_outages"
    )
    assert small.posts() == 0


# What is tried again


@pytest.mark.long
def test_a_permanent_failure_is_not_tried_again(small: World, runs: Runs) -> None:
    small.simulator.api_key = "another"
    result = runs()
    assert failed_steps(result) == ["raw_outages", "raw_site_info"]
    assert [attempts(result, step) for step in failed_steps(result)] == [1, 1]
    assert small.simulator.faults.counts() == {"outages": {"none": 1}, "site-info": {"none": 1}}
    assert "set OUTAGES_API_KEY to a key" in failure(result, "raw_outages")
    assert small.column("SELECT count(*) FROM outages.site_outages") == [0]


@pytest.mark.long
def test_a_transient_failure_is_tried_again(small: World, runs: Runs, at_once: None) -> None:
    small.simulator.faults.script("outages", ["500"] * 4)
    small.simulator.faults.script("site-info", ["503", "reset", "none"])
    small.simulator.faults.script("site-outages", ["502"] * 8)
    result = runs()
    assert result.success
    steps = ("raw_outages", "raw_site_info", "delivered_site_outages")
    assert [attempts(result, step) for step in steps] == [2, 1, 3]
    small.assert_delivered_once()


@pytest.mark.long
def test_what_stays_unavailable_fails_after_all_tries_and_nothing_is_mapped(
    small: World, runs: Runs, at_once: None
) -> None:
    small.simulator.faults.rates("site-info", {"503": 1.0})
    result = runs()
    assert failed_steps(result) == ["raw_site_info"]
    assert attempts(result, "raw_site_info") == 3
    assert small.simulator.faults.count("site-info", "503") == 9
    assert "GET /site-info/kingfisher: tried 3 times" in failure(result, "raw_site_info")
    assert small.column("SELECT count(*) FROM outages.site_outages") == [0]
    assert small.posts() == 0


@pytest.mark.long
def test_no_secret_is_in_what_a_run_leaves_behind(small: World, runs: Runs) -> None:
    small.simulator.faults.script("site-outages", ["500"])
    assert runs().success
    small.simulator.api_key, secret = "another", small.simulator.api_key
    assert not runs().success
    everything = "\n".join(
        str(event)
        for record in runs.instance.get_run_records()
        for event in runs.instance.all_logs(record.dagster_run.run_id)
    )
    assert "raw_outages" in everything
    password = small.database.url.split("@")[0].rsplit(":", 1)[-1]
    assert [hidden for hidden in (secret, password) if len(hidden) > 5 and hidden in everything] == []


# Checks


@pytest.mark.long
def test_every_check_passes_after_a_run(small: World, runs: Runs) -> None:
    result = checks(runs())
    expected = {(contract.table_name(), "has_rows") for contract in CONTRACTS if contract is not DeliveryBatches}
    expected |= {("site_devices", "is_current"), ("site_outages", "is_current")}
    expected |= {("site_outages", "outages_belong_to_devices"), ("delivered_site_outages", "nothing_waits_for_long")}
    expected |= {("delivered_site_outages", "each_delivered_once")}
    assert result == dict.fromkeys(expected, True)


def judged(check: Any, world: World) -> tuple[bool, int, str | None]:
    """Whether a check passes, how many rows it looked at, and what it says."""
    result = check(postgres=PostgresResource(url=world.database.url))
    return result.passed, result.metadata["rows_evaluated"].value, result.description


@pytest.mark.parametrize(
    "contract", [c for c in CONTRACTS if c.config.store == "postgres" and not c.config.may_be_empty]
)
def test_a_check_that_looks_at_nothing_fails(world: World, contract: Any) -> None:
    assert judged(has_rows(contract), world) == (False, 0, "there was nothing to look at")


@pytest.mark.long
def test_a_site_info_that_was_never_stored_fails_its_check(world: World) -> None:
    assert judged(has_rows(RawSiteInfo), world) == (False, 0, "there was nothing to look at")


@pytest.mark.long
@pytest.mark.parametrize(
    "check",
    [
        has_rows(RawOutages),
        has_rows(SiteOutages),
        outage_checks.outages_belong_to_devices,
        outage_checks.nothing_waits_for_long,
        outage_checks.each_delivered_once,
    ],
)
def test_a_table_that_may_be_empty_passes_with_the_count_of_zero(world: World, check: Any) -> None:
    assert judged(check, world) == (True, 0, None)


@pytest.mark.long
def test_a_site_without_devices_fails_the_check_of_its_table(world: World, runs: Runs) -> None:
    world.serve([outage("d1", CUTOFF)], info())
    result = runs()
    assert result.success
    assert [name for name, passed in checks(result).items() if not passed] == [("site_devices", "has_rows")]


@pytest.mark.long
def test_an_outage_of_a_stranger_or_under_an_old_name_fails_its_check(small: World) -> None:
    small.sync()
    assert judged(outage_checks.outages_belong_to_devices, small)[:2] == (True, 2)
    small.execute("UPDATE outages.site_devices SET device_name = 'Uno' WHERE device_id = 'd1'")
    assert judged(outage_checks.outages_belong_to_devices, small)[:2] == (False, 2)


@pytest.mark.long
@pytest.mark.parametrize(
    ("change", "passes"),
    [
        ("state = 'frozen', frozen_at = now() - interval '59 minutes'", True),
        ("state = 'frozen', frozen_at = now() - interval '61 minutes'", False),
        ("state = 'disputed'", False),
        ("state = 'refused'", True),
    ],
)
def test_a_batch_that_waits_for_long_or_is_disputed_fails_its_check(small: World, change: str, passes: bool) -> None:
    small.sync()
    small.execute(f"UPDATE outages.delivery_batches SET {change}")
    assert judged(outage_checks.nothing_waits_for_long, small)[:2] == (passes, 1)


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM outages.delivered_site_outages WHERE device_id = 'd1'",
        "UPDATE outages.delivery_batches SET state = 'refused'",
        "INSERT INTO outages.delivery_batches SELECT repeat('x', 64), site_id, body, outages, state, attempts,"
        " may_have_arrived, http_status, response, frozen_at, settled_at, conflicts, left_out FROM outages.delivery_batches",
    ],
)
def test_a_delivery_that_is_not_recorded_in_full_or_twice_fails_its_check(small: World, change: str) -> None:
    small.sync()
    assert judged(outage_checks.each_delivered_once, small)[:2] == (True, 2)
    small.execute(change)
    assert judged(outage_checks.each_delivered_once, small)[0] is False


@pytest.mark.long
def test_the_sender_of_a_run_meets_a_disputed_batch_and_is_not_tried_again(small: World, runs: Runs) -> None:
    small.sync()
    small.execute("UPDATE outages.delivery_batches SET state = 'disputed'")
    result = runs(job="deliver_outages_job")
    assert (failed_steps(result), attempts(result, "delivered_site_outages")) == (["delivered_site_outages"], 1)
    assert "etl-assets outages settle" in failure(result, "delivered_site_outages")
    delivery.settle_by_hand(small.database, small.batches()[0]["batch_key"], delivered=True)
    assert runs(job="deliver_outages_job").success
    assert small.posts() == 1
    assert small.column(f"SELECT count(*) FROM {SiteDevices.config.table}") == [2]


@pytest.mark.long
def test_a_site_of_a_run_over_several_is_derived_from_its_own_devices_and_all_outages(world: World, runs: Runs) -> None:
    sites = (SITE, "kiwi")
    world.serve([outage("d1", CUTOFF), outage("d2", LATER)], info(d1="One"), info("kiwi", d2="Two"))
    assert runs(*sites).success
    found = world.rows("SELECT partition, inputs FROM etl.heads WHERE asset = 'outages.site_outages'")
    inputs = {row["partition"]: json.loads(row["inputs"]) for row in found}
    assert {site: [*of["outages.site_devices"]] for site, of in inputs.items()} == {site: [site] for site in sites}
    assert {site: [*of["outages.raw_outages"]] for site, of in inputs.items()} == {site: [""] for site in sites}

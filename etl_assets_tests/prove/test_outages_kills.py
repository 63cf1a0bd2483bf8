"""SIGKILL at every step of the outages system: the next run ends as if nothing had happened.

A run is traced first; then, in a child each, it is killed before and after each call that matters, amid its writes, while the
API has the payload, and at random instants. After each kill a reader sees the old slices or the new ones; after the next run,
the tables and the deliveries are those of a run that was never disturbed. Some are only paused, until another has asked the API anew and has
stored and delivered that: what they go on with never takes its place.
"""

import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from etl_assets.core.slices.parquet import ParquetRoot, read_parquet
from etl_assets.core.slices.slice import Slice
from etl_assets.errors import PermanentError
from etl_assets.systems.outages import delivery
from etl_assets.systems.outages.contracts import RawOutages, RawSiteInfo
from etl_assets.systems.outages.settings import OutagesSettings
from etl_assets_tests.systems.outages.forker import Child, Forker, ours
from etl_assets_tests.systems.outages.world import SITE, World, info, outage

KILLED = -9
TABLES = {
    "site_devices": "SELECT * FROM outages.site_devices ORDER BY device_id",
    "site_outages": "SELECT * FROM outages.site_outages ORDER BY position, delivery_key",
    "delivered": "SELECT delivery_key, device_id, name, begin_text, end_text FROM outages.delivered_site_outages ORDER BY 1",
    "quarantine": "SELECT id, asset, partition, outcome, status, faults, raw FROM etl.quarantine ORDER BY id",
}
READ_BY_OTHERS = ("site_devices", "site_outages", "raw_outages", "raw_site_info")
# Killed before and after each call; of all other steps, before the first and after the last.
EACH_CALL = {
    "script": (
        "GET /outages",
        "GET /site-info",
        "commit",
        "publish",
        "freeze",
        "record attempt",
        "POST",
        "acknowledge",
    ),
    "dagster": ("store a table", "store a file", "load a table", "load a file", "open batch", "commit"),
}
DRIVERS = ("SQL", "statement", "query", "end of a transaction", "send of a request")
Point = tuple[str, int, str]
# Where a run is paused while another takes over, and so long that one waits for its locks.
PAUSED_AT: tuple[Point, ...] = (
    ("GET /outages", 1, "before"),
    ("GET /outages", 1, "after"),
    ("GET /site-info", 1, "after"),
    ("lock", 1, "after"),
    ("write parquet", 1, "after"),
    ("fence", 1, "after"),
    ("ledger", 2, "after"),
    ("publish", 1, "before"),
    ("commit", 2, "before"),
    ("append", 1, "after"),
    ("commit", 3, "before"),
    ("open batch", 1, "before"),
)
NO_LIFE_S = 1.0


def at(month: int) -> str:
    return f"2022-{month:02}-01T00:00:00.000Z"


FIRST = [
    outage("d1", at(3)),
    {"id": "d1", "end": at(1)},
    outage("d2", at(2)),
    outage("d2", at(2)),
    outage("d1", at(5), at(4)),
]
NEXT = [*FIRST[:3], outage("d1", at(1)), outage("d3", at(6)), {"id": 17, "begin": at(1), "end": at(1)}]
LATER = [*FIRST, outage("d2", at(7)), {"id": "d2"}]
KNOWN, RENAMED = info(d1="One", d2="Two"), info(d1="One", d2="Zwei", d3="Three")


@dataclass
class Tally:
    """What all kills came to."""

    kills: int = 0
    lost: int = 0
    twice: int = 0
    partial: int = 0
    paused: int = 0
    replaced: int = 0
    steps: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def tally() -> Iterator[Tally]:
    """Counts over the module, printed at its end."""
    tally = Tally()
    yield tally
    print(
        f"\nkills {tally.kills}, lost {tally.lost}, twice {tally.twice}, partial {tally.partial}"
        f" (outages; {', '.join(f'{name} {number}' for name, number in tally.steps.items())}); paused and resumed {tally.paused},"
        f" replaced by what was read earlier {tally.replaced}"
    )


@dataclass
class Bench:
    """A world that is brought to the same beginning again and again."""

    world: World
    forker: Forker
    tally: Tally
    task: str = "sync"
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)
    taken: Counter[Any] = field(default_factory=Counter)

    def start(self, task: str = "", **arguments: Any) -> Child:
        """The system in a child, by the task of this bench or another."""
        name = {"script": "sync", "dagster": "dagster_run"}.get(task or self.task, task or self.task)
        return self.forker.start(f"etl_assets_tests.systems.outages.tasks:{name}", environment=ours(), **arguments)

    def run(self, **arguments: Any) -> Child:
        """A task until its end."""
        child = self.start(**arguments)
        child.wait()
        return child

    def undisturbed(self, task: str = "") -> None:
        """A run that must succeed."""
        child = self.run(task=task)
        assert child.code == 0, child.out + child.err

    def empty(self) -> None:
        """Nothing is stored, nothing was delivered."""
        self.world.execute(
            "TRUNCATE outages.site_devices, outages.site_outages, outages.delivered_site_outages,"
            " outages.delivery_batches, etl.ledger, etl.heads, etl.quarantine, etl.corrections"
        )
        shutil.rmtree(OutagesSettings.load().storage_url, ignore_errors=True)
        self.world.simulator.reset()
        self.world.serve(FIRST, KNOWN)

    def state(self) -> dict[str, Any]:
        """Everything that is stored, without the times at which it was."""
        state: dict[str, Any] = {name: self.world.rows(query) for name, query in TABLES.items()}
        root = ParquetRoot(OutagesSettings.load().storage_url)
        for contract, piece in ((RawOutages, Slice(RawOutages)), (RawSiteInfo, Slice(RawSiteInfo, SITE))):
            try:
                rows = read_parquet(root, self.world.database, [piece]).drop_columns(["fetched_at"]).to_pylist()
            except PermanentError:
                rows = []
            state[contract.table_name()] = rows
        return state

    def learn(self, prepare: Callable[["Bench"], None]) -> list[tuple[str, int]]:
        """What is there before and after a run that is not disturbed, and the steps that it takes."""
        prepare(self)
        self.before = self.state()
        trace = Path(OutagesSettings.load().etl_data_dir) / "trace"
        trace.unlink(missing_ok=True)
        child = self.run(trace=str(trace))
        assert child.code == 0, child.out + child.err
        self.after, self.taken = self.state(), self.world.simulator.delivered_rows(SITE)
        assert set(self.taken.values()) == {1}
        return [tuple(json.loads(line)) for line in trace.read_text().splitlines()]

    def judge(self, where: Any) -> None:
        """After a kill: nothing is there by halves, and the next run ends as it should."""
        self.tally.kills += 1
        self.tally.steps[self.task] += 1
        seen = self.state()
        for name in READ_BY_OTHERS:
            if seen[name] not in (self.before[name], self.after[name]):
                self.tally.partial += 1
                pytest.fail(f"killed {where}: {name} is neither as before nor as after: {seen[name]}")
        self.world.simulator.faults.clear()
        child = self.run()
        if "is disputed" in child.out:
            delivery.settle_by_hand(self.world.database, self.world.batches()[-1]["batch_key"], delivered=False)
            child = self.run()
        assert child.code == 0, f"killed {where}: the next run said {child.out}{child.err}"
        taken = self.world.simulator.delivered_rows(SITE)
        self.tally.twice += sum(times > 1 for times in taken.values())
        self.tally.lost += len(self.taken - taken)
        assert taken == self.taken, f"killed {where}"
        assert self.state() == self.after, f"killed {where}"
        assert set(self.world.states()) <= {"delivered", "refused", "thawed"}
        self.world.assert_delivered_once()
        self.world.assert_books_balance()


@pytest.fixture
def bench(world: World, forker: Forker, tally: Tally) -> Bench:
    return Bench(world, forker, tally)


def nothing_yet(bench: Bench) -> None:
    """The first run of all."""
    bench.empty()


def another_time(bench: Bench) -> None:
    """A run before; since then a row came, one went, a device was renamed."""
    bench.empty()
    bench.undisturbed("script")
    bench.world.serve(NEXT, RENAMED)


def left_behind(bench: Bench) -> None:
    """A batch is frozen that certainly did not arrive, and that the data have left behind: it will be thawed."""
    bench.empty()
    bench.world.simulator.faults.script("site-outages", ["429"] * 3)
    assert bench.run().code == 1
    bench.world.serve(NEXT, RENAMED)


def points(steps: Sequence[tuple[str, int]], *, each: Sequence[str], others: bool) -> list[Point]:
    """Where to kill, in the order of the run."""
    total = Counter(label for label, _ in steps)
    chosen: list[Point] = []
    for label, number in steps:
        if label in each:
            chosen += [(label, number, "before"), (label, number, "after")]
        elif others and label not in DRIVERS:
            chosen += [(label, number, "before")] if number == 1 else []
            chosen += [(label, number, "after")] if number == total[label] else []
        if others and label in ("write parquet", "bulk load"):
            chosen.append((label, number, "amid"))
    return chosen


@pytest.mark.parametrize(
    ("task", "prepare", "others"),
    [("script", nothing_yet, False), ("script", another_time, True), ("dagster", another_time, False)],
)
def test_a_run_that_is_killed_at_a_step_is_made_good_by_the_next(
    bench: Bench, task: str, prepare: Callable[[Bench], None], others: bool
) -> None:
    bench.task = task
    steps = bench.learn(prepare)
    chosen = points(steps, each=EACH_CALL[task], others=others)
    missed = [label for label in EACH_CALL[task] if label not in {label for label, _, _ in chosen}]
    assert missed == []
    for point in chosen:
        prepare(bench)
        child = bench.run(kill=list(point))
        assert child.code == KILLED, f"{point} was not reached: {child.out}{child.err}"
        bench.judge(point)


@pytest.fixture(scope="module")
def another(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forker]:
    """Starts runs beside those of the bench."""
    with Forker(tmp_path_factory.mktemp("others")) as forker:
        yield forker


@pytest.mark.parametrize("point", PAUSED_AT, ids=lambda point: " ".join(map(str, point)))
def test_a_run_that_is_paused_until_another_is_done_changes_nothing_of_that(
    bench: Bench, another: Forker, point: Point
) -> None:
    def later(bench: Bench) -> None:
        bench.empty()
        bench.world.serve(LATER, KNOWN)

    bench.task = "script"
    bench.learn(later)
    bench.empty()
    child = bench.start(kill=[*point, "pause"], no_life_s=NO_LIFE_S)
    assert child.is_paused(), f"{point} was not reached: {child.out}{child.err}"
    bench.tally.paused += 1
    bench.world.serve(LATER, KNOWN)
    task = "etl_assets_tests.systems.outages.tasks:sync"
    competitor = another.start(task, environment=ours(), no_life_s=NO_LIFE_S)
    assert competitor.wait() == 0, competitor.out + competitor.err
    assert bench.state() == bench.after, f"what was stored while {point} was paused"
    child.resume()
    code = child.wait()
    assert code in (0, 1), child.err
    assert code == 0 or "was written again" in child.out or "another writer has had it since" in child.out, child.out
    there, taken = bench.state(), bench.world.simulator.delivered_rows(SITE)
    bench.tally.replaced += sum(there[name] != bench.after[name] for name in READ_BY_OTHERS)
    bench.tally.twice += sum(times > 1 for times in taken.values())
    bench.tally.lost += len(bench.taken - taken)
    assert there == bench.after
    assert taken == bench.taken
    bench.world.assert_books_balance()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("failure", ["thawed", "unavailable", "transaction"])
def test_a_run_that_is_killed_while_it_records_a_failure_is_made_good(bench: Bench, failure: str, when: str) -> None:
    prepare = another_time if failure == "unavailable" else left_behind
    step = "end of a transaction" if failure == "transaction" else "record outcome"
    bench.task = "script"
    bench.learn(prepare)
    prepare(bench)
    if failure == "unavailable":
        bench.world.simulator.faults.script("site-outages", ["503"] * 3)
    assert bench.run(kill=[step, 1, when]).code == KILLED
    bench.judge((step, when))


@pytest.mark.parametrize("task", ["script", "dagster"])
@pytest.mark.parametrize("fault", ["timeout", "timeout-before-commit"])
def test_a_run_that_is_killed_while_the_api_has_the_payload_is_made_good(bench: Bench, task: str, fault: str) -> None:
    bench.task = task
    bench.learn(nothing_yet)
    nothing_yet(bench)
    simulator = bench.world.simulator
    # Again for each attempt of a child that is killed late.
    simulator.faults.script("site-outages", [fault] * 3)
    child = bench.start()
    until = time.monotonic() + 20
    while not (simulator.deliveries if fault == "timeout" else simulator.faults.count("site-outages", fault)):
        assert time.monotonic() < until
        time.sleep(0.002)
    child.kill()
    assert child.wait() == KILLED
    assert len(simulator.deliveries) == (fault == "timeout")
    bench.judge(fault)


@pytest.mark.parametrize(("task", "kills"), [("script", 16), ("dagster", 8)])
def test_a_run_that_is_killed_at_any_instant_is_made_good(bench: Bench, task: str, kills: int) -> None:
    bench.task = task
    bench.learn(another_time)
    another_time(bench)
    started = time.monotonic()
    bench.undisturbed()
    lasts = time.monotonic() - started
    dice, done = random.Random(task), 0
    while done < kills:
        another_time(bench)
        instant = dice.uniform(0, lasts)
        child = bench.start()
        time.sleep(instant)
        child.kill()
        if child.wait() == KILLED:
            done += 1
            bench.judge(f"after {instant:.3f} s")


@pytest.mark.parametrize(("step", "when"), [("acknowledge", "before"), ("acknowledge", "after"), ("ledger", "after")])
def test_a_settlement_by_hand_that_is_killed_is_whole_or_not_done(bench: Bench, step: str, when: str) -> None:
    bench.task = "script"
    bench.learn(nothing_yet)
    world = bench.world
    world.execute("UPDATE outages.delivery_batches SET state = 'disputed'")
    world.execute("DELETE FROM outages.delivered_site_outages")
    key = world.batches()[0]["batch_key"]
    bench.task = "command"
    child = bench.run(arguments=["outages", "settle", key, "--as", "delivered"], kill=[step, 1, when])
    assert child.code == KILLED
    if world.states() == ["disputed"]:
        assert world.marked().total() == 0
        assert bench.run(arguments=["outages", "settle", key, "--as", "delivered"]).code == 0
    bench.task = "script"
    bench.judge(("settle", step, when))

"""SIGKILL for backfills of many days, by command and as runs of the job, at every step and at random instants, over and over, while
somebody looks at the days: each is there as it was or as it is to be, as a whole, and the next run that is let live makes all of
them what a plain computation makes of the source's minutes. Some are only paused, until another has asked the source anew and has stored that:
what they go on with never takes its place.
"""

import random
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

import psycopg
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY
from etl_assets_tests.systems.outages.forker import Child, Forker
from etl_assets_tests.systems.production.kills_tasks import Step
from etl_assets_tests.systems.production.kills_witness import Judgement
from etl_assets_tests.systems.turbines.conftest import FARM, serving
from etl_assets_tests.systems.turbines.kills import State, Version, Witness, assert_books_balance, days_of, files_of
from etl_assets_tests.systems.turbines.kills_tasks import JOB_STEPS, PAUSED_AT, SCRIPT_STEPS
from etl_assets_tests.systems.turbines.world import FIRST, World, assert_same, at

SEED = 1
KILLED = -9
DAYS = 6
LAST = FIRST + (DAYS - 1) * DAY
KILLS_A_ROUND, MOST_ROUNDS = 5, 40
AT_ANY_INSTANT = {"script": 12, "job": 4}
# So long another waits for the lock of one that is paused.
NO_LIFE_S = 1.0
PAUSED_AT_ANY_INSTANT = 4
LEDGER = "SELECT asset, sum(inserted + updated + deleted)::bigint FROM etl.ledger GROUP BY 1 ORDER BY 1"
Plan = tuple[str, Step | None]


@pytest.fixture
def world(
    postgres_server: EmbeddedPostgres,
    database: Database,
    target_database: Database,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    """Some days of two turbines, and two fresh databases."""
    for simulator, url in serving(postgres_server, "fonte_kills", start=FIRST, days=DAYS, turbines=FARM):
        for name, value in {
            "ETL_POSTGRES_URL": database.url,
            "TURBINES_TARGET_URL": target_database.url,
            "TURBINES_API_URL": url,
            "TURBINES": ",".join(FARM),
        }.items():
            monkeypatch.setenv(name, value)
        yield World(database, target_database, simulator, url)


@dataclass
class Backfills:
    """Backfills in processes of their own, one after another."""

    world: World
    forker: Forker
    done: Counter[str] = field(default_factory=Counter)
    lasts_s: dict[str, float] = field(default_factory=dict)
    paused: int = 0
    replaced: Counter[str] = field(default_factory=Counter)

    def start(self, task: str, kill: list[object] | None = None, forker: Forker | None = None) -> Child:
        environment = {
            "ETL_DATA_DIR": str(TurbinesSettings.load().etl_data_dir),
            "ETL_POSTGRES_URL": self.world.database.url,
            "TURBINES_TARGET_URL": self.world.target.url,
            "TURBINES_API_URL": self.world.url,
            "TURBINES": ",".join(FARM),
        }
        name = f"etl_assets_tests.systems.turbines.kills_tasks:{task}"
        days = {"first": f"{FIRST}", "last": f"{LAST}"}
        forker = forker or self.forker
        return forker.start(name, environment=environment, no_life_s=NO_LIFE_S, kill=kill, **days)

    def undisturbed(self, task: str) -> None:
        """A backfill that is let live."""
        began = time.monotonic()
        child = self.start(task)
        assert child.wait() == 0, child.out + child.err
        self.lasts_s[task] = time.monotonic() - began

    def killed(self, plan: Plan, dice: random.Random) -> bool:
        """A backfill that is killed as planned; false if it was done before that."""
        task, step = plan
        if step:
            child = self.start(task, [step[0], dice.randint(1, 2), step[1]])
        else:
            child = self.start(task)
            time.sleep(dice.uniform(0, self.lasts_s[task]))
            child.kill()
        code = child.wait()
        assert code in (0, KILLED), child.out + child.err
        self.done[f"{task} at a step" if step else f"{task} at any instant"] += code == KILLED
        return code == KILLED

    def overtaken(self, step: Step | None, old: "Version", new: "Version", other: Forker, dice: random.Random) -> None:
        """A backfill that is paused, until another one has stored what the source says by then."""
        if step:
            child = self.start("script", [step[0], dice.randint(1, 2), step[1], "pause"])
        else:
            child = self.start("script")
            time.sleep(dice.uniform(0.1, 0.9) * self.lasts_s["script"])
            child.pause()
        self.paused += child.is_paused()
        for day, state in seen_of(self.world).items():
            assert state in (old.days[day], new.days[day]), f"{day} is there by halves while {step} is paused"
        change(self.world, new.number)
        competitor = self.start("script", forker=other)
        assert competitor.wait() == 0, competitor.out + competitor.err
        assert seen_of(self.world) == new.days, f"what was stored while {step} was paused"
        child.resume()
        code = child.wait()
        assert code == 0 or child.gave_way, f"{step}: {child.out}{child.err}"
        there = seen_of(self.world)
        self.replaced["days"] += sum(there.get(day) != state for day, state in new.days.items())
        files = files_of(self.world, new.days)
        self.replaced["files"] += sum(files.get(day) != content for day, content in new.files.items())
        copies = files_of(self.world, new.days, copies=True)
        self.replaced["copies"] += sum(copies.get(day) != content for day, content in new.files.items())


def seen_of(world: World) -> Mapping[date, State]:
    """What is there of each day."""
    with psycopg.connect(world.target.url) as connection:
        return days_of(connection)


def plans(dice: random.Random) -> list[Plan]:
    """Each step once, of the job its own only, and the instants, in random order."""
    planned: list[Plan] = [("script", step) for step in SCRIPT_STEPS] + [("job", step) for step in JOB_STEPS]
    planned += [(task, None) for task, number in AT_ANY_INSTANT.items() for _ in range(number)]
    dice.shuffle(planned)
    return planned


def change(world: World, number: int) -> None:
    """The source has everything, or lacks some hours of each day."""
    world.simulator.release()
    for day in range(DAYS if number else 0):
        world.simulator.hold(at("05:05", FIRST + day * DAY), at("08:00", FIRST + day * DAY), turbine=FARM[day % 2])


def empty(world: World) -> None:
    """Nothing was ever loaded."""
    world.execute("TRUNCATE data, bin, signal, etl.ledger, etl.heads")
    with world.database.connect() as connection:
        connection.execute("TRUNCATE etl.ledger, etl.heads")
    shutil.rmtree(TurbinesSettings.load().storage_url, ignore_errors=True)


def learn(world: World, backfills: Backfills, number: int) -> Version:
    """What the days are in one state of the source: those of an undisturbed backfill, which are what Python computes."""
    change(world, number)
    backfills.undisturbed(("script", "job")[number])
    for day in range(DAYS):
        today = FIRST + timedelta(days=day)
        assert_same(world.ten_minute(today), world.computed(today, turbines=FARM))
    with psycopg.connect(world.target.url) as connection:
        days = days_of(connection)
    assert len(days) == DAYS
    return Version(number, days, files_of(world, days))


def test_a_backfill_that_is_killed_sixty_times_never_shows_half_a_day(world: World, tmp_path: Path) -> None:
    dice, judgement = random.Random(SEED), Judgement()
    with Forker(tmp_path) as forker:
        backfills = Backfills(world, forker)
        versions = [learn(world, backfills, number) for number in (0, 1)]
        witness, waiting, rounds = Witness(world), deque(plans(dice)), 0
        while waiting:
            rounds += 1
            assert rounds < MOST_ROUNDS, f"not reached: {waiting}"
            new = versions[rounds % 2]
            witness.rest()
            if dice.random() < 0.3:
                empty(world)
            change(world, rounds % 2)
            witness.expect(new)
            for plan in [waiting.pop() for _ in range(min(KILLS_A_ROUND, len(waiting)))]:
                if not backfills.killed(plan, dice):
                    # This round has none of that step (nothing is deleted, say), but another will.
                    waiting.appendleft(plan)
            backfills.undisturbed("script")
            with psycopg.connect(world.target.url) as connection:
                judgement.compare("days", new.days.items(), days_of(connection).items())
            judgement.compare("files", new.files.items(), files_of(world, new.days).items())
            assert_books_balance(world)
        witness.rest()
        with Forker(tmp_path / "others") as other:
            steps = [*PAUSED_AT, *[None] * PAUSED_AT_ANY_INSTANT]
            for step in dice.sample(steps, len(steps)):
                rounds += 1
                old, new = dice.sample(versions, 2)
                change(world, old.number)
                backfills.overtaken(step, old, new, other, dice)
                assert_books_balance(world)
        before = world.tables(), world.query(LEDGER), world.query(LEDGER, world.database)
        for task in ("script", "job"):
            backfills.undisturbed(task)
        assert (world.tables(), world.query(LEDGER), world.query(LEDGER, world.database)) == before
        witness.end()
    kills = ", ".join(f"{name} {times}" for name, times in sorted(backfills.done.items()))
    print(
        f"\nkills {backfills.done.total()} ({kills}), paused and resumed {backfills.paused}, in {rounds} backfills of {DAYS} days:"
        f" partial {len(witness.partial)} of {witness.looks} looks ({witness.mixed} between old and new), lost"
        f" {judgement.lost.total()}, twice {judgement.twice.total()}, replaced by what was read earlier"
        f" {backfills.replaced.total()}, seed {SEED}"
    )
    assert witness.failure is None
    assert witness.partial == []
    assert judgement == Judgement()
    assert backfills.replaced.total() == 0
    assert backfills.paused >= 10
    assert backfills.done.total() >= 50
    # The witness was there while days were replaced.
    assert witness.mixed >= 10

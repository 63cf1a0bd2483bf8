"""SIGKILL for backfills of a day of files, by command and as runs of the job, at every step and at random instants, over and over,
while somebody looks: the US events of each interval are those of the old file or of the new one, whole, and the manifest says which. Some files
are missing, late, republished or damaged; the next run that is let live makes of all what a plain reading of the files does. Some are only
paused, until another has asked the feed anew and has stored that: what they go on with never takes its place.
"""

import random
import shutil
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from etl_assets.core.database.connections import Database
from etl_assets.simulators.server import serve
from etl_assets.systems.events.files import INTERVAL
from etl_assets.systems.events.settings import EventsSettings
from etl_assets.systems.events.simulator import EventsSimulator
from etl_assets_tests.systems.events.kills import (
    BAD_ROWS,
    NOTHING,
    There,
    Witness,
    assert_counts_balance,
    bad_lines,
    ids_in,
    next_state,
    seen_in,
    sources_in_quarantine,
)
from etl_assets_tests.systems.events.kills_tasks import JOB_STEPS, MOST_CALLS, ORDER, PAUSED_AT, SCRIPT_STEPS
from etl_assets_tests.systems.outages.forker import Child, Forker
from etl_assets_tests.systems.production.kills_tasks import Step
from etl_assets_tests.systems.production.kills_witness import Judgement

SEED = 1
KILLED = -9
DAY = date(2019, 1, 21)
FIRST = datetime(2019, 1, 21, tzinfo=UTC)
INTERVALS = [FIRST + number * INTERVAL for number in range(96)]
# The feed has the first of the day's files; it never brings the others.
FILES, ROWS = 15, 30
KILLS_A_ROUND, MOST_ROUNDS = 7, 25
AT_ANY_INSTANT = {"script": 7, "job": 2}
# So long another waits for the lock of one that is paused.
NO_LIFE_S = 1.0
PAUSED_AT_ANY_INSTANT = 4
# A version leaves out so many events at its beginning, and has as many new ones at its end.
VERSIONS = (0, 6, 12, 18)
REFUSED = ("truncated", "checksum", "two-members", "format-1.0")
# What a run over an unchanged feed leaves as it is; that it asked again for what is not there is noted.
SETTLED = (
    "SELECT *, xmin::text FROM events.us_event_data ORDER BY global_event_id",
    "SELECT *, xmin::text FROM events.intervals WHERE state IN ('loaded', 'refused') ORDER BY interval",
    "SELECT asset, sum(inserted + updated + deleted)::bigint FROM etl.ledger WHERE asset <> 'events.intervals' GROUP BY 1 ORDER BY 1",
)
Plan = tuple[str, Step | None]


@dataclass
class World:
    """The feed, the database, and what has to be in it."""

    database: Database
    simulator: EventsSimulator
    url: str
    folder: Path
    there: dict[datetime, There] = field(default_factory=dict)
    rejected: dict[tuple[datetime, int], list[str]] = field(default_factory=dict)

    @property
    def root(self) -> str:
        return EventsSettings.load().storage_url

    def environment(self) -> dict[str, str]:
        """Of the children."""
        return {
            "ETL_DATA_DIR": str(EventsSettings.load().etl_data_dir),
            "ETL_POSTGRES_URL": self.database.url,
            "EVENTS_FEED_URL": self.url,
            "EVENTS_START_DATE": f"{DAY}",
            "TMPDIR": str(self.folder),
        }

    def change(self, dice: random.Random) -> None:
        """Some files are others than before, damaged, gone, or there at last."""
        for interval in self.simulator.intervals():
            if dice.random() < 0.9:
                defect = dice.choices(("", BAD_ROWS, dice.choice(REFUSED)), (7, 1, 2))[0]
                held = dice.random() < 0.15
                self.simulator.change(interval, version=dice.choice(VERSIONS), defect=defect, held=held)

    def republish(self, dice: random.Random) -> None:
        """All files are there, of versions by chance."""
        for interval in self.simulator.intervals():
            self.simulator.change(interval, version=dice.choice(VERSIONS), defect="", held=False)

    def empty(self) -> None:
        """Nothing was ever loaded."""
        with self.database.connect() as connection:
            connection.execute(
                "TRUNCATE events.us_event_data, events.intervals, etl.ledger, etl.heads, etl.quarantine, etl.corrections"
            )
        shutil.rmtree(self.root, ignore_errors=True)
        self.there, self.rejected = {}, {}

    def loaded(self) -> dict[datetime, There]:
        """What has to be there after a load, by interval."""
        new = {at: next_state(self.simulator, at, self.there.get(at, NOTHING)) for at in INTERVALS}
        for at, is_now in new.items():
            if is_now.ids is not None and is_now.md5 != self.there.get(at, NOTHING).md5:
                version = self.simulator.quirks()[at].version if at in self.simulator.quirks() else 0
                self.rejected[at, version] = bad_lines(self.simulator, at) or self.rejected.get((at, version), [])
        return new

    def settled(self) -> list[list[tuple[object, ...]]]:
        """The rows that a run with nothing new must not touch; one that was written again differs in `xmin`."""
        with self.database.connect() as connection:
            return [connection.execute(query.encode()).fetchall() for query in SETTLED]

    def judge(self, judgement: Judgement) -> None:
        """Tables, manifest, files and quarantine beside what they have to be."""
        with psycopg.connect(self.database.url) as connection:
            seen = seen_in(connection)
        rows = [(at, *row) for at, (_, found) in seen.items() for row in found]
        judgement.compare("US events", [(at, *row) for at, one in self.there.items() for row in one.us], rows)
        manifest = [(at, one.manifest) for at, one in self.there.items()]
        judgement.compare("manifest", manifest, [(at, found) for at, (found, _) in seen.items()])
        raw = [(at, number) for at, one in self.there.items() for number in one.ids or ()]
        files = ids_in(self.database, self.root, INTERVALS)
        judgement.compare("raw events", raw, [(at, number) for at, ids in files.items() for number in ids])
        sources = [source for lines in self.rejected.values() for source in lines]
        judgement.compare("quarantine", sources, sources_in_quarantine(self.database))


@pytest.fixture
def world(database: Database, data_dir: Path, tmp_path: Path) -> Iterator[World]:
    """A feed that has the first files of a day, and an empty database."""
    simulator = EventsSimulator(FIRST, FIRST + FILES * INTERVAL, rows=ROWS)
    folder = tmp_path / "temporary"
    folder.mkdir()
    with serve(simulator.app) as url:
        yield World(database, simulator, url, folder)


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
        name = f"etl_assets_tests.systems.events.kills_tasks:{task}"
        days = {"first": f"{DAY}", "last": f"{DAY + timedelta(days=1)}"}
        environment = self.world.environment()
        return (forker or self.forker).start(name, environment=environment, no_life_s=NO_LIFE_S, kill=kill, **days)

    def undisturbed(self, task: str) -> None:
        """A backfill that is let live."""
        began = time.monotonic()
        child = self.start(task)
        assert child.wait() == 0, child.out + child.err
        self.lasts_s.setdefault(task, time.monotonic() - began)

    def killed(self, plan: Plan, dice: random.Random) -> bool:
        """A backfill that is killed as planned; false if it was done before that."""
        task, step = plan
        if step:
            child = self.start(task, [step[0], dice.randint(1, MOST_CALLS[step[0]]), step[1]])
        else:
            child = self.start(task)
            time.sleep(dice.uniform(0, self.lasts_s[task]))
            child.kill()
        code = child.wait()
        assert code in (0, KILLED), child.out + child.err
        self.done[f"{task} at a step" if step else f"{task} at any instant"] += code == KILLED
        return code == KILLED

    def overtaken(self, step: Step | None, other: Forker, dice: random.Random) -> None:
        """A backfill that is paused, until another one has stored what the feed has by then."""
        world = self.world
        world.republish(dice)
        if step:
            child = self.start("script", [step[0], dice.randint(1, MOST_CALLS[step[0]]), step[1], "pause"])
        else:
            child = self.start("script")
            time.sleep(dice.uniform(0.1, 0.9) * self.lasts_s["script"])
            child.pause()
        self.paused += child.is_paused()
        world.republish(dice)
        world.there = world.loaded()
        competitor = self.start("script", forker=other)
        assert competitor.wait() == 0, competitor.out + competitor.err
        by_competitor, by_both = Judgement(), Judgement()
        world.judge(by_competitor)
        assert by_competitor == Judgement(), f"what was stored while {step} was paused"
        child.resume()
        code = child.wait()
        assert code == 0 or child.gave_way, f"{step}: {child.out}{child.err}"
        world.judge(by_both)
        self.replaced += by_both.lost + by_both.twice
        files, copies = (ids_in(world.database, world.root, INTERVALS, copies=which) for which in (False, True))
        self.replaced["copies"] += sum(copies[at] != ids for at, ids in files.items())


def plans(dice: random.Random) -> list[Plan]:
    """Each step once, of the job its own only, and the instants, in random order."""
    planned: list[Plan] = [("script", step) for step in SCRIPT_STEPS]
    planned += [("job", step) for step in JOB_STEPS]
    planned += [(task, None) for task, number in AT_ANY_INSTANT.items() for _ in range(number)]
    dice.shuffle(planned)
    return planned


def place(plan: Plan) -> int:
    """Where in a backfill it is killed; one that is killed early leaves something to do for those after it."""
    _, step = plan
    return ORDER.index(step[0]) if step else 0


def test_a_backfill_of_events_that_is_killed_sixty_times_never_shows_half_an_interval(
    world: World, tmp_path: Path
) -> None:
    dice, judgement = random.Random(SEED), Judgement()
    with Forker(tmp_path) as forker:
        backfills = Backfills(world, forker)
        for task in ("script", "job"):
            world.empty()
            world.there = world.loaded()
            backfills.undisturbed(task)
            world.judge(judgement)
        witness, waiting, rounds = Witness(world.database, world.root), deque(plans(dice)), 0
        while waiting:
            rounds += 1
            assert rounds < MOST_ROUNDS, f"not reached: {waiting}"
            witness.rest()
            if dice.random() < 0.3:
                world.empty()
            world.change(dice)
            before, world.there = world.there, world.loaded()
            witness.expect(before, world.there)
            chosen = [waiting.pop() for _ in range(min(KILLS_A_ROUND, len(waiting)))]
            chosen.sort(key=place)
            while chosen and backfills.killed(chosen[0], dice):
                chosen.pop(0)
            # The others find nothing to do any more, but will in another round.
            waiting.extendleft(chosen)
            if not chosen:
                backfills.undisturbed("script")
            world.judge(judgement)
            assert_counts_balance(world.database)
        witness.rest()
        with Forker(tmp_path / "others") as other:
            steps = [*PAUSED_AT, *[None] * PAUSED_AT_ANY_INSTANT]
            for step in dice.sample(steps, len(steps)):
                backfills.overtaken(step, other, dice)
                assert_counts_balance(world.database)
        # Some have recorded why they did not get what the other had stored before; the next run finds that it is there.
        backfills.undisturbed("script")
        settled = world.settled()
        for task in ("script", "job"):
            backfills.undisturbed(task)
        again = world.settled()
        for before, after in zip(settled, again, strict=True):
            assert before == after, [pair for pair in zip(before, after, strict=False) if pair[0] != pair[1]]
        witness.end()
    kills = ", ".join(f"{name} {times}" for name, times in sorted(backfills.done.items()))
    print(
        f"\nkills {backfills.done.total()} ({kills}), paused and resumed {backfills.paused}, in {rounds} backfills of a day of events:"
        f" partial {len(witness.partial)} of {witness.looks} looks ({witness.mixed} between old and new), lost"
        f" {judgement.lost.total()}, twice {judgement.twice.total()}, replaced by what was read earlier"
        f" {backfills.replaced.total()}, seed {SEED}"
    )
    assert witness.failure is None
    assert witness.partial == []
    assert judgement == Judgement()
    assert backfills.replaced.total() == 0
    assert backfills.paused >= 8
    assert backfills.done.total() >= 50
    # The witness was there while intervals were replaced, and between file and US events.
    assert witness.mixed >= 10
    assert witness.noted >= 10

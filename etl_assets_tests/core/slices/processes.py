"""Histories of real processes, which are stopped, let go on and killed at random instants, held against the same model."""

import multiprocessing
import os
import pickle
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from typing import Any

from etl_assets.core.database.connections import Database
from etl_assets.core.slices import lock
from etl_assets.core.slices.files import ParquetRoot
from etl_assets_tests.core.slices.histories import History, World
from etl_assets_tests.core.slices.model import Intent, Place
from etl_assets_tests.core.slices.works import Works

# Who is stopped for so long loses its lock to whoever waits for it.
NO_LIFE_S = 0.25
LIMIT_S = 60.0
KINDS = ("source",) * 6 + ("hand", "derived", "derived", "chain", "replay", "append", "sweep")
# One slice of each store: of one slice the commits have an order, whoever looks at them.
PLACES: tuple[Place, ...] = (("plant.signals", "a"), ("plant.files", "a"))
TABLES = """
    CREATE TABLE plant.looks (look int, batch int);
    INSERT INTO plant.looks VALUES (0, 0);
    CREATE TABLE plant.intents (name text PRIMARY KEY, intent bytea);
    CREATE TABLE plant.stored (place text, look int);
    CREATE TABLE plant.counted (what text, often int);
"""
FORGET = "UPDATE plant.looks SET look = 0, batch = 0; TRUNCATE plant.intents, plant.stored, plant.counted"


class Alone:
    """A process: what it knows of the history that it is in, and of the model, it has of the database."""

    def __init__(self, database: Database, folder: str, name: str) -> None:
        self.database, self.root, self.name = database, ParquetRoot(folder), name
        self.barriers = self.world = self.model = self
        self.counted: Counter[str] = Counter()
        self.jumps = self.writes = 0

    def barrier(self, name: str) -> None:
        time.sleep(random.random() * 0.02)

    def _said(self, statement: str, *values: Any) -> Any:
        with self.database.connect(autocommit=True) as connection:
            found = connection.execute(statement, values)  # type: ignore[call-overload]
            return found.fetchone()[0] if found.description else None

    def next_look(self) -> int:
        return int(self._said("UPDATE plant.looks SET look = look + 1 RETURNING look"))

    def next_batch(self) -> int:
        return int(self._said("UPDATE plant.looks SET batch = batch + 1 RETURNING batch"))

    def intend(self, *intents: Intent) -> str:
        self.writes += 1
        name = f"{self.name}.{self.writes}"
        self._said("INSERT INTO plant.intents VALUES (%s, %s)", name, pickle.dumps(intents))
        return name

    def stored(self, place: Place, look: int) -> None:
        self._said("INSERT INTO plant.stored VALUES (%s, %s)", place[0], look)


def work(url: str, folder: str, name: str, kind: str, place: Place, number: int) -> None:
    """What one process does."""
    lock.NO_LIFE_S, lock.LOOKED_AT_EVERY_S, lock.RENEWED_EVERY_S = NO_LIFE_S, 0.05, 0.05
    random.seed(name)
    database = Database(url)
    database._ready = True
    alone = Alone(database, folder, name)
    try:
        Works(alone, database, place, number).of(kind)()  # type: ignore[arg-type]
    finally:
        for what, often in alone.counted.items():
            alone._said("INSERT INTO plant.counted VALUES (%s, %s)", what, often)


class Processes:
    """Runs histories of processes.

    Attributes:
        counted: what was done to them.
    """

    def __init__(self, world: World) -> None:
        self.world, self.counted = world, world.counted
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(
            [__name__, "adbc_driver_postgresql.dbapi", "etl_assets.core.database.pool"]
        )
        self._mostly = PLACES[0]
        world.barriers.monitor.execute(TABLES)

    def run(self, seed: int) -> None:
        """One history: raises AssertionError for what the model does not have."""
        self.world.begin()
        self.world.barriers.monitor.execute(FORGET)
        dice = random.Random(seed)
        self._mostly = dice.choice(PLACES)
        there: list[Any] = []
        stopped: set[int] = set()
        try:
            for at in range(dice.randint(4, 7)):
                there.append(self._started(f"{seed}.{at}", dice))
                for _ in range(dice.randint(1, 3)):
                    time.sleep(dice.choice((0.01, 0.03, 0.1, 0.3)) * dice.random())
                    self._disturb([one for one in there if one.is_alive()], stopped, dice)
            # Who waits for one that is stopped loses its patience, or not.
            time.sleep(dice.choice((0.0, 3 * NO_LIFE_S, 5 * NO_LIFE_S)))
            for one in there:
                self._continue(one.pid)
            deadline = time.monotonic() + LIMIT_S
            for one in there:
                one.join(max(0.0, deadline - time.monotonic()))
                assert not one.is_alive(), f"history {seed}: {one.name} is never done"
                self.counted[
                    "done" if one.exitcode == 0 else "ended by a signal" if one.exitcode < 0 else "failed"
                ] += 1
        finally:
            for one in there:
                one.kill()
                one.join()
        self._look_back()

    def _started(self, name: str, dice: random.Random) -> Any:
        kind, place = dice.choice(KINDS), dice.choice((self._mostly, self._mostly, *PLACES))
        arguments = (self.world.url, f"{self.world.folder}", name, kind, place, dice.randrange(3))
        started = self._context.Process(target=work, args=arguments, name=f"{name} {kind} {place}", daemon=True)
        started.start()
        self.counted[kind] += 1
        return started

    def _disturb(self, alive: list[Any], stopped: set[int], dice: random.Random) -> None:
        if not alive:
            return
        one = dice.choice(alive)
        what = dice.choice(("stop",) * 5 + ("go on",) * 2 + ("kill", "nothing"))
        if what == "stop":
            with suppress(ProcessLookupError):
                os.kill(one.pid, signal.SIGSTOP)
                self.counted["stopped"] += one.pid not in stopped
                stopped.add(one.pid)
        elif what == "go on":
            self._continue(one.pid)
        elif what == "kill":
            one.kill()
            self.counted["killed"] += 1

    def _continue(self, pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _look_back(self) -> None:
        history = History(self.world)
        monitor = self.world.barriers.monitor
        for name, intents in monitor.execute("SELECT name, intent FROM plant.intents"):
            history.model.intents[name] = pickle.loads(intents)
        for what, often in monitor.execute("SELECT what, sum(often)::int FROM plant.counted GROUP BY what"):
            self.counted[what] += often
        history.observe()
        for table, look in monitor.execute("SELECT place, max(look) FROM plant.stored GROUP BY place"):
            history.stored((table, "a"), look)
        history.look_back()
        self.counted["commits"] += history.model.seq

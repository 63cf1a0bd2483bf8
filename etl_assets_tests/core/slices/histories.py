"""Histories: writers, readers, replays and sweeps of both stores, that are ended, killed, cut off and overtaken, held against the model."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow.parquet as pq
import sqlalchemy as sa
from hypothesis import strategies as st

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.ddl import metadata
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import copies
from etl_assets.core.slices.files import COPY, OF_COMMIT, ParquetRoot, names_in
from etl_assets.core.slices.parquet import NothingStored, read_parquet
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.sweeping import sweep
from etl_assets.errors import TransientError
from etl_assets_tests.core.slices.barriers import Actor, Barriers, Killed
from etl_assets_tests.core.slices.model import (
    IN_POSTGRES,
    SITES,
    TABLES,
    Batches,
    Intent,
    Model,
    Place,
    as_rows,
    as_table,
    slice_of,
)
from etl_assets_tests.core.slices.works import Works

SOURCES: Sequence[Place] = [
    ("plant.signals", "a"),
    ("plant.signals", "b"),
    ("plant.signals", ""),
    ("plant.files", "a"),
    ("plant.files", "b"),
]
KINDS = (
    "source",
    "source",
    "source",
    "together",
    "hand",
    "derived",
    "derived",
    "chain",
    "replay",
    "accept",
    "append",
    "sweep",
    "sweep",
    "read",
    "as of",
)
# Where it matters who comes next.
STOPS = {
    "source": ("asked", "asked", "asked", "commit", "written", "lock"),
    "together": ("asked", "asked", "asked", "commit", "load"),
    "hand": ("commit", "committed", "written"),
    "derived": ("read", "read", "commit", "written"),
    "chain": ("read", "read", "commit", "written"),
    "replay": ("commit", "committed", "statement"),
    "accept": ("commit", "statement"),
    "append": ("commit", "committed"),
    "sweep": ("remove", "remove", "lock"),
    "read": ("open", "statement"),
    "as of": ("open", "statement"),
}
Actions = list[tuple[Any, ...]]
ALIVE_AT_MOST = 6
DAY_S = 86_400

# How often each is chosen; `one_of` would choose all as often.
ACTIONS = {
    "begin": 6,
    "until": 7,
    "step": 2,
    "run": 2,
    "end lock": 2,
    "end write": 1,
    "kill": 1,
    "cut": 2,
    "jump": 2,
    "overtake": 3,
}
WEIGHTED = [name for name, weight in ACTIONS.items() for _ in range(weight)]
# Most meet at one slice of each store.
MOSTLY = (0, 0, 0, 0, 3, 3, 3, 3, 2, 1, 4)
JUMPS = ((90, -7200), (3600, -600), (-3600, 2 * DAY_S))


def decoded(drawn: tuple[str, str, int, int, int]) -> tuple[Any, ...]:
    """An action: its name, and what that needs of what was drawn."""
    name, kind, place, number, steps = drawn
    return {
        "begin": (name, kind, place, number % 3, steps),
        "until": (name, number, steps),
        "overtake": (name, number, kind, steps % 2 == 0),
        "step": (name, number, steps),
        "cut": (name, number, ("before", "after", "unknown")[steps % 3]),
        "jump": (name, *JUMPS[number % 3]),
    }.get(name, (name, number))


def actions_of(names: Sequence[str]) -> st.SearchStrategy[tuple[Any, ...]]:
    drawn = st.tuples(
        st.sampled_from(names),
        st.sampled_from(KINDS),
        st.sampled_from(MOSTLY),
        st.integers(0, 5),
        st.sampled_from((1, 2, 3, 5, 7, 12)),
    )
    return drawn.map(decoded)


HISTORIES = st.tuples(
    st.lists(actions_of(["begin"]), min_size=2, max_size=3), st.lists(actions_of(WEIGHTED), min_size=6, max_size=15)
).map(lambda both: [*both[0], *both[1]])


class World:
    """One database and one folder for all histories of a test.

    Attributes:
        counted: what was done, by kind.
        asks_first: a fault: sources are asked before the lock.
    """

    def __init__(self, url: str, folder: Path, *, writers: int = ALIVE_AT_MOST) -> None:
        self.url, self.folder = url, folder
        self.counted: Counter[str] = Counter()
        self.databases = [Database(url) for _ in range(writers)]
        self.databases[0].prepare()
        engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=sa.pool.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE SCHEMA IF NOT EXISTS plant"))
            metadata([TABLES[name] for name in IN_POSTGRES]).create_all(connection)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(CLOCK)
        self.barriers = Barriers(url)
        for database in self.databases:
            database.prepare()

    def close(self) -> None:
        self.barriers.close()
        for database in self.databases:
            database.close()

    def begin(self) -> None:
        """Forget the history before."""
        tables = ("etl.ledger", "etl.heads", "etl.quarantine", "etl.corrections", *IN_POSTGRES)
        self.counted["histories"] += 1
        often = self.counted["histories"] % 100
        statement = "; ".join(f"DELETE FROM {name}" for name in tables) if often else f"TRUNCATE {', '.join(tables)}"
        self.barriers.monitor.execute(f"{statement}; UPDATE clock.jump SET by = '0'")
        self.barriers.clock.ahead_s = 0
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, actions: Sequence[tuple[Any, ...]], *, faults: "Callable[[], Any] | None" = None) -> None:
        """One history; raises AssertionError for what the model does not have."""
        self.begin()
        history = History(self)
        with self.barriers.installed():
            try:
                for action in actions:
                    history.do(*action)
                history.finish()
            finally:
                history.end()


CLOCK = """
    CREATE SCHEMA IF NOT EXISTS clock;
    CREATE TABLE clock.jump (by interval);
    INSERT INTO clock.jump VALUES ('0');
    CREATE FUNCTION clock.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE
      AS 'SELECT pg_catalog.clock_timestamp() + by FROM clock.jump';
    DO $$ BEGIN
      EXECUTE format('ALTER DATABASE %I SET search_path = clock, pg_catalog, public', current_database());
      EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = ''30ms''', current_database());
    END $$
"""


@contextmanager
def world_of(url: str, folder: Path) -> Iterator[World]:
    world = World(url, folder)
    try:
        yield world
    finally:
        world.close()


class History:
    """What happens in one history, and what is known of it."""

    def __init__(self, world: World) -> None:
        self.world, self.barriers = world, world.barriers
        self.root = ParquetRoot(f"{world.folder}")
        self.model = Model(self.root)
        self.actors: list[Actor] = []
        self.free = list(world.databases)
        self.looks = self.jumps = self.batches = 0
        self.failure: AssertionError | None = None
        self.barriers.on_commit = self.observe
        self.barriers.on_checked = self._checked

    def intend(self, *intents: Intent) -> str:
        """What the actor of this thread is about to commit; gives the name by which the ledger will know it."""
        name = self.model.intend(*intents)
        actor = self.barriers.here()
        assert actor is not None
        actor.intent = name
        return name

    def _checked(self, actor: Actor) -> None:
        self.model.checked[actor.intent] = self.model.seq

    def next_look(self) -> int:
        self.looks += 1
        return self.looks

    def next_batch(self) -> int:
        self.batches += 1
        return self.batches

    def stored(self, place: Place, look: int) -> None:
        """A source's answer was stored, its writer says."""
        table, partition = place
        stands = min(self.model.looks.get((table, site), 0) for site in ([partition] if partition else SITES))
        assert stands >= look, f"{place}: look {look} was stored, and look {stands} stands"

    def observe(self) -> None:
        self.model.observe(self.barriers.monitor)

    def do(self, kind: str, *what: Any) -> None:
        """One action, and a look at all that there is."""
        if kind == "begin":
            self._begin(*what)
        elif kind == "jump":
            self._jump(*what)
        else:
            # Who has what is to be ended, or a lock that can be lost.
            session = "lock" if kind == "overtake" else kind.removeprefix("end ")
            those = [actor for actor in self.actors if session in actor.sessions]
            those = those if kind.startswith("end ") else those or self.actors if kind == "overtake" else self.actors
            if those:
                self._act(kind, those[what[0] % len(those)], *what[1:])
        self.look_around()

    def look_around(self) -> None:
        """Compare all that there is with the model; take leave of who is done."""
        self.observe()
        for actor in [actor for actor in self.actors if actor.state == "done"]:
            self.actors.remove(actor)
            self.free.append(actor.database)  # type: ignore[attr-defined]
            if actor.error is not None and not isinstance(actor.error, Killed):
                if not isinstance(actor.error, TransientError):
                    raise actor.error
                self.world.counted["gave up"] += 1

    def _begin(self, kind: str, place: int, mode: int, stop: int | None = None) -> None:
        """A new one, which goes on to where it matters who comes next."""
        if len(self.actors) >= ALIVE_AT_MOST:
            return
        database = self.free.pop()
        work = Works(self, database, SOURCES[place], mode).of(kind)
        actor = self.barriers.start(f"{kind} {SOURCES[place]}", work)
        actor.database, actor.kind, actor.place = database, kind, SOURCES[place]  # type: ignore[attr-defined]
        self.actors.append(actor)
        self.world.counted[kind] += 1
        if stop is not None:
            self._act("until", actor, stop)

    def _jump(self, here_s: int, there_s: int) -> None:
        self.barriers.clock.ahead_s += here_s
        self.barriers.monitor.execute("UPDATE clock.jump SET by = by + %s", (timedelta(seconds=there_s),))
        self.jumps += 1
        self.world.counted["clock jumped"] += 1

    def _act(self, kind: str, actor: Actor, *what: Any) -> None:
        if kind == "step":
            for _ in range(what[0]):
                self.barriers.step(actor)
        elif kind == "until":
            stops = STOPS[actor.kind]  # type: ignore[attr-defined]
            self.barriers.until(actor, stops[what[0] % len(stops)])
        elif kind == "run":
            self.barriers.until(actor, "done")
        elif kind == "overtake":
            self._overtake(actor, *what)
        elif kind == "kill":
            self.barriers.kill(actor)
            self.world.counted["killed"] += 1
        elif kind == "cut":
            actor.cut = what[0]
        else:
            session = kind.removeprefix("end ")
            self.barriers.end(actor.sessions.pop(session))
            self.barriers.settle()
            self.world.counted[f"session ended ({session})"] += 1

    def _overtake(self, actor: Actor, kind: str, politely: bool) -> None:
        """Another one comes for the same slice and is done before; one of its kind if it has lost its lock."""
        if not politely and "lock" in actor.sessions:
            kind = actor.kind  # type: ignore[attr-defined]
            self._act("end lock", actor)
        before = len(self.actors)
        self._begin(kind, SOURCES.index(actor.place), before % 3)  # type: ignore[attr-defined]
        for other in self.actors[before:]:
            self.barriers.until(other, "done", at_most=150)
            self.world.counted["overtaken"] += other.state == "done"

    def finish(self) -> None:
        """Let all go on to their end, then look whether the latest look is there, and nothing is left behind."""
        for turn in range(200):
            if not self.actors:
                break
            for actor in list(self.actors):
                # Two who overtake each other would never be done.
                self.barriers.until(actor, "done", at_most=40 * (turn + 1))
            self.barriers.settle()
            self.look_around()
        assert not self.actors, f"never done: {[(actor.name, actor.state, actor.at) for actor in self.actors]}"
        self.look_back()

    def look_back(self) -> None:
        """What readers see when all is over, and what housekeeping leaves."""
        self._read_all()
        self._tidied()

    def _begun(self) -> list[type[Contract]]:
        """Tables that somebody has begun to write."""
        return [TABLES[table] for (table,) in self.barriers.monitor.execute("SELECT DISTINCT asset FROM etl.heads")]

    def _read_all(self) -> None:
        """A reader sees the newest commit of each slice, and what was derived last is of what stands or was refused."""
        database = self.free[0]
        for table in (contract.config.table for contract in self._begun() if contract is not Batches):
            slices = [slice_of((table, site)) for site in SITES]
            try:
                in_files = TABLES[table].config.store == "parquet"
                found = read_parquet(self.root, database, slices) if in_files else read(database, slices)
            except NothingStored:
                found = as_table(TABLES[table], [])
            seen, stands = sorted(as_rows(found)), sorted(self.model.standing((table, "")))
            assert seen == stands, f"a reader of {table} saw {seen}, and {stands} stands"

    def _tidied(self) -> None:
        """What housekeeping leaves: no file that nobody knows, and copies of what counts."""
        database = self.free[0]
        in_files = [contract for contract in self._begun() if contract.config.store == "parquet"]
        sweep(database, self.root, in_files)
        for contract in in_files:
            copies.mend(self.root, database, contract)
        self.observe()
        filesystem, _ = self.root.filesystem()
        rows = self.barriers.monitor.execute("SELECT asset, partition, file FROM etl.ledger WHERE file IS NOT NULL")
        named: dict[Place, set[str]] = {}
        for asset, partition, file in rows:
            named.setdefault((asset, partition), set()).add(file)
        for table, site in ((c.config.table, site) for c in in_files for site in SITES):
            folder = self.root.folder(slice_of((table, site)))
            there = names_in(filesystem, folder)
            known = named.get((table, site), set())
            strangers = {
                name for name in there if (OF_COMMIT.fullmatch(name) and name not in known) or name.endswith(".tmp")
            }
            assert not strangers, f"{table}[{site}]: nobody knows {strangers}"
            if known:
                copied = as_rows(pq.read_table(f"{folder}/{COPY}", partitioning=None))
                assert copied == self.model.standing((table, site)), f"the copy of {table}[{site}] holds {copied}"

    def end(self) -> None:
        """End all that is left of a history."""
        self.barriers.on_commit = lambda: None
        for actor in self.actors:
            self.barriers.kill(actor)
        for actor in self.actors:
            actor.thread.join(10)
        self.world.counted["commits"] += self.model.seq
        self.world.counted["connections cut at COMMIT"] = self.barriers.cuts
        self.world.counted["waited in the server"] = self.barriers.waited

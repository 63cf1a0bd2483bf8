"""Histories: writers, readers, replays and sweeps of both stores, that are ended, killed, cut off and overtaken, held against the model."""

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pyarrow.parquet as pq
import sqlalchemy as sa
from hypothesis import strategies as st

from etl_assets.core.contracts.ddl import metadata
from etl_assets.core.database.connections import Database
from etl_assets.core.slices import commit, copies, heads, parquet, sweeping
from etl_assets.core.slices.entries import Entry, Filter, accept, list_entries
from etl_assets.core.slices.files import COPY, OF_COMMIT, DamagedFile, ParquetRoot, names_in
from etl_assets.core.slices.inputs import Inputs, standing_inputs
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import NothingStored, read_parquet, write_parquet
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.replay import replay
from etl_assets.core.slices.session import Outdated, looked_again
from etl_assets.core.slices.sweeping import sweep
from etl_assets.core.slices.writing import Outcome, Write, write, write_together
from etl_assets.errors import PermanentError, TransientError
from etl_assets_tests.core.slices.barriers import Actor, Barriers, Killed
from etl_assets_tests.core.slices.model import (
    IN_POSTGRES,
    SITES,
    TABLES,
    Files,
    Intent,
    Model,
    Place,
    Row,
    Signals,
    as_rows,
    as_table,
    derive,
    slice_of,
)

SOURCES: Sequence[Place] = [
    ("plant.signals", "a"),
    ("plant.signals", "b"),
    ("plant.signals", ""),
    ("plant.files", "a"),
    ("plant.files", "b"),
]
MODES = {
    "plant.signals": ("partition", "upsert", "replace"),
    "plant.files": ("partition", "snapshot", "replace"),
    "plant.derived": ("partition", "upsert"),
    "plant.derived_files": ("partition", "snapshot"),
}
DERIVED = ("plant.derived", "plant.derived_files")
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
RETRIES = 4
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


def answer(look: int, place: Place) -> list[Row]:
    """What a source says at a look: some rows change, one comes and goes, one is given twice, one is wrong and later right."""
    rows: list[Row] = []
    for site in [place[1]] if place[1] else SITES:
        rows += [(f"{site}1", site, float(look % 900), look), (f"{site}2", site, float(look // 3 % 900), look // 3)]
        if look % 2:
            rows.append((f"{site}3", site, None, look))
        if look % 4 == 1:
            rows.insert(0, (f"{site}1", site, 0.5, look))
        if look % 3:
            rows.append((f"{site}9", site, 5000.0, 0))
        elif look % 6 == 0:
            rows.append((f"{site}9", site, 9.0, look))
    return rows


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

    def _read_all(self) -> None:
        """A reader sees the newest commit of each slice, and what was derived last is of what stands or was refused."""
        database = self.free[0]
        for table in ("plant.signals", "plant.files", *DERIVED):
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
        in_files = [contract for contract in TABLES.values() if contract.config.store == "parquet"]
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


class Works:
    """What actors do."""

    def __init__(self, history: History, database: Database, place: Place, mode: int) -> None:
        self.history, self.database, self.place = history, database, place
        self.model, self.root = history.model, history.root
        self.barrier = history.barriers.barrier
        self.counted = history.world.counted
        self.mode, self.number = mode, mode
        self.site = place[1] or "a"
        self.asked: int | None = None

    def of(self, kind: str) -> Callable[[], object]:
        """The work of a kind, repeated as its callers repeat it."""
        work = getattr(self, f"_{kind.replace(' ', '_')}")
        return lambda: self._repeated(work)

    def _repeated(self, work: Callable[[], object]) -> None:
        for attempt in range(RETRIES):
            try:
                looked_again(lambda: self._counted(work))
                return
            except TransientError:
                self.counted["tried again"] += 1
                if attempt == RETRIES - 1:
                    raise
                self.barrier("again")

    def _counted(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Outdated as error:
            self.counted[type(error).__name__] += 1
            raise

    def _write(self, intent: Intent, **how: Any) -> Outcome:
        name = self.history.intend(intent)
        slices = [slice_of(intent.place)]
        contract = TABLES[intent.place[0]]
        data = as_table(contract, intent.rows)
        write_ = Write(intent.mode, run_id=name, batch=intent.batch, **how)
        if contract.config.store == "parquet":
            return write_parquet(self.root, self.database, data, slices, write_)[0]
        return write(self.database, data, slices, write_)[0]

    def ask(self) -> int:
        """Ask the source: no two looks have the same number."""
        self.barrier("ask")
        look = self.history.next_look()
        self.barrier("asked")
        return look

    def _source(self) -> None:
        mode = MODES[self.place[0]][self.mode]
        mode = "replace" if mode == "partition" and not self.place[1] else mode

        with locked(self.database, [slice_of(self.place)]) as lock:
            look = self.asked or self.ask()
            self._write(Intent(self.place, mode, tuple(answer(look, self.place)), look=look), lock=lock)
        self.history.stored(self.place, look)

    def _together(self) -> None:
        """Two slices in one commit: each reader sees both as they were, or as they are."""
        places: list[Place] = [("plant.signals", site) for site in SITES]
        with locked(self.database, [slice_of(place) for place in places]) as lock:
            look = self.ask()
            mode = MODES["plant.signals"][self.mode]
            intents = [Intent(place, mode, tuple(answer(look, place)), look=look) for place in places]
            how = Write(mode, run_id=self.history.intend(*intents), lock=lock)
            write_together(self.database, [(as_table(Signals, one.rows), slice_of(one.place)) for one in intents], how)
        for place in places:
            self.history.stored(place, look)

    def _hand(self) -> None:
        """Rows in hand, as of a person."""
        rows = answer(self.history.next_batch(), self.place)
        mode = MODES[self.place[0]][self.mode]
        mode = "replace" if mode == "partition" and not self.place[1] else mode
        self.barrier("asked")
        self._write(Intent(self.place, mode, tuple(rows)))

    def _derived(self) -> None:
        inputs, jumps = Inputs(), self.history.jumps
        signals = read(self.database, [slice_of(("plant.signals", self.site))], inputs=inputs)
        self.barrier("read")
        try:
            files = read_parquet(self.root, self.database, [slice_of(("plant.files", self.site))], inputs=inputs)
        except NothingStored:
            files = as_table(Files, [])
        except DamagedFile:
            self._require_jump(since=jumps)
            raise TransientError("a version was given up while it was read") from None
        self.barrier("read")
        self._store_derived(as_rows(signals), as_rows(files), inputs)

    def _store_derived(self, signals: list[Row], files: list[Row], inputs: Inputs) -> None:
        table = DERIVED[self.number % 2]
        rows = derive(self.site, signals, files)
        mode = MODES[table][0 if self.number < 2 else -1]
        # An upsert of what was derived leaves rows whose inputs are gone: it is the writer's choice, and not of this model.
        mode = "partition" if mode == "upsert" else mode
        self._write(Intent((table, self.site), mode, tuple(rows), derived=True), inputs=inputs)

    def _chain(self) -> None:
        """Rows in hand are stored, and what follows from them is derived without reading them."""
        batch = self.history.next_batch()
        written = []
        given: dict[str, list[Row]] = {}
        for table in ("plant.signals", "plant.files"):
            # Neither a wrong row nor one that is given twice.
            rows = answer(12 * batch + 3, (table, self.site))
            outcome = self._write(Intent((table, self.site), "partition", tuple(rows)))
            given[table] = rows
            written.append((slice_of((table, self.site)), outcome.content_hash))
            self.barrier("read")
        inputs = standing_inputs(self.database, written)
        self.barrier("read")
        self._store_derived(given["plant.signals"], given["plant.files"], inputs)

    def _entry(self) -> Entry | None:
        table, partition = self.place
        found, _ = list_entries(self.database, Filter(table, partition, "all"))
        return min(found, key=lambda entry: entry.id, default=None)

    def _replay(self) -> None:
        entry = self._entry()
        if entry is None:
            return
        corrected: Row = (entry.raw["id"], entry.raw["site"], 7.0 + self.number, 0)
        name = self.history.intend(Intent(self.place, "replay", (corrected,), replayed=corrected[0]))
        try:
            done = replay(
                self.database,
                self.root,
                entry.id,
                contract=TABLES[self.place[0]],
                corrections={"value": corrected[2]},
                reason=name,
            )
        except PermanentError as error:
            if "is gone" not in f"{error}":
                raise
            return
        assert done.outcome != "rejected", done

    def _accept(self) -> None:
        entry = self._entry()
        if entry is not None:
            name = self.history.intend(Intent(self.place, "accept", accepted=(entry.raw["id"],)))
            accept(self.database, [entry], lambda table: TABLES[table], who="who", reason=name)

    def _append(self) -> None:
        number = 1000 * (self.mode + 1)
        batch = f"batch {self.mode}"
        self._write(
            Intent(
                ("plant.batches", self.site),
                "append",
                ((self.site, number), (self.site, number + 1)),
                batch=f"{batch} {self.site}",
            )
        )

    def _sweep(self) -> None:
        sweep(self.database, self.root, [c for c in TABLES.values() if c.config.store == "parquet"])

    def _read(self) -> None:
        table = self.place[0]
        wanted = [self.place] if self.mode else [(table, site) for site in SITES]
        since, jumps = self.model.seq, self.history.jumps
        try:
            if TABLES[table].config.store == "parquet":
                found = read_parquet(self.root, self.database, [slice_of(place) for place in wanted])
            else:
                found = read(self.database, [slice_of(place) for place in wanted])
        except NothingStored:
            found = as_table(Signals, [])
        except DamagedFile:
            self._require_jump(since=jumps)
            return
        rows = as_rows(found)
        sites = SITES if not self.mode or not self.place[1] else self.place[1:]
        by_site = {(table, site): [row for row in rows if row[1] == site] for site in sites}
        assert self.model.stood(since, by_site), f"a reader saw {by_site}, which never stood since commit {since}"

    def _as_of(self) -> None:
        found = [row for row in self.model.known.values() if row["asset"] == "plant.files" and row["file"]]
        if not found:
            return
        row = random.Random(self.number).choice(found)
        place = (row["asset"], row["partition"])
        try:
            rows = as_rows(read_parquet(self.root, self.database, [slice_of(place)], as_of=row["commit_id"]))
        except PermanentError:
            assert self.history.jumps, f"{row} is not kept"
            return
        assert rows == self.model.file_rows[row["file"]], f"{row['commit_id']} of {place} holds {rows}"

    def _require_jump(self, *, since: int) -> None:
        """A version is deleted a day after it was given up: nobody who reads meets that, unless a clock has jumped."""
        assert self.history.jumps > since, "a reader met a hole"


def _newest_in_folder(root: ParquetRoot, slice_: Any, head: Any) -> str | None:
    filesystem, _ = root.filesystem()
    folder = root.folder(slice_)
    names = [name for name in names_in(filesystem, folder) if OF_COMMIT.fullmatch(name)]
    newest = max(names, key=lambda name: Path(f"{folder}/{name}").stat().st_mtime_ns, default=None)
    return newest and f"{folder}/{newest}"


def _by_clock(database: Database, slices: Sequence[Any]) -> Any:
    """The heads as the ledger has them, the newest by its clock."""
    found = {}
    with database.connect() as connection:
        for place in map(heads.key_of, slices):
            row = connection.execute(
                "SELECT commit_id, file, content_hash FROM etl.ledger WHERE asset = %s AND partition = %s"
                " ORDER BY committed_at DESC LIMIT 1",
                place,
            ).fetchone()
            found[place] = heads.Head(*row) if row else heads.NO_HEAD
    return found


def _ahead_of_lock(original: Callable[[Any], None]) -> Callable[[Any], None]:
    """A source that is asked before the lock."""

    def source(works: Any) -> None:
        works.asked = works.ask()
        original(works)

    return source


FAULTS: dict[str, Callable[[], Any]] = {
    "fence left out": lambda: mock.patch.object(commit, "_require_generations"),
    "look before lock": lambda: mock.patch.object(Works, "_source", _ahead_of_lock(Works._source)),
    "file before commit": lambda: mock.patch.object(parquet, "standing_file", _newest_in_folder),
    "order by clock": lambda: mock.patch.object(parquet, "heads_of", _by_clock),
    "sweep without lock": lambda: mock.patch.object(sweeping, "locked", return_value=nullcontext()),
    "inputs not checked": lambda: mock.patch.object(Inputs, "require_current"),
}

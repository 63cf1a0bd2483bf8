"""The bench of the kill test: three versions of the files, who looks at the tables all the time, and loads that end too early."""

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

import psycopg

from etl_assets.core.database.connections import Database
from etl_assets.systems import experiments
from etl_assets.systems.experiments.contracts import CONTRACTS
from etl_assets.systems.experiments.simulator import write_files
from etl_assets_tests.systems.experiments.model import Model
from etl_assets_tests.systems.outages.forker import Child, Forker

TASKS = "etl_assets_tests.systems.experiments.kills_tasks"
KILLED = -9
EARLIER, AS_OF = date(2022, 6, 30), date(2023, 12, 31)
TABLES = [contract.table_name() for contract in CONTRACTS]
LOOK_EVERY_S = 0.04
# So long another waits for the lock of one that is paused.
NO_LIFE_S = 1.0
BOOKS = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
Digest = tuple[int, int]
Digests = Mapping[str, Digest]
Step = tuple[str, int, str]
# Killed at each call, or once.
EACH: tuple[tuple[str, str], ...] = (
    *((label, "after") for label in ("lock", "fence", "append", "ledger", "write")),
    *(("commit", when) for when in ("before", "after")),
)
ONCE: tuple[str, ...] = (
    *("open database", "look at the files", "judge", "read", "gather", "derive"),
    *("refuse drift", "stage", "change rows", "store records"),
)


# Where one is paused while another takes over.
PAUSED_AT: tuple[Step, ...] = (
    ("lock", 1, "after"),
    ("read", 1, "before"),
    ("read", 1, "after"),
    ("fence", 1, "after"),
    ("append", 2, "after"),
    ("ledger", 3, "after"),
    ("derive", 1, "after"),
    ("write", 3, "after"),
    ("write", 5, "before"),
    ("commit", 2, "before"),
    ("commit", 5, "before"),
)


@dataclass(frozen=True)
class Version:
    """Files, and what the tables are after they were loaded.

    Attributes:
        digests: by table.
    """

    name: str
    folder: Path
    model: Model
    digests: Digests


def versions(connection: psycopg.Connection[Any], folder: Path) -> list[Version]:
    """Two versions with no line in common, and one that is the first but for the end of a file."""
    first = write_files(folder / "a", users=100, experiments=800, seed=1, layout="comma-lf", faults=True)
    other = write_files(folder / "b", users=110, experiments=900, seed=2, layout="quoted-tab", faults=True)
    paths = {name: folder / "c" / getattr(first, name).name for name in ("users", "experiments", "compounds")}
    (folder / "c").mkdir()
    for name, path in paths.items():
        lines = getattr(first, name).read_text().splitlines()
        path.write_text("\n".join(lines[:-50] if name == "experiments" else lines))
    before = Model.of(first, EARLIER).tables["user_features"]
    found = []
    for written in (first, other, replace(first, **paths)):
        model, name = Model.of(written, AS_OF), written.users.parent.name
        digests = _digests_of(connection, name, model, before)
        found.append(Version(name, written.users.parent, model, digests))
    return found


def _digests_of(
    connection: psycopg.Connection[Any], name: str, model: Model, earlier_features: Sequence[tuple[Any, ...]]
) -> Digests:
    """Stores the rows of a model in a schema of its own, so that the server digests them as it does the tables."""
    connection.execute(f'CREATE SCHEMA "model {name}"'.encode())
    with connection.cursor() as cursor:
        for table in TABLES:
            rows = [*(earlier_features if table == "user_features" else ()), *model.tables[table]]
            cursor.execute(f'CREATE TABLE "model {name}".{table} (LIKE experiments.{table})'.encode())
            values = ", ".join(["%s"] * len(rows[0]))
            cursor.executemany(f'INSERT INTO "model {name}".{table} VALUES ({values})'.encode(), rows)
    return digests(connection, f"model {name}")


def digests(connection: psycopg.Connection[Any], schema: str = "experiments") -> Digests:
    """Number of rows, and a sum of their hashes, of each table of a schema."""
    parts = [
        f"SELECT '{table}', count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text"
        f' FROM "{schema}".{table} AS t'
        for table in TABLES
    ]
    rows = connection.execute(" UNION ALL ".join(parts).encode()).fetchall()
    return {table: (count, int(total)) for table, count, total in rows}


class Witness(threading.Thread):
    """Looks at the tables again and again: each is as it was before the load under way or as it will be after it.

    Attributes:
        partial: looks that found something else, or the old state behind the new one.
    """

    def __init__(self, url: str, version: Version) -> None:
        super().__init__(name="witness", daemon=True)
        self._url = url
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._old = self._new = version
        self._seen_new: set[str] = set()
        self.looks = self.mixed = 0
        self.partial: list[str] = []
        self.failure: BaseException | None = None

    def expect(self, version: Version) -> None:
        """From now on the tables go from the version that was expected last to this one."""
        with self._turn:
            self._old, self._new = self._new, version
            self._seen_new.clear()

    def rest(self) -> None:
        """From now on nothing is looked at."""
        self._ended.set()

    def run(self) -> None:
        try:
            with psycopg.connect(self._url) as connection:
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                while not self._ended.wait(LOOK_EVERY_S):
                    with self._turn, connection.transaction():
                        self._judge(digests(connection))
        except BaseException as failure:
            self.failure = failure

    def end(self) -> None:
        self._ended.set()
        self.join()

    def _judge(self, seen: Digests) -> None:
        self.looks += 1
        new = {table for table in TABLES if seen[table] == self._new.digests[table]}
        old = {table for table in TABLES if seen[table] == self._old.digests[table]} - (self._seen_new - new)
        self.mixed += bool(new) and new != set(TABLES)
        self._seen_new |= new - old
        for table in set(TABLES) - old - new:
            way = f"from {self._old.name} to {self._new.name}"
            self.partial.append(f"{table} on the way {way} has {seen[table]}")


@dataclass
class Bench:
    """A database, loads that are killed, and what they come to.

    Attributes:
        current: the version that the tables have.
        lost, twice: rows of the model that are not in a table after a load, and rows that are there beyond it.
    """

    connection: psycopg.Connection[Any]
    database: Database
    forker: Forker
    environment: dict[str, str]
    witness: Witness
    current: Version
    kills: Counter[str] = field(default_factory=Counter)
    missed: list[Step] = field(default_factory=list)
    lost: int = 0
    twice: int = 0
    paused: int = 0
    replaced: int = 0

    def load(self, version: Version, task: str = "load", as_of: date = AS_OF, **options: Any) -> Child:
        """A load that has begun."""
        return self.load_of(version.folder, self.forker, task, as_of, **options)

    def load_of(self, folder: Path, forker: Forker, task: str = "load", as_of: date = AS_OF, **options: Any) -> Child:
        """A load of a folder that has begun, in a child of a forker."""
        arguments = {"folder": str(folder), "as_of": as_of.isoformat(), **options}
        return forker.start(f"{TASKS}:{task}", environment=self.environment, no_life_s=NO_LIFE_S, **arguments)

    def overtaken(
        self, step: Step | None, old: Version, new: Version, folder: Path, other: Forker, wait_s: float
    ) -> None:
        """A load that is paused, until another has stored what is in its folder by then."""
        put(old, folder)
        if step:
            child = self.load_of(folder, self.forker, kill=[*step, "pause"])
        else:
            child = self.load_of(folder, self.forker)
            time.sleep(wait_s)
            child.pause()
        self.paused += child.is_paused()
        put(new, folder)
        competitor = self.load_of(folder, other)
        assert competitor.wait() == 0, competitor.out + competitor.err
        assert digests(self.connection) == new.digests, f"what was stored while {step} was paused"
        child.resume()
        code = child.wait()
        assert code == 0 or child.gave_way, f"{step}: {child.out}{child.err}"
        there = digests(self.connection)
        self.replaced += sum(there[table] != new.digests[table] for table in TABLES)
        self.current = new

    def traced(self, version: Version, trace: Path) -> Counter[str]:
        """How often a load that is not disturbed takes each step."""
        self.witness.expect(version)
        child = self.load(version, trace=str(trace))
        assert child.wait() == 0, child.out + child.err
        self._whole(version)
        return Counter(json.loads(line)[0] for line in trace.read_text().splitlines())

    def killed_at(self, version: Version, step: Step) -> None:
        """A load that ends at a step, and the next one, which is whole."""
        self.witness.expect(version)
        child = self.load(version, kill=list(step))
        if child.wait() == KILLED:
            self.kills["steps"] += 1
        else:
            self.missed.append(step)
            assert child.code == 0, f"{step}: {child.out}{child.err}"
        self._whole(version)

    def killed_after(self, version: Version, instant_s: float, task: str) -> None:
        """A load that is killed some time after its beginning, if it lasts so long, and the next one, which is whole."""
        self.witness.expect(version)
        child = self.load(version, task)
        time.sleep(instant_s)
        child.kill()
        code = child.wait()
        assert code in (0, KILLED), f"{task} after {instant_s:.3f} s: {child.out}{child.err}"
        self.kills[task] += code == KILLED
        self._whole(version)

    def _whole(self, version: Version) -> None:
        """A load that is not disturbed, and what is wrong in the tables after it."""
        experiments.load(version.folder, as_of=AS_OF, database=self.database)
        self.current = version
        if digests(self.connection) != version.digests:
            for table in TABLES:
                self.lost += self._difference(f'"model {version.name}".{table}', f"experiments.{table}")
                self.twice += self._difference(f"experiments.{table}", f'"model {version.name}".{table}')

    def _difference(self, one: str, other: str) -> int:
        """How many rows of one table the other does not have as often."""
        query = f"SELECT count(*) FROM (TABLE {one} EXCEPT ALL TABLE {other}) AS more"
        ((count,),) = self.connection.execute(query.encode()).fetchall()
        return int(count)

    def summary(self) -> str:
        """What it came to, on one line."""
        witness, kills = self.witness, self.kills
        return (
            f"kills {kills.total()} (experiments; at steps {kills['steps']}, at any instant {kills['load']}, of the command"
            f" {kills['command']}): lost {self.lost}, twice {self.twice}, partial {len(witness.partial)} of"
            f" {witness.looks} looks, {witness.mixed} of them between two tables; paused and resumed {self.paused}, replaced by what was"
            f" read earlier {self.replaced}"
        )


def put(version: Version, folder: Path) -> None:
    """Let a folder have the files of a version, and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(version.folder, folder)


def steps(taken: Counter[str], dice: random.Random) -> list[Step]:
    """Where to kill, in random order: around every call that matters, in bulk loads, and behind the other steps."""
    chosen: list[Step] = [(label, number, when) for label, when in EACH for number in range(1, taken[label] + 1)]
    chosen += [("bulk load", number, "amid") for number in dice.sample(range(1, taken["bulk load"] + 1), 6)]
    chosen += [(label, dice.randint(1, taken[label]), "after") for label in ONCE]
    dice.shuffle(chosen)
    return chosen


def assert_books_balance(connection: psycopg.Connection[Any], loaded: Sequence[Version]) -> None:
    """Every write of the ledger accounts for the rows of a version; together they give the tables and the quarantine."""
    received = {name: {version.model.received[name] for version in loaded} for name in TABLES[:-1]}
    received["user_features"] = {len(version.model.tables["user_features"]) for version in loaded}
    net, quarantined = Counter[str](), 0
    query = f"SELECT split_part(asset, '.', 2), received, deleted, {', '.join(BOOKS)} FROM etl.ledger"
    for table, rows, deleted, *counts in connection.execute(query.encode()):
        assert rows == sum(counts), f"the books of {table} do not balance: {counts} of {rows}"
        assert rows in received[table], f"{rows} rows were received for {table}"
        net += Counter({table: counts[0]})
        net.subtract({table: deleted})
        quarantined += counts[-1]
    assert dict(net) == {table: count for table, (count, _) in digests(connection).items()}
    assert connection.execute("SELECT sum(seen) FROM etl.quarantine").fetchall() == [(quarantined,)]
    found = connection.execute("SELECT asset, source, faults FROM etl.quarantine").fetchall()
    told = Counter((asset, source, fault["column"]) for asset, source, faults in found for fault in json.loads(faults))
    first, other, _ = loaded  # the third has the bad lines of the first
    assert told == Counter([*first.model.quarantine, *other.model.quarantine])

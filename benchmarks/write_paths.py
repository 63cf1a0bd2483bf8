"""Write and read paths beside bare COPY, dlt and pandas' to_sql, all in one run on an embedded Postgres.

    python benchmarks/write_paths.py [--rows 1000000] [--base 5000000] [--repeat 3] [--only append …] [--list]

A figure is the time of the limit divided by the time of ours: 1 is as fast as a binary COPY of the same rows, in the same
order, into the same keyed table. Ours starts at a pandas DataFrame and ends after the commit, with contract, quarantine,
ledger and hash. Each measurement has a database of its own, copied from a template, and a checkpoint before it.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psycopg
import pyarrow as pa
from write_paths_data import CONTRACTS, MONTHS, Bench, by_sensor, interleaved, numbered, random_keys, template, warm

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.core.slices.slice import Slice, Span
from etl_assets.core.slices.writing import Write, write


@dataclass(frozen=True)
class Case:
    """One line of the table: what is written, how, into which table, and how fast it should be."""

    name: str
    goal: float | None
    table: str
    mode: str
    rows: Callable[[Bench], pd.DataFrame]
    sliced: bool = False
    limit: str = "shuffled"


def _slice_of_base(bench: Bench, changed: float) -> pd.DataFrame:
    """The newest rows of the base, a share of them with another value, in random order."""
    frame = numbered(bench.base - bench.rows, bench)
    count = round(len(frame) * changed)
    chosen = np.random.default_rng(1).choice(len(frame), count, replace=False)
    frame.loc[chosen, "value"] += 1
    return frame


def _new(bench: Bench) -> pd.DataFrame:
    return numbered(bench.base, bench)


def _in_order(bench: Bench) -> pd.DataFrame:
    return numbered(bench.base, bench, shuffled=False)


CASES = (
    Case("append", 1.4, "readings", "append", _new),
    Case("replace, 1 % changed", 2.5, "readings", "replace", lambda b: _slice_of_base(b, 0.01), sliced=True),
    Case("replace, all changed", 0.75, "readings", "replace", lambda b: _slice_of_base(b, 1), sliced=True),
    Case("replace, all changed, native", 1.8, "native", "partition", lambda b: _slice_of_base(b, 1), sliced=True),
    Case("upsert, new rows", 1.5, "readings", "upsert", _new),
    Case("upsert, unchanged", 5, "readings", "upsert", lambda b: _slice_of_base(b, 0)),
    Case("upsert, half changed", 0.6, "readings", "upsert", lambda b: _slice_of_base(b, 0.5)),
    Case("append, keys between", None, "readings", "append", interleaved, limit="between"),
    Case("upsert, keys between", None, "readings", "upsert", interleaved, limit="between"),
    Case("append, random keys", None, "random", "append", random_keys, limit="random"),
    Case("upsert, random keys", None, "random", "upsert", random_keys, limit="random"),
    Case("append, (int, time) key", None, "sensors", "append", by_sensor, limit="sensors"),
    Case("upsert, (int, time) key", None, "sensors", "upsert", by_sensor, limit="sensors"),
    Case("append, in time order", 0.9, "readings", "append", _in_order, limit="in order"),
    Case("upsert, in time order", 0.85, "readings", "upsert", _in_order, limit="in order"),
    Case("append, sorted by pandas", None, "readings", "append", lambda b: _new(b).sort_values("id"), limit="in order"),
    Case("upsert, sorted by pandas", None, "readings", "upsert", lambda b: _new(b).sort_values("id"), limit="in order"),
)
LIMITS: dict[str, tuple[str, Callable[[Bench], pd.DataFrame]]] = {
    "shuffled": ("readings", _new),
    "between": ("readings", interleaved),
    "random": ("random", random_keys),
    "sensors": ("sensors", by_sensor),
    "in order": ("readings", _in_order),
}


class Arena:
    """An embedded server with one template database per kind of table."""

    def __init__(self, url: str, bench: Bench) -> None:
        self.url, self.bench = url, bench
        self._templates: set[str] = set()

    def _address(self, database: str) -> str:
        return self.url.rsplit("/", 1)[0] + "/" + database

    def _admin(self, *statements: str) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @contextmanager
    def fresh(self, kind: str) -> Iterator[Database]:
        """A database with a table of this kind in its first state; a checkpoint has been made."""
        if kind not in self._templates:
            self._admin(f"CREATE DATABASE t_{kind}")
            database = Database(self._address(f"t_{kind}"))
            database.prepare()
            template(database, kind, self.bench)
            # A database to which somebody is connected cannot be copied.
            database.close()
            self._templates.add(kind)
        self._admin(f"CREATE DATABASE b_{kind} TEMPLATE t_{kind} STRATEGY file_copy")
        try:
            database = Database(self._address(f"b_{kind}"))
            database.prepare()
            warm(database, kind)
            self._admin("CHECKPOINT")
            yield database
        finally:
            self._admin(f"DROP DATABASE b_{kind} WITH (FORCE)")


def as_binary(database: Database, contract: type[Contract], frame: pd.DataFrame) -> bytes:
    """The rows as the server itself writes them for a binary COPY, in the order given."""
    data = pa.Table.from_pandas(frame, preserve_index=False).cast(arrow_schema(contract))
    with database.adbc() as connection, connection.cursor() as cursor:
        cursor.adbc_ingest("scratch", data, mode="create", db_schema_name="bench")
        connection.commit()
    with database.connect() as connection, connection.cursor() as cursor:
        with cursor.copy("COPY bench.scratch TO STDOUT (FORMAT binary)") as copy:
            return b"".join(bytes(block) for block in copy)


def bare_copy(database: Database, contract: type[Contract], data: bytes) -> float:
    """Seconds of a binary COPY into the keyed table, nothing else."""
    view = memoryview(data)
    started = time.perf_counter()
    with psycopg.connect(database.url) as connection, connection.cursor() as cursor:
        with cursor.copy(f"COPY {contract.config.table} FROM STDIN (FORMAT binary)") as copy:
            for at in range(0, len(view), 1 << 17):
                copy.write(view[at : at + (1 << 17)])
    return time.perf_counter() - started


def ours(database: Database, case: Case, frame: pd.DataFrame) -> float:
    """Seconds of our write from the frame to after the commit; the ledger must have counted every row."""
    contract = CONTRACTS[case.table]
    slice_ = Slice(contract, "newest", {"at": Span(MONTHS[4], MONTHS[5])}) if case.sliced else Slice(contract)
    started = time.perf_counter()
    (outcome,) = write(database, frame, [slice_], Write(case.mode))
    seconds = time.perf_counter() - started
    assert outcome.received == len(frame), outcome.counts()
    return seconds


def read_beside_copy(arena: Arena) -> tuple[float, float]:
    """Seconds to read the whole base with psycopg COPY (bytes), and as an Arrow table over ADBC."""
    query = "SELECT id, name, at, value FROM bench.readings"
    with arena.fresh("readings") as database:
        with database.connect() as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM ({query}) AS t WHERE value IS NOT NULL")
            started = time.perf_counter()
            with cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT binary)") as copy:
                size = sum(len(block) for block in copy)
            limit = time.perf_counter() - started
        with database.adbc() as connection, connection.cursor() as cursor:
            started = time.perf_counter()
            cursor.execute(query)
            table = cursor.fetch_arrow_table()
            seconds = time.perf_counter() - started
    assert size > table.num_rows == arena.bench.base
    return limit, seconds


def with_to_sql(arena: Arena) -> tuple[float, float]:
    """Seconds of pandas' to_sql and of our append, the same rows into the same table."""
    import sqlalchemy as sa

    frame = _new(arena.bench)
    with arena.fresh("readings") as database:
        engine = sa.create_engine(database.url.replace("postgresql://", "postgresql+psycopg2://", 1))
        started = time.perf_counter()
        with engine.begin() as connection:
            frame.to_sql("readings", connection, schema="bench", if_exists="append", index=False)
        peer = time.perf_counter() - started
        engine.dispose()
    with arena.fresh("readings") as database:
        return peer, ours(database, CASES[0], frame)


def with_dlt(arena: Arena) -> dict[str, tuple[float, float]]:
    """Seconds of dlt's merge and of our upsert into as many rows: half of them with other values, and all new."""
    import dlt

    bench = Bench(rows=arena.bench.rows, base=arena.bench.rows)
    frames = {"": _slice_of_base(bench, 0), "half changed": _slice_of_base(bench, 0.5), "new rows": _new(bench)}
    case = Case("", None, "readings", "upsert", _new)
    seconds: dict[str, tuple[float, float]] = {}
    with arena.fresh("empty") as database, tempfile.TemporaryDirectory() as folder:
        pipeline = dlt.pipeline(
            "bench", pipelines_dir=folder, dataset_name="peer", destination=dlt.destinations.postgres(database.url)
        )
        for name, frame in frames.items():
            table = pa.Table.from_pandas(frame, preserve_index=False)
            started = time.perf_counter()
            pipeline.run([table], table_name="readings", write_disposition="merge", primary_key="id")
            peer = time.perf_counter() - started
            seconds[name] = (peer, ours(database, case, frame))
    del seconds[""]
    return seconds


def child(url: str, rows: int, mode: str) -> None:
    """Write a reader of so many rows and print by how much the memory of this process grew, in MB."""
    import resource

    database = Database(url)
    bench = Bench(rows=100_000, base=0)
    schema = arrow_schema(CONTRACTS["readings"])

    def batches(start: int, end: int) -> Iterator[pa.RecordBatch]:
        for at in range(start, end, bench.rows):
            data = pa.Table.from_pandas(numbered(at, bench, shuffled=False, spread=True), preserve_index=False)
            yield from data.cast(schema).to_batches()

    write(
        database,
        pa.RecordBatchReader.from_batches(schema, batches(0, 300_000)),
        [Slice(CONTRACTS["readings"])],
        Write(mode),
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reader = pa.RecordBatchReader.from_batches(schema, batches(300_000, 300_000 + rows))
    write(database, reader, [Slice(CONTRACTS["readings"])], Write(mode))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024)


def memory(arena: Arena, mode: str) -> dict[int, float]:
    """Growth of a child's memory by the length of the reader that it writes: twice and ten times the rows of a case."""
    growth = {}
    for rows in (2 * arena.bench.rows, 10 * arena.bench.rows):
        with arena.fresh("empty") as database:
            command = [sys.executable, __file__, "--child", json.dumps([database.url, rows, mode])]
            growth[rows] = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return growth


def line(name: str, goal: float | None, limit: list[float], seconds: list[float]) -> None:
    figure = statistics.median(limit) / statistics.median(seconds)
    verdict = "" if goal is None else "met" if figure >= goal else "NOT MET"
    print(
        f"{name:32s} {'' if goal is None else f'{goal:g}':>6s} {figure:8.2f}  {verdict:8s}"
        f" {statistics.median(limit):8.2f} s {statistics.median(seconds):8.2f} s",
        flush=True,
    )


def run_cases(arena: Arena, cases: list[Case], repeat: int) -> None:
    """The limit and its cases by turns, so that a noisy moment of the machine meets all of them."""
    for limit in dict.fromkeys(case.limit for case in cases):
        kind, rows = LIMITS[limit]
        of_limit = [case for case in cases if case.limit == limit]
        with arena.fresh(kind) as database:
            data = as_binary(database, CONTRACTS[kind], rows(arena.bench))
        frames = {case.name: case.rows(arena.bench) for case in of_limit}
        times: dict[str, list[float]] = {name: [] for name in ["", *frames]}
        for _ in range(repeat):
            with arena.fresh(kind) as database:
                times[""].append(bare_copy(database, CONTRACTS[kind], data))
            for case in of_limit:
                with arena.fresh(case.table) as database:
                    times[case.name].append(ours(database, case, frames[case.name]))
        for case in of_limit:
            line(case.name, case.goal, times[""], times[case.name])


def run_peers(arena: Arena, chosen: Callable[[str], bool], repeat: int) -> None:
    if chosen("read"):
        pairs = [read_beside_copy(arena) for _ in range(repeat)]
        line("read", 1.0, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    if chosen("to_sql"):
        peer, seconds = with_to_sql(arena)
        line("append beside to_sql", 10, [peer], [seconds])
    if chosen("dlt"):
        try:
            for name, (peer, seconds) in with_dlt(arena).items():
                line(f"dlt's merge, {name}", 5 if name == "new rows" else None, [peer], [seconds])
        except ImportError:
            print("dlt is not installed: see requirements-bench.txt")
    for mode in ("append", "upsert"):
        if chosen(f"memory {mode}"):
            growth = memory(arena, mode)
            text = ", ".join(f"{rows:,} rows {mb:.0f} MB" for rows, mb in growth.items())
            short, long = growth.values()
            verdict = "met" if long < short + 50 else "NOT MET"
            print(f"memory of a reader, {mode}: {text}: {verdict} (goal: flat)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--base", type=int, default=5_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of the lines to measure")
    parser.add_argument("--data-dir", type=Path, help="where the server keeps its data; a temporary folder by default")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return

    def chosen(name: str) -> bool:
        return not options.only or any(part in name for part in options.only)

    place: Any = nullcontext(options.data_dir) if options.data_dir else tempfile.TemporaryDirectory()
    with place as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            arena = Arena(server.acquire(), Bench(options.rows, options.base))
            with arena.fresh("empty") as database:
                write(database, numbered(0, Bench(1000, 0)), [Slice(CONTRACTS["readings"])], Write("upsert"))
            print(f"{'':32s} {'goal':>6s} {'figure':>8s}  {'':8s} {'limit':>10s} {'ours':>10s}")
            run_cases(arena, [case for case in CASES if chosen(case.name)], options.repeat)
            run_peers(arena, chosen, options.repeat)
        finally:
            server.release()


if __name__ == "__main__":
    main()

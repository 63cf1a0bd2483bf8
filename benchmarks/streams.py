"""Relay and drain end to end, beside message by message and beside a bare COPY, all in one run.

    python benchmarks/streams.py [--records 2000000] [--parameters 50] [--repeat 3] [--single 20000]

The API serves a file over HTTP from a process of its own. "As runs" relays everything, then drains it; "as services" has a
relay process beside the drain. The clock runs from the first request to the commit of the last record. The limit is a
binary COPY of the same rows in the same order into the same keyed table. Servers, files and tables are made anew for each run.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from etl_assets.core.database.connections import Database
from etl_assets.core.embedded import EmbeddedBroker, EmbeddedPostgres
from etl_assets.core.sources.streams.broker import Broker
from etl_assets.systems.production.contracts import METRICS
from etl_assets.systems.production.draining import drain
from etl_assets.systems.production.relaying import relay
from etl_assets.systems.production.simulator import write_files
from etl_assets.systems.production.source import ProductionApi
from etl_assets.systems.production.tables import committed_position

GOAL = 200_000


def as_runs(api: str, broker_url: str, database: Database, records: int) -> float:
    """One relay, then one drain, as the assets of a run do."""
    broker, started = Broker(broker_url), time.perf_counter()
    relayed = relay(ProductionApi(api), broker, METRICS)
    between = time.perf_counter()
    drained = drain(database, broker, METRICS)
    ended = time.perf_counter()
    assert relayed.position == drained.position == records
    print(
        f"  relay {records / (between - started):12,.0f} records/s, drain {records / (ended - between):12,.0f} records/s"
    )
    return ended - started


def as_services(api: str, broker_url: str, database: Database, records: int) -> float:
    """A relay in a process of its own, and drains until everything is in the table."""
    broker, started = Broker(broker_url), time.perf_counter()
    code = (
        "import sys; from etl_assets.systems.production.source import ProductionApi; from etl_assets.systems.production.relaying import relay;"
        "from etl_assets.systems.production.contracts import METRICS; from etl_assets.core.sources.streams.broker import Broker;"
        "relay(ProductionApi(sys.argv[1]), Broker(sys.argv[2]), METRICS)"
    )
    relaying = subprocess.Popen([sys.executable, "-c", code, api, broker_url])
    while committed_position(database, METRICS).sequence < records:
        drain(database, broker, METRICS)
        time.sleep(0.02)
    ended = time.perf_counter()
    assert relaying.wait() == 0
    return ended - started


def message_by_message(broker_url: str, database: Database, lines: list[bytes]) -> tuple[float, float]:
    """Rates of publishing one message at a time, and of taking one, inserting it and acknowledging it."""
    import redis

    client = redis.from_url(broker_url)
    client.xgroup_create("single", "drain", id="0", mkstream=True)
    started = time.perf_counter()
    for line in lines:
        client.xadd("single", {"line": line})
    published = time.perf_counter() - started
    started = time.perf_counter()
    with psycopg.connect(database.url) as connection:
        for at in range(len(lines)):
            [(_, [(entry, fields)])] = client.xreadgroup("drain", "one", {"single": ">"}, count=1)
            record = json.loads(fields[b"line"])
            connection.execute(
                "INSERT INTO production.metrics VALUES (%s, to_timestamp(%s), %s, %s)",
                (record["id"], record["time"], record["val"], at + 1),
            )
            connection.commit()
            client.xack("single", "drain", entry)
    return len(lines) / published, len(lines) / (time.perf_counter() - started)


def bare_copy(source: Database, database: Database) -> float:
    """Seconds for a binary COPY of the rows of another database, in the order of arrival, into the keyed table."""
    columns = "(parameter_id, measured_at, value, sequence)"
    with psycopg.connect(source.url) as reading, psycopg.connect(database.url) as writing:
        query = "COPY (SELECT * FROM production.metrics ORDER BY sequence) TO STDOUT (FORMAT binary)"
        with reading.cursor().copy(query) as copied:
            data = b"".join(copied)
        started = time.perf_counter()
        with writing.cursor().copy(f"COPY production.metrics {columns} FROM STDIN (FORMAT binary)") as copy:
            for at in range(0, len(data), 1 << 20):
                copy.write(data[at : at + (1 << 20)])
        writing.commit()
        return time.perf_counter() - started


@contextmanager
def streaming_api(files: tuple[Path, Path]) -> Iterator[str]:
    """The API over two files, in a process of its own."""
    command = [sys.executable, "-m", "etl_assets.cli", "simulate", "production", "--port", "0"]
    command += ["--metrics", str(files[0]), "--workorders", str(files[1])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().rsplit(" ", 1)[-1].strip()
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=int, default=2_000_000)
    parser.add_argument("--parameters", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--single", type=int, default=20_000)
    options = parser.parse_args()
    ways: dict[str, Callable[[str, str, Database, int], float]] = {"as runs": as_runs, "as services": as_services}
    times: dict[str, list[float]] = {name: [] for name in (*ways, "COPY")}
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(
            Path(folder) / "files", metrics=options.records, parameters=options.parameters, work_orders=2
        )
        server, broker = EmbeddedPostgres(Path(folder)), EmbeddedBroker(Path(folder))
        server.acquire()
        try:
            with streaming_api(files) as api, broker as broker_url:
                for at in range(options.repeat):
                    stored = None
                    for way, run in ways.items():
                        Broker(broker_url).delete(METRICS.name)
                        stored = Database(server.create_database(f"{way.replace(' ', '_')}_{at}"))
                        stored.prepare()
                        times[way].append(run(api, broker_url, stored, options.records))
                    assert stored is not None
                    empty = Database(server.create_database(f"copy_{at}"))
                    empty.prepare()
                    times["COPY"].append(bare_copy(stored, empty))
                single = Database(server.create_database("single"))
                single.prepare()
                with files[0].open("rb") as file:
                    lines = [next(file) for _ in range(options.single)]
                published, stored_one = message_by_message(broker_url, single, lines)
        finally:
            server.release()
            server.purge()
    print_table(options.records, times, published, stored_one)


def print_table(records: int, times: dict[str, list[float]], published: float, stored_one: float) -> None:
    """The medians as rates, and as multiples of the one-message way."""
    rates = {name: records / statistics.median(seconds) for name, seconds in times.items()}
    rates = {"one message at a time, published": published, "one message at a time, stored": stored_one, **rates}
    for name, rate in rates.items():
        verdict = "" if not name.startswith("as ") else f"{'met' if rate >= GOAL else 'NOT MET'} (goal {GOAL:,})"
        print(
            f"{name:34s} {rate:12,.0f} records/s {rate / rates['COPY']:6.2f} of COPY {rate / stored_one:8.1f} x {verdict}"
        )


if __name__ == "__main__":
    main()

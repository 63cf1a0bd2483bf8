"""A year of a wind farm's minutes in one single-run backfill: time, shares, memory; a plain script and DuckDB beside it.

    python benchmarks/turbines.py [--turbines 10] [--days 366] [--instance postgres] [--only arrow json …]

Minutes go from the source database through the API, which runs in a process of its own, to the target database: one run of the job for
all days, on an instance of its own (by default that of production), its steps in the run's process. `arrow` is a source that offers Arrow, `json` one that has
never heard of it; the client is the same. Both start with nothing in the stores and end with every day materialised
and every value counted. The shares are of the run's wall time, taken around the functions named in `SHARES`; what runs
beside something else (the next request while a day is stored) counts in both, so that they add up to more than all of it.
CPU is that of each process.

pandas is a script as one writes it: `resample`, and objects of SQLAlchemy; a day of it, times the days. DuckDB alone, over the
files that our raw layer has left, is the limit of the computation: nothing is fetched and nothing stored.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import turbines_parts as parts
from turbines_parts import COLUMNS, START, cpu_of, cpu_of_server

from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.systems.turbines.simulator import fill

LIMIT_S, LIMIT_MB = 45, 1_000
FORMS = ("arrow", "json")
WHO = (*FORMS, "pandas", "duckdb")
# Where Dagster keeps its four events a day: as `dagster.yaml` says, or as `docker/dagster.yaml` and `compose.yaml`, in batches.
INSTANCES = {
    "sqlite": "",
    "postgres": "storage: {custom: {module: etl_assets.core.dagster.storage, class: PooledPostgresStorage,"
    " config: {postgres_url: {env: DAGSTER_POSTGRES_URL}}}}\n",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--turbines", type=int, default=10)
    parser.add_argument("--days", type=int, default=366)
    parser.add_argument("--instance", choices=INSTANCES, default="postgres")
    parser.add_argument("--only", nargs="+", choices=WHO, default=WHO)
    options = parser.parse_args()
    names = tuple(f"T{number:02}" for number in range(1, options.turbines + 1))
    with tempfile.TemporaryDirectory() as work:
        server = EmbeddedPostgres(Path(work) / "server")
        try:
            with server:
                source = server.create_database("fonte")
                rows = fill(source, start=START, days=options.days, turbines=names)
                print(f"{rows:,} minutes of {len(names)} turbines × {options.days} days, columns {', '.join(COLUMNS)}")
                raw = None
                for form in [form for form in FORMS if form in options.only]:
                    raw = backfill(server, Path(work) / form, form, names, options.days, options.instance)
                if "pandas" in options.only:
                    with simulator(source, names, "json") as (_, api_url):
                        one_day(server.create_database("plain"), api_url, names, options.days)
                if "duckdb" in options.only and raw:
                    limit(raw)
        finally:
            server.purge()


def backfill(
    server: EmbeddedPostgres, folder: Path, form: str, turbines: Sequence[str], days: int, instance: str
) -> Path:
    """A run of the job over all days; prints what it took, and gives the folder of the raw layer."""
    source = server.create_database("fonte")
    platform, target = (server.create_database(f"{name}_{form}") for name in ("platform", "alvo"))
    storage = folder / "storage"
    (folder / "home").mkdir(parents=True)
    (folder / "home" / "dagster.yaml").write_text("telemetry: {enabled: false}\n" + INSTANCES[instance])
    before = cpu_of_server(folder.parent / "server")
    with simulator(source, turbines, form) as (pid, api_url):
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("ETL_", "TURBINES", "DAGSTER"))
            },
            "ETL_DATA_DIR": str(folder),
            "ETL_POSTGRES_URL": platform,
            "ETL_STORAGE_URL": str(storage),
            "DAGSTER_HOME": str(folder / "home"),
            "DAGSTER_POSTGRES_URL": server.create_database(f"dagster_{form}"),
            **({"DAGSTER_EVENT_BATCH_SIZE": "200"} if instance == "postgres" else {}),
            "TURBINES_API_URL": api_url,
            "TURBINES_TARGET_URL": target,
            "TURBINES": ",".join(turbines),
            "TURBINES_START_DATE": str(START),
        }
        last = START + timedelta(days=days - 1)
        command = [sys.executable, "-W", "ignore", parts.__file__, "run", str(START), str(last)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        of_simulator = cpu_of(pid)
        of_source = cpu_of_backends(source)
    cpu = {
        "simulator": of_simulator,
        "source database": of_source,
        "run": found["cpu_s"],
        "platform and target database": cpu_of_server(folder.parent / "server") - before - of_source,
    }
    seconds, peak_mb = found["seconds"], found["peak_mb"]
    met = f"{'met' if seconds <= LIMIT_S and peak_mb <= LIMIT_MB else 'NOT MET'} (goals {LIMIT_S} s, {LIMIT_MB:,} MB)"
    values = counted(target)
    print(f"{form}: {seconds:.1f} s, peak {peak_mb:,.0f} MB {met}; {found['materialised']} days materialised; {values}")
    print(
        "  wall: " + ", ".join(f"{name} {spent:.1f} s ({spent / seconds:.0%})" for name, spent in found["wall"].items())
    )
    print("  CPU:  " + ", ".join(f"{name} {spent:.1f} s" for name, spent in cpu.items()), flush=True)
    if set(found["materialised"].values()) != {days}:
        raise SystemExit(f"{days} days should be materialised of each asset")
    return storage


@contextmanager
def simulator(source: str, turbines: Sequence[str], form: str) -> Iterator[tuple[int, str]]:
    """The API over the source in a process of its own: its number, and the URL."""
    command = [sys.executable, parts.__file__, "serve", form, *turbines]
    with subprocess.Popen(
        command, env={**os.environ, "SOURCE_URL": source}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield process.pid, process.stdout.readline().strip()
        process.stdin.close()


def cpu_of_backends(url: str) -> float:
    """CPU seconds of the server's processes that serve a database, but for the one that is asked."""
    with psycopg.connect(url) as connection:
        query = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        return sum(cpu_of(pid) for (pid,) in connection.execute(query))


def counted(target: str) -> str:
    """How many values and bins there are."""
    with psycopg.connect(target) as connection:
        values = connection.execute("SELECT count(*) FROM public.data").fetchone()
        bins = connection.execute("SELECT count(*), sum(n) FROM public.bin").fetchone()
    assert values
    assert bins
    return f"{values[0]:,} values in {bins[0]:,} bins of {bins[1]:,} samples"


def one_day(target: str, api_url: str, turbines: Sequence[str], days: int) -> None:
    """A day the plain way."""
    command = [sys.executable, parts.__file__, "pandas", api_url, *turbines]
    done = subprocess.run(
        command, env={**os.environ, "TARGET_URL": target}, check=True, stdout=subprocess.PIPE, text=True
    )
    seconds, values = json.loads(done.stdout.splitlines()[-1])
    print(f"pandas: {seconds:.2f} s for one day ({values:,} values), so {seconds * days:,.0f} s for {days}", flush=True)


def limit(storage: Path) -> None:
    """DuckDB over the raw layer."""
    try:
        import duckdb
    except ModuleNotFoundError:
        print("duckdb: not installed (group bench)")
        return
    statistics = ", ".join(
        f"{function}({column}) AS {column}_{function}"
        for column in COLUMNS
        for function in ("avg", "min", "max", "stddev_samp", "count")
    )
    query = (
        f"SELECT turbine, time_bucket(INTERVAL 10 MINUTE, timestamp) AS bin, {statistics}"
        f" FROM read_parquet('{storage}/*/*/partition=*/data.parquet', hive_partitioning = false) GROUP BY ALL"
    )
    began = time.perf_counter(), time.process_time()
    bins: pa.Table = duckdb.connect().sql(query).to_arrow_table()  # type: ignore[union-attr]
    wall, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(f"duckdb: {wall:.2f} s (CPU {cpu:.2f} s) for the statistics alone of {len(bins):,} bins × {len(COLUMNS)}")


if __name__ == "__main__":
    main()

"""The production system with all its neighbours: a real database and broker, the simulated API over HTTP, and a job's runs.

Files for the command are written by `readings`, `work_orders` and `text_of`; what a report says is read by `rows_of`.
"""

import functools
import json
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
from psycopg.rows import dict_row, tuple_row

from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.database.connections import Database
from etl_assets.core.sources.http.client import Limits
from etl_assets.core.sources.streams.broker import Broker
from etl_assets.definitions import platform_definitions, resources
from etl_assets.systems.production.assets import ProductionApiResource
from etl_assets.systems.production.contracts import READINGS, VERDICTS, AlignedWorkOrders, ProductCorrelations
from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.simulator import ProductionSimulator
from etl_assets.systems.production.source import ProductionApi

# Short pauses; the time-outs stay longer than a busy machine needs for an answer.
QUICK = Limits(
    connect_timeout_s=2, read_timeout_s=2, deadline_s=5, max_attempts=3, base_delay_s=0.001, max_delay_s=0.002
)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
ASSETS = (
    "metrics_stream",
    "workorders_stream",
    "metrics",
    "workorders",
    "aligned_work_orders",
    "product_correlations",
    "correlation_report",
)
STORED = ASSETS[:4]
BOOKS = ("inserted", "updated", "unchanged", "deduplicated", "quarantined")
ORDERS = 30
METRICS_IN_FILES = 3 * 5 * ORDERS + ORDERS - 1
START = 1_624_377_478  # 2021-06-22T15:57:58Z
ORDER_S = 5_000
# What a row of the report has at least.
FIELDS = {
    "rank", "parameter", "r", "ci_low", "ci_high", "rho", "n", "n_effective",
    "coverage", "p", "q", "stability", "tie_group", "verdict",
}  # fmt: skip

Record = dict[str, Any]


class QuickApiResource(ProductionApiResource):
    """The API of the settings with short pauses."""

    def connect(self) -> ProductionApi:
        return ProductionApi.from_settings(ProductionSettings.load(), limits=QUICK)


@dataclass
class Store:
    """What both the runs and the command write to."""

    database: Database
    broker: Broker

    def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """The rows of a query."""
        with self.database.connect() as connection, connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(query, values).fetchall()

    def column(self, query: str, *values: Any) -> list[Any]:
        """The first column of a query."""
        with self.database.connect() as connection, connection.cursor(row_factory=tuple_row) as cursor:
            return [row[0] for row in cursor.execute(query, values).fetchall()]

    def execute(self, statement: str, *values: Any) -> None:
        """A statement that gives no rows."""
        with self.database.connect() as connection:
            connection.execute(statement, values)

    def count(self, table: str) -> int:
        """How many rows a table has."""
        [count] = self.column(f"SELECT count(*) FROM {table}")
        return int(count)

    def counts(self) -> tuple[int, int]:
        """Rows of metrics and of work orders."""
        return self.count("production.metrics"), self.count("production.workorders")

    def tables(self) -> tuple[list[Any], list[Any]]:
        """Metrics and work orders, in the order of their keys."""
        return (
            self.rows("SELECT * FROM production.metrics ORDER BY parameter_id, measured_at"),
            self.rows("SELECT * FROM production.workorders ORDER BY product_id, completed_at"),
        )

    def assert_books_balance(self) -> None:
        """In each ledger row every received row is in exactly one count."""
        ledger = self.rows("SELECT * FROM etl.ledger")
        assert ledger
        assert [row for row in ledger if row["received"] != sum(row[name] for name in BOOKS)] == []

    def assert_copied(self) -> None:
        """The parquet files of the results hold what is in Postgres."""
        root = Path(ProductionSettings.load().storage_url)
        for contract in (AlignedWorkOrders, ProductCorrelations):
            rows = self.rows(f"SELECT * FROM {contract.config.table} ORDER BY {', '.join(contract.config.key)}")
            assert rows
            copy = root / contract.config.table.replace(".", "/") / "data.parquet"
            assert pq.ParquetFile(copy).read().to_pylist() == rows


@dataclass
class World(Store):
    """A simulated API beside the store; `run` is a run of a job on an instance of its own."""

    simulator: ProductionSimulator
    instance: dg.DagsterInstance

    @classmethod
    def of(cls, store: Store, simulator: ProductionSimulator) -> "World":
        """The neighbours, with an instance whose folder goes with the data folder."""
        instance = dg.DagsterInstance.ephemeral(tempdir=str(ProductionSettings.load().etl_data_dir))
        return cls(store.database, store.broker, simulator, instance)

    @functools.cached_property
    def definitions(self) -> dg.Definitions:
        """The jobs over these neighbours."""
        overrides = {**resources(PostgresResource(url=self.database.url)), "production_api": QuickApiResource()}
        return platform_definitions(overrides)

    def run(self, *assets: str, job: str = "production_job", **method: Any) -> dg.ExecuteInProcessResult:
        """Runs a job once.

        Args:
            assets: only these of the job.
            method: settings of `production_method`.
        """
        config: dict[str, Any] = dict(QUIET)
        if method:
            config["resources"] = {"production_method": {"config": method}}
        return self.definitions.resolve_job_def(job).execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(["production", name]) for name in assets] or None,
            run_config=config,
            raise_on_error=False,
        )

    def report(self) -> dict[str, Any]:
        """The newest report, as JSON."""
        return read_report(ProductionSettings.load().reports_dir / "production")


@dataclass
class Command(Store):
    """`etl-assets production report` in this process, with files of its own; `said` gives what it printed."""

    folder: Path
    said: Callable[[], Any]
    code: int = 0
    out: str = ""
    err: str = ""

    def __call__(self, *arguments: str) -> int:
        """Runs `etl-assets` and gives its exit code."""
        with warnings.catch_warnings():
            # Typer uses what Click has deprecated, as soon as it is imported.
            warnings.simplefilter("ignore", DeprecationWarning)
            from etl_assets import cli
        self.code = cli.run(list(arguments))
        self.out, self.err = self.said()
        return self.code

    def file(self, name: str, content: Any) -> Path:
        """A file: bytes and text as they are, records as a JSON array."""
        path = self.folder / name
        data = content if isinstance(content, bytes | str) else json.dumps(content)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    def report(self, metrics: Any, workorders: Any, *options: str) -> dict[str, Any]:
        """The report over two files, given as paths or by their content; it is written, and as it is to be.

        Raises:
            AssertionError: if the command fails, or the report breaks its contract.
        """
        assert self.try_report(metrics, workorders, *options) == 0, self.err
        report = read_report(ProductionSettings.load().reports_dir / "production")
        self.assert_books_balance()
        return report

    def try_report(self, metrics: Any, workorders: Any, *options: str) -> int:
        """The exit code of the report over two files."""
        files = [
            content if isinstance(content, Path) else self.file(name, content)
            for name, content in (("metrics.json", metrics), ("workorders.json", workorders))
        ]
        return self(
            "production", "report", "--metrics", str(files[0]), "--workorders", str(files[1]), *map(str, options)
        )


def small_records() -> tuple[list[Record], list[Record]]:
    """Two products of 30 work orders and four parameters: 1 goes with the increments of product 0, 2 is a trend, 3 never changes."""
    rng = np.random.default_rng(5)
    first, other = rng.normal(0, 1, (2, ORDERS))
    made = 20 + 3 * first + rng.normal(0, 0.5, ORDERS)
    # Parameter 1 is read as each work order of product 0 begins, and holds until the next.
    metrics = [
        *readings(0, rng.normal(5, 1, 5 * ORDERS).tolist()),
        *readings(1, (100 + first[1:]).tolist(), every=ORDER_S),
        *readings(2, (np.arange(5 * ORDERS) + rng.normal(0, 2, 5 * ORDERS)).tolist()),
        *readings(3, [7.5] * 5 * ORDERS),
    ]
    orders = [
        *work_orders(0, np.cumsum(made).tolist()),
        *work_orders(1, np.cumsum(20 + other).tolist(), start=START + 2_000),
    ]
    return metrics, orders


def small_files(folder: Path) -> tuple[Path, Path]:
    """The small records as files."""
    files = folder / "metrics.ndjson", folder / "workorders.ndjson"
    for path, records in zip(files, small_records(), strict=True):
        path.write_text(as_lines(records))
    return files


def as_lines(records: Iterable[Any]) -> str:
    """Records as NDJSON."""
    return "".join(json.dumps(record) + "\n" for record in records)


def read_report(folder: Path) -> dict[str, Any]:
    """The newest report in a folder.

    Raises:
        AssertionError: if it breaks its contract.
    """
    report: dict[str, Any] = json.loads((folder / "latest.json").read_text(), parse_constant=no_number)
    assert {path.name for path in folder.iterdir() if path.is_file()} == {
        f"latest.{end}" for end in ("html", "csv", "json")
    }
    assert_contract(report)
    return report


def no_number(name: str) -> None:
    """Fails on NaN and Infinity, which Python reads and others do not."""
    raise AssertionError(f"{name} is no JSON")


def assert_contract(report: dict[str, Any]) -> None:
    """What whoever reads the JSON may rely on."""
    assert {"products", "left_out", "method"} <= set(report)
    assert all(left["count"] > 0 and left["what"] and left["why"] for left in report["left_out"])
    assert len({product["product"] for product in report["products"]}) == len(report["products"])
    for product in report["products"]:
        assert type(product["product"]) is str
        assert product["answer"].endswith(".")
        assert list(product["readings"]) == list(READINGS)
        together = [sorted(row["parameter"] for row in rows) for rows in product["readings"].values()]
        assert together[0] == together[1]
        for rows in product["readings"].values():
            assert_ranked(rows)


def assert_ranked(rows: Sequence[Record]) -> None:
    """Ranks from 1 on by |r|, and numbers that are numbers or null."""
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert all(type(row["rank"]) is int and type(row["parameter"]) is str and type(row["n"]) is int for row in rows)
    assert len({row["parameter"] for row in rows}) == len(rows)
    sizes = [-1.0 if row["r"] is None else abs(row["r"]) for row in rows]
    assert sizes == sorted(sizes, reverse=True)
    for row in rows:
        assert set(row) >= FIELDS
        assert row["verdict"] in VERDICTS
        assert row["top"] == (row["rank"] <= 3)
        measured = row["r"] is not None
        assert measured == (row["ci_low"] is not None) == (row["stability"] is not None)
        assert all(math.isfinite(number) for number in row.values() if isinstance(number, float))
        assert row["q"] is None or row["q"] >= row["p"] - 1e-12
        if row["verdict"] in ("supported", "shared trend", "not significant"):
            assert measured and row["ci_low"] <= row["r"] <= row["ci_high"]
            assert row["tie_group"] is None or type(row["tie_group"]) is int


def rows_of(report: dict[str, Any], product: object, reading: str) -> list[Record]:
    """The rows of a product and reading, in rank order."""
    [found] = [one for one in report["products"] if one["product"] == str(product)]
    rows: list[Record] = found["readings"][reading]
    return rows


def verdicts(report: dict[str, Any], product: object, reading: str) -> dict[str, str]:
    """The verdict on each parameter."""
    return {row["parameter"]: row["verdict"] for row in rows_of(report, product, reading)}


def supported(report: dict[str, Any], reading: str) -> set[tuple[str, str]]:
    """Product and parameter of each row that is supported."""
    return {
        (product["product"], row["parameter"])
        for product in report["products"]
        for row in product["readings"][reading]
        if row["verdict"] == "supported"
    }


def left_out(report: dict[str, Any], what: str, why: str) -> int:
    """How many were left out for a reason that holds these words."""
    return sum(left["count"] for left in report["left_out"] if left["what"] == what and why in left["why"])


def readings(parameter: int, values: Iterable[Any], *, every: int = 1_000, start: int = START) -> list[Record]:
    """Readings of a parameter at even distances, the first at the start."""
    return [{"id": parameter, "val": value, "time": start + every * at} for at, value in enumerate(values)]


def work_orders(product: int, production: Iterable[Any], *, start: int = START, every: int = ORDER_S) -> list[Record]:
    """Work orders of a product, one after the other; the first ends at the start."""
    return [{"time": start + every * at, "product": product, "production": made} for at, made in enumerate(production)]

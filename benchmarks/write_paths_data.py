"""Tables and rows of the write-path benchmark."""

import datetime
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts import Contract, Timestamp, column
from etl_assets.core.contracts.ddl import metadata
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write

# A fifth of the base of five million rows lies in each month.
MONTHS = tuple(datetime.datetime(2024 + at // 12, at % 12 + 1, 1, tzinfo=datetime.UTC) for at in range(24))
MONTH_S = 28 * 86_400


class Readings(Contract):
    """Readings with a text key."""

    id: str = column("Identity")
    name: str = column("What was read")
    at: Timestamp = column("When it was read")
    value: float = column("What it read")

    class Config:
        table = "bench.readings"
        key = ("id",)
        partition_by = "at"


class NativeReadings(Contract):
    """The same readings in one native partition per month."""

    id: str = column("Identity")
    name: str = column("What was read")
    at: Timestamp = column("When it was read")
    value: float = column("What it read")

    class Config:
        table = "bench.native"
        key = ("id", "at")
        partition_by = "at"
        native = "month"


class SensorReadings(Contract):
    """Readings by sensor and time."""

    sensor: int = column("Sensor")
    at: Timestamp = column("When it was read")
    name: str = column("What was read")
    value: float = column("What it read")

    class Config:
        table = "bench.sensors"
        key = ("sensor", "at")


CONTRACTS: dict[str, type[Contract]] = {
    "readings": Readings,
    "random": Readings,
    "empty": Readings,
    "native": NativeReadings,
    "sensors": SensorReadings,
}


@dataclass(frozen=True)
class Bench:
    """Rows of one write, and rows that are in the table before it."""

    rows: int
    base: int


def _order(count: int, shuffled: bool = True) -> np.ndarray:
    return np.random.default_rng(0).permutation(count) if shuffled else np.arange(count)


def _times(numbers: np.ndarray, per_month: int) -> pd.Series:
    """A month of 28 days per so many rows, in steps of equal length."""
    starts = pd.DatetimeIndex(MONTHS[:12]).as_unit("us")
    months = np.minimum(numbers // per_month, 11)
    return pd.Series(
        starts[months] + pd.to_timedelta((numbers - months * per_month) * (MONTH_S * 1_000_000 // per_month), unit="us")
    )


def numbered(start: int, bench: Bench, *, shuffled: bool = True, spread: bool = False) -> pd.DataFrame:
    """Rows with consecutive keys and times, from a number on."""
    numbers = _order(bench.rows, shuffled) + start
    return pd.DataFrame(
        {
            "id": [f"k{i:09d}" for i in numbers],
            "name": [f"name {i % 1000}" for i in numbers],
            "at": _times(numbers, 1_000_000_000 if spread else max(bench.base // 5, 1)),
            "value": numbers * 0.5,
        }
    )


def interleaved(bench: Bench) -> pd.DataFrame:
    """New rows whose keys lie between those that are there, over their whole range."""
    frame = numbered(bench.base, bench)
    step = max(bench.base // bench.rows, 1)
    return frame.assign(id=[f"k{i * step:09d}b" for i in _order(bench.rows)])


def random_keys(bench: Bench) -> pd.DataFrame:
    """New rows under random keys, as uuid4 gives them."""
    digits = np.random.default_rng(7).bytes(16 * bench.rows).hex()
    ids = [
        f"{d[:8]}-{d[8:12]}-4{d[13:16]}-a{d[17:20]}-{d[20:]}"
        for d in (digits[at : at + 32] for at in range(0, len(digits), 32))
    ]
    return numbered(bench.base, bench).assign(id=ids)


def by_sensor(bench: Bench) -> pd.DataFrame:
    """A thousand sensors, each with the instants after those that are there."""
    numbers = _order(bench.rows) + bench.base
    return pd.DataFrame(
        {
            "sensor": numbers % 1000,
            "at": pd.Series(
                pd.DatetimeIndex(MONTHS[:1]).as_unit("us")[0] + pd.to_timedelta(numbers // 1000, unit="min")
            ).astype("datetime64[us, UTC]"),
            "name": [f"name {i % 1000}" for i in numbers],
            "value": numbers * 0.5,
        }
    )


def template(database: Database, kind: str, bench: Bench) -> None:
    """Make the table of a kind and fill it."""
    import sqlalchemy as sa

    contract = CONTRACTS[kind]
    engine = sa.create_engine(database.url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA bench"))
        metadata([contract]).create_all(connection)
    engine.dispose()
    step = min(bench.base, 1_000_000)
    for at in range(0, bench.base if kind != "empty" else 0, step):
        frame = _base_rows(kind, Bench(step, bench.base), at)
        write(database, pa.Table.from_pandas(frame, preserve_index=False), [Slice(contract)], Write("append"))
    with database.connect(autocommit=True) as connection:
        connection.execute(f"VACUUM (FREEZE, ANALYZE) {contract.config.table}")


def warm(database: Database, kind: str) -> None:
    """Read the table once in the order of its key, so that the server has in memory what fits, the newest last."""
    contract = CONTRACTS[kind]
    query = f"SELECT max(value) FROM (SELECT value FROM {contract.config.table} ORDER BY {', '.join(contract.config.key)} OFFSET 0) AS t"
    with database.connect() as connection:
        connection.execute("SET enable_sort = off")
        connection.execute("SET enable_seqscan = off")
        connection.execute(query)


def _base_rows(kind: str, bench: Bench, at: int) -> pd.DataFrame:
    if kind == "sensors":
        return by_sensor(Bench(bench.rows, at))
    frame = numbered(at, bench, shuffled=kind == "random")
    if kind == "random":
        digits = np.random.default_rng(at + 100).bytes(16 * bench.rows).hex()
        return frame.assign(
            id=[
                f"{d[:8]}-{d[8:12]}-4{d[13:16]}-a{d[17:20]}-{d[20:]}"
                for d in (digits[i : i + 32] for i in range(0, len(digits), 32))
            ]
        )
    return frame

"""What runs in processes of its own for `turbines.py`: the source's API, the backfill with its clocks, a plain script.

python benchmarks/turbines_parts.py serve arrow|json TURBINE…    SOURCE_URL: the source database; ends with its input
python benchmarks/turbines_parts.py run FIRST LAST               in the environment of the platform
python benchmarks/turbines_parts.py pandas API_URL TURBINE…      TARGET_URL: an empty database
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

START = date(2024, 1, 1)
COLUMNS = ("wind_speed", "power", "ambient_temperature")
STATISTICS = ("mean", "min", "max", "std")
# What is timed, by share: module and name. A generator is timed while it works.
SHARES = {
    "source and transfer": ("etl_assets.systems.turbines.source", "TurbinesApi.minutes"),
    "of that parsing": ("etl_assets.systems.turbines.source", "read_page"),
    "waiting for the source": ("etl_assets.systems.turbines.assets", "locked_days"),
    "raw files": ("etl_assets.core.dagster.io_managers", "write_parquet"),
    "computation": ("etl_assets.systems.turbines.transform", "ten_minute_statistics"),
    "writing": ("etl_assets.systems.turbines.assets", "store_days"),
    "what the UI shows": ("etl_assets.systems.turbines.assets", "metadata_of"),
}


class Clock:
    """Adds up the seconds of calls, of all threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(SHARES, 0.0)
        self._lock = threading.Lock()

    def wrap(self, share: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                made = function(*args, **kwargs)
            finally:
                self._add(share, began)
            return self._steps(share, made) if isinstance(made, Iterator) else made

        return timed

    def _steps(self, share: str, made: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            one = next(made, self)
            self._add(share, began)
            if one is self:
                return
            yield one

    def _add(self, share: str, began: float) -> None:
        with self._lock:
            self.seconds[share] += time.perf_counter() - began


def serve_source(form: str, turbines: Sequence[str]) -> None:
    """The API, until the input ends; one that has only JSON does not see what else a client would take."""
    from etl_assets.simulators.server import serve
    from etl_assets.systems.turbines.simulator import TurbinesSimulator

    app = TurbinesSimulator(os.environ["SOURCE_URL"], turbines=turbines).app

    async def only_json(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope["headers"] = [header for header in scope["headers"] if header[0] != b"accept"]
        await app(scope, receive, send)

    with serve(only_json if form == "json" else app) as url:
        print(url, flush=True)
        sys.stdin.read()


def run(first: str, last: str) -> None:
    """The job for a range of days in one run."""
    import dagster as dg

    from etl_assets.definitions import platform_definitions, resources

    clock = Clock()
    for share, (module, path) in SHARES.items():
        owner: Any = import_module(module)
        *outer, name = path.split(".")
        for part in outer:
            owner = getattr(owner, part)
        setattr(owner, name, clock.wrap(share, getattr(owner, name)))
    job = platform_definitions(resources()).resolve_job_def("turbines_job")
    with dg.DagsterInstance.get() as instance:
        began = time.perf_counter(), time.process_time()
        result = job.execute_in_process(
            instance=instance,
            tags={"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last},
            run_config={
                "ops": {"turbines__raw_turbine_signals": {"config": {"columns": list(COLUMNS)}}},
                "loggers": {"console": {"config": {"log_level": "WARNING"}}},
            },
        )
        seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
        assert result.success
        assets = ("raw_turbine_signals", "ten_minute_statistics")
        materialised = {
            name: len(instance.get_materialized_partitions(dg.AssetKey(["turbines", name]))) for name in assets
        }
    found = {
        "seconds": seconds,
        "cpu_s": cpu,
        "peak_mb": peak_mb(),
        "wall": clock.seconds,
        "materialised": materialised,
    }
    print(json.dumps(found))


def with_pandas(api_url: str, turbines: Sequence[str]) -> None:
    """One day as a script does it."""
    import pandas as pd
    import requests
    from sqlalchemy import ForeignKey, create_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

    class Base(DeclarativeBase):
        pass

    class Signal(Base):
        __tablename__ = "signal"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        turbine: Mapped[str]

    class Data(Base):
        __tablename__ = "data"
        timestamp: Mapped[datetime] = mapped_column(primary_key=True)
        signal_id: Mapped[int] = mapped_column(ForeignKey("signal.id"), primary_key=True)
        value: Mapped[float | None]

    engine = create_engine(os.environ["TARGET_URL"].replace("postgresql://", "postgresql+psycopg2://"))
    Base.metadata.create_all(engine)
    began, values = time.perf_counter(), 0
    with Session(engine) as session:
        for turbine in turbines:
            asked = {
                "start_timestamp": f"{START}T00:00:00",
                "end_timestamp": f"{START + timedelta(days=1)}T00:00:00",
                "columns": COLUMNS,
                "turbine": turbine,
            }
            answer = requests.get(f"{api_url}/data", params=asked, timeout=60)
            minutes = pd.DataFrame(answer.json())
            minutes["timestamp"] = pd.to_datetime(minutes["timestamp"])
            bins = minutes.set_index("timestamp").resample("10min").agg(list(STATISTICS))
            for (column, statistic), cells in bins.items():
                signal = Signal(name=f"{column}_{statistic}", turbine=turbine)
                session.add(signal)
                session.flush()
                session.add_all(Data(timestamp=at, signal_id=signal.id, value=value) for at, value in cells.items())
                values += len(cells)
        session.commit()
    print(json.dumps([time.perf_counter() - began, values]))


def peak_mb() -> float:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def cpu_of(pid: int, *, children: bool = False) -> float:
    """CPU seconds that a process has used, and those that its ended children had; 0 for one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    used = fields[11:15] if children else fields[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def cpu_of_server(data_dir: Path) -> float:
    """CPU seconds of all processes of an embedded server, ended ones too."""
    from experiments_scale import processes_of

    return sum(cpu_of(pid, children=True) for pid in processes_of(data_dir))


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "serve":
        serve_source(given[0], given[1:])
    elif what == "run":
        run(*given)
    else:
        with_pandas(given[0], given[1:])

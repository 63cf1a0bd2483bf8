"""User features from large files, as somebody with three files gets them: time, peak memory, and plain pandas beside it.

    python benchmarks/experiments_scale.py [--users 1000000] [--experiments 10000000] [--compounds 500] [--only ours pandas]

`etl-assets experiments load` runs in a process of its own against an embedded server that is empty: it reads, judges and stores all
five tables. Its memory is that of the command and of the server's processes together, shared pages counted once, looked
at ten times a second. pandas reads the same files, derives the same features with `groupby`, and stores these alone with `to_sql`.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from etl_assets.core.embedded import EmbeddedPostgres
from etl_assets.systems.experiments.simulator import write_files

AS_OF = date(2023, 12, 31)
LIMIT_S, LIMIT_MB = 60, 4_000
# pandas gets the files without the TABs, which it would take for part of the names of the columns.
LAYOUTS = {"ours": "comma-tab-lf", "pandas": "comma-lf"}
WHO = tuple(LAYOUTS)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--experiments", type=int, default=10_000_000)
    parser.add_argument("--compounds", type=int, default=500)
    parser.add_argument("--only", nargs="+", choices=WHO, default=WHO)
    parser.add_argument("--measured", choices=("pandas",), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        with_pandas(options.folder, os.environ["ETL_POSTGRES_URL"])
        return
    with tempfile.TemporaryDirectory() as work:
        seconds = {}
        for who in options.only:
            folder = Path(work) / "files"
            write_files(
                folder,
                users=options.users,
                experiments=options.experiments,
                compounds=options.compounds,
                layout=LAYOUTS[who],
            )
            size_mb = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
            print(f"{options.users:,} users, {options.experiments:,} experiments, {size_mb:,.0f} MB of CSV")
            seconds[who], peak_mb = measured(Path(work) / who, command_of(who, folder))
            met = "met" if seconds[who] <= LIMIT_S and peak_mb <= LIMIT_MB else "NOT MET"
            verdict = f" {met} (goals {LIMIT_S} s, {LIMIT_MB:,} MB)" if who == "ours" else ""
            print(f"{who}: {seconds[who]:.1f} s, peak {peak_mb:,.0f} MB{verdict}", flush=True)
        if len(seconds) == len(WHO):
            print(f"pandas takes {seconds['pandas'] / seconds['ours']:.1f} times as long, for the features alone")


def command_of(who: str, folder: Path) -> list[str]:
    """The command line of one of those that are compared."""
    if who == "ours":
        return [sys.executable, "-m", "etl_assets.cli", "experiments", "load", str(folder), "--as-of", f"{AS_OF}"]
    return [sys.executable, __file__, "--measured", who, "--folder", str(folder)]


def measured(data_dir: Path, command: Sequence[str]) -> tuple[float, float]:
    """Seconds that a command takes with a server of its own, and the peak of both's memory in MB."""
    server = EmbeddedPostgres(data_dir)
    with server as url:
        started = time.perf_counter()
        process = subprocess.Popen(command, env={**os.environ, "ETL_POSTGRES_URL": url})
        peaks = [0.0]
        ended = threading.Event()

        def look() -> None:
            while not ended.wait(0.1):
                peaks[0] = max(peaks[0], memory_mb(process.pid) + sum(map(memory_mb, processes_of(data_dir))))

        watcher = threading.Thread(target=look)
        watcher.start()
        code = process.wait()
        seconds = time.perf_counter() - started
        ended.set()
        watcher.join()
    server.purge()
    if code:
        raise SystemExit(f"{' '.join(command)} ended with exit code {code}")
    return seconds, peaks[0]


def processes_of(data_dir: Path) -> list[int]:
    """The processes of the server: their working directory is its cluster."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(cluster(data_dir)):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def cluster(data_dir: Path) -> Path:
    """Where the cluster is: in the data folder, or where a note there says."""
    note = data_dir / "postgres.location"
    return Path(note.read_text().strip()) if note.is_file() else data_dir


def memory_mb(pid: int) -> float:
    """Memory of a process, pages that it shares by its share; 0 for one that is gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def with_pandas(folder: Path, url: str) -> None:
    """The same features the plain way."""
    import pandas as pd
    import sqlalchemy as sa

    users = pd.read_csv(folder / "users.csv", parse_dates=["signup_date"])
    experiments = pd.read_csv(folder / "user_experiments.csv")
    by_user = experiments.groupby("user_id")["experiment_run_time"].agg(["size", "sum", "mean"])
    pairs = experiments[["experiment_id", "user_id", "experiment_compound_ids"]].copy()
    pairs["compound_id"] = pairs.pop("experiment_compound_ids").str.split(";")
    pairs = pairs.explode("compound_id").drop_duplicates()
    counts = pairs.groupby(["user_id", "compound_id"]).size().rename("n").reset_index()
    counts = counts[counts["n"] == counts.groupby("user_id")["n"].transform("max")]
    counts["compound_id"] = counts["compound_id"].astype("int64")
    common = counts.sort_values(["user_id", "compound_id"]).groupby("user_id")
    features = users[["user_id", "signup_date"]].merge(by_user, left_on="user_id", right_index=True, how="left")
    features["days_since_signup"] = (pd.Timestamp(AS_OF) - features.pop("signup_date")).dt.days.clip(lower=0)
    features["most_common"] = features["user_id"].map(common["compound_id"].agg(lambda ids: ";".join(map(str, ids))))
    features["most_common_count"] = features["user_id"].map(common["n"].first())
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg2://"))
    features.to_sql("user_features", engine, if_exists="replace", index=False)


if __name__ == "__main__":
    main()

"""The whole way of two large files to the report, as somebody with two files goes it: time and peak memory.

    python benchmarks/report_scale.py [--metrics 20000000] [--parameters 200] [--work-orders 20000]

`etl-assets production report` runs in a process of its own, which serves the files, relays, drains, aligns, correlates
and renders; its peak memory is what the operating system counted. The servers' memory is not in it.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from etl_assets.systems.production.simulator import write_files

LIMIT_MB = 2_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--metrics", type=int, default=20_000_000)
    parser.add_argument("--parameters", type=int, default=200)
    parser.add_argument("--work-orders", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        metrics, workorders = write_files(
            Path(folder) / "files",
            metrics=options.metrics,
            parameters=options.parameters,
            work_orders=options.work_orders,
        )
        command = [sys.executable, "-m", "etl_assets.cli"]
        environment = {**os.environ, "ETL_DATA_DIR": folder}
        started = time.perf_counter()
        report = ["production", "report", "--metrics", str(metrics), "--workorders", str(workorders)]
        subprocess.run([*command, *report], env=environment, check=True)
        seconds = time.perf_counter() - started
        peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        subprocess.run([*command, "down", "--purge"], env=environment, check=True)
    verdict = f"{'met' if peak_mb <= LIMIT_MB else 'NOT MET'} (goal {LIMIT_MB} MB)"
    print(
        f"{options.metrics:,} readings, {options.work_orders:,} work orders: {seconds:.0f} s, {peak_mb:.0f} MB {verdict}"
    )


if __name__ == "__main__":
    main()

"""The experiments system on one machine: its simulated files, its run in the demo, and what the doctor looks at."""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import typer

from etl_assets.errors import ConfigurationError
from etl_assets.systems.experiments.settings import ExperimentsSettings

# Those of `simulator.LAYOUTS`.
LayoutName = Literal["comma-tab-lf", "comma-lf", "comma-crlf", "tab-lf", "bom-crlf", "quoted-tab", "mixed"]


@contextlib.contextmanager
def simulated(settings: ExperimentsSettings) -> Iterator[dict[str, str]]:
    """A folder with the three files; gives the variable that names it."""
    from etl_assets.systems.experiments.simulator import write_files

    folder = settings.etl_data_dir / "simulated" / "experiments"
    write_files(folder, faults=True)
    yield {"EXPERIMENTS_DIR": str(folder)}


def simulate(
    folder: Path = typer.Argument(help="Folder to write to; files of these names in it are replaced.", metavar="DIR"),
    users: int = typer.Option(200, min=1, help="Rows of users.csv."),
    experiments: int = typer.Option(2_000, min=1, help="Rows of user_experiments.csv."),
    compounds: int = typer.Option(40, min=1, help="Rows of compounds.csv."),
    seed: int = typer.Option(20231231, min=0, help="The same seed gives the same files."),
    layout: LayoutName = typer.Option(
        "comma-tab-lf", help="Delimiter and line ends; the default is that of real files."
    ),
    faults: bool = typer.Option(False, "--faults", help="Add a row with each kind of fault, and tell where they are."),
) -> None:
    """Write the three CSV files of users, experiments and compounds."""
    from etl_assets.systems.experiments.simulator import write_files

    try:
        numbers = {"users": users, "experiments": experiments, "compounds": compounds}
        written = write_files(folder, **numbers, seed=seed, layout=layout, faults=faults)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write to {folder} ({error.strerror or error}): give a folder that can be written to"
        ) from None
    for name, rows in numbers.items():
        print(f"{getattr(written, name)}: {rows:,} rows without a fault")
    for fault in written.faults:
        print(f"{fault.file}, line {fault.line}, {fault.column}: {fault.kind}")


def demo_runs(settings: ExperimentsSettings) -> dict[str, dict[str, str]]:
    """By job, the tags that say which partitions its run of the demo is for."""
    return {"experiments_job": {"dagster/partition": f"{datetime.now(UTC):%Y-%m-%d}"}}


def _files(settings: ExperimentsSettings) -> str:
    from etl_assets.systems.experiments.source import folder_at

    folder = folder_at(Path(settings.required("experiments_dir")))
    sizes = folder.sizes()
    return f"{folder.path} has " + ", ".join(f"{name} ({size:,} bytes)" for name, size in sizes.items())


CHECKS = {"experiments files": _files}

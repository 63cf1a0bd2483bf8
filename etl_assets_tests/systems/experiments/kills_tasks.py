"""What the children of the kill test do: `etl-assets experiments load`, killed at a step that is named by its function."""

import os
import sys
from typing import Any

from etl_assets_tests.systems.outages import tasks

STEPS = {
    "read": ("etl_assets.systems.experiments.source", "ExperimentFolder.read"),
    "look at the files": ("etl_assets.systems.experiments.source", "ExperimentFolder.content"),
    "judge": ("etl_assets.systems.experiments.transform", "loaded"),
    "gather": ("etl_assets.systems.experiments.script", "experience"),
    "derive": ("etl_assets.systems.experiments.script", "user_features"),
    "write": ("etl_assets.systems.experiments.script", "write"),
}


def load(folder: str, as_of: str, kill: list[Any] | None = None, trace: str = "") -> int:
    """`etl-assets experiments load FOLDER --as-of DAY`, whole or killed at a step; or its steps are written down."""
    from etl_assets.cli import run

    tasks.STEPS.update(STEPS)
    tasks.with_kill(kill, trace)
    return run(["experiments", "load", folder, "--as-of", as_of], debug=True)


def command(folder: str, as_of: str) -> int:
    """The real command, in place of this process."""
    arguments = ["-W", "ignore", "-m", "etl_assets.cli", "experiments", "load", folder, "--as-of", as_of]
    os.execv(sys.executable, [sys.executable, *arguments])

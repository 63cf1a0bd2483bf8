"""The environment variables of the experiments system."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from etl_assets.settings import Settings


class ExperimentsSettings(Settings):
    """Settings of one process that runs the experiments system."""

    source_variables: ClassVar[tuple[str, ...]] = ("EXPERIMENTS_DIR",)

    experiments_dir: Path | None = Field(None, description="Folder with the three files of the experiments")


SETTINGS = ExperimentsSettings

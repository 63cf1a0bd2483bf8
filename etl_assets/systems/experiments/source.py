"""The folder of the experiments' files as a Dagster resource."""

from pathlib import Path
from typing import Any

import dagster as dg

from etl_assets.settings import load_settings
from etl_assets.systems.experiments.folder import ExperimentFolder, folder_at


class ExperimentFilesResource(dg.ConfigurableResource[Any]):
    """The folder at EXPERIMENTS_DIR; settings are read when a run needs it, so that no path is in a run config."""

    def connect(self) -> ExperimentFolder:
        """The folder, ready to be read.

        Raises:
            ConfigurationError: if it is not set, or no folder.
        """
        return folder_at(Path(load_settings().required("experiments_dir")))

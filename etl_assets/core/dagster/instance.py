"""The Dagster instance that a command is to change."""

import os

import dagster as dg

from etl_assets.errors import ConfigurationError


def instance_at_home() -> dg.DagsterInstance:
    """The instance at DAGSTER_HOME.

    Raises:
        ConfigurationError: if that is not set, or has none.
    """
    try:
        return dg.DagsterInstance.get()
    except dg.DagsterError as error:
        home = os.environ.get("DAGSTER_HOME")
        said = f"({home}) has no Dagster instance: {str(error).splitlines()[0]}" if home else "is not set"
        raise ConfigurationError(f"DAGSTER_HOME {said}; it says which instance is to be told") from error

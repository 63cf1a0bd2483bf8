"""The API of the turbines' signals and the target database as Dagster resources."""

from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.core.database.connections import Database
from etl_assets.settings import load_settings
from etl_assets.systems.turbines.api import TurbinesApi
from etl_assets.systems.turbines.databases import turbines_target


class TurbinesApiResource(dg.ConfigurableResource[Any]):
    """The API at TURBINES_API_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self) -> TurbinesApi:
        """The API, ready to be asked.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return TurbinesApi.from_settings(load_settings())


class TurbinesTargetResource(dg.ConfigurableResource[Any]):
    """The database at TURBINES_TARGET_URL, or one beside the platform's; opened at its first use."""

    url: str = Field(
        default="", description="Database of a test; empty: TURBINES_TARGET_URL, else beside the platform's"
    )
    _database: Database | None = PrivateAttr(default=None)

    @property
    def database(self) -> Database:
        """The database; the same object for as long as the resource lives."""
        if self._database is None:
            self._database = Database(self.url, name="target") if self.url else turbines_target()
        return self._database

"""The platform's database as a Dagster resource."""

from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.core.database.connections import Database
from etl_assets.core.servers import platform_database


class PostgresResource(dg.ConfigurableResource[Any]):
    """The database given by ETL_POSTGRES_URL, or the embedded one; opened at its first use.

    A URL holds a password, and the UI shows the configuration of resources: outside tests `url` stays empty, and the settings
    are read when a run needs them.
    """

    url: str = Field(default="", description="Database of a test; empty: ETL_POSTGRES_URL, else the embedded server")
    _database: Database | None = PrivateAttr(default=None)

    @property
    def database(self) -> Database:
        """The database; the same object for as long as the resource lives."""
        if self._database is None:
            self._database = Database(self.url) if self.url else platform_database()
        return self._database

"""The platform's database as a Dagster resource."""

import dagster as dg
from pydantic import PrivateAttr

from etl_assets.resources.database import Database
from etl_assets.resources.local import platform_database


class PostgresResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The database given by ETL_POSTGRES_URL, or the embedded one; opened at its first use.

    The URL is not configuration of the resource: it holds a password, and run configs are stored and shown.
    """

    _database: Database | None = PrivateAttr(default=None)

    @property
    def database(self) -> Database:
        """The database; the same object for the whole process."""
        if self._database is None:
            self._database = platform_database()
        return self._database

    @classmethod
    def of(cls, database: Database) -> "PostgresResource":
        """A resource over a database that is there already: for tests and scripts."""
        resource = cls()
        resource._database = database
        return resource

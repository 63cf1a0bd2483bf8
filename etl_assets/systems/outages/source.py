"""The outage API as a Dagster resource."""

from typing import Any

import dagster as dg

from etl_assets.settings import load_settings
from etl_assets.systems.outages.api import OutagesApi


class OutagesApiResource(dg.ConfigurableResource[Any]):
    """The API at OUTAGES_API_URL; settings are read when a run needs it, so that no secret is in a run config."""

    def connect(self) -> OutagesApi:
        """The API, ready to be called.

        Raises:
            ConfigurationError: if its URL or key is not set.
        """
        return OutagesApi.from_settings(load_settings())

"""The production API as a Dagster resource."""

from typing import Any

import dagster as dg

from etl_assets.settings import load_settings
from etl_assets.systems.production.api import ProductionApi


class ProductionApiResource(dg.ConfigurableResource[Any]):
    """The API at PRODUCTION_API_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self) -> ProductionApi:
        """The API, ready to be read.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return ProductionApi.from_settings(load_settings())

"""The broker as a Dagster resource."""

from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from etl_assets.core.servers import platform_broker
from etl_assets.core.sources.streams.broker import DEFAULT_PREFIX, Broker


class BrokerResource(dg.ConfigurableResource[Any]):
    """The broker given by ETL_BROKER_URL, or the embedded one; opened at its first use.

    A URL holds a password, and the UI shows the configuration of resources: outside tests `url` stays empty, and the settings
    are read when a run needs them.
    """

    url: str = Field(default="", description="Broker of a test; empty: ETL_BROKER_URL, else the embedded server")
    prefix: str = Field(default=DEFAULT_PREFIX, description="What the keys of the streams begin with")
    _broker: Broker | None = PrivateAttr(default=None)

    @property
    def broker(self) -> Broker:
        """The broker; the same object for as long as the resource lives."""
        if self._broker is None:
            self._broker = Broker(self.url, prefix=self.prefix) if self.url else platform_broker(prefix=self.prefix)
        return self._broker

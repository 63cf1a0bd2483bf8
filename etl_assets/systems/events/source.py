"""The feed of events as a Dagster resource."""

from typing import Any

import dagster as dg

from etl_assets.core.sources.http.client import Limits
from etl_assets.systems.events.feed import EventsFeed
from etl_assets.systems.events.settings import EventsSettings


class EventsFeedResource(dg.ConfigurableResource[Any]):
    """The feed at EVENTS_FEED_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self, *, limits: Limits | None = None) -> EventsFeed:
        """The feed, ready to be asked.

        Args:
            limits: time-outs and retries, where those of the platform are too generous.

        Raises:
            ConfigurationError: if its URL cannot be right.
        """
        return EventsFeed.from_settings(EventsSettings.load(), limits=limits)

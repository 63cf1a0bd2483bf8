"""What the feed says that it has of some intervals: by its newest file alone, or by the list of all."""

import logging
from collections.abc import Sequence
from datetime import datetime

from etl_assets.events.feed import EventsFeed, FeedFile
from etl_assets.events.intervals import INTERVAL
from etl_assets.failures import PlatformError

_log = logging.getLogger(__name__)


def newest(feed: EventsFeed) -> dict[datetime, FeedFile]:
    """The newest file, by its interval."""
    file = feed.latest()
    return {file.interval: file}


def all_listed(feed: EventsFeed, intervals: Sequence[datetime]) -> dict[datetime, FeedFile]:
    """The files of some intervals, of each the one that the list names last, and the newest.

    The newest file is asked for after the list: what was republished in between counts. Without that the list suffices.
    """
    if not intervals:
        return {}
    wanted = set(intervals)
    listed = {file.interval: file for file in feed.listed(min(intervals), max(intervals) + INTERVAL)}
    try:
        listed |= newest(feed)
    except PlatformError as error:
        _log.warning("the list of all files is taken as it is: %s", error)
    return {interval: file for interval, file in listed.items() if interval in wanted}

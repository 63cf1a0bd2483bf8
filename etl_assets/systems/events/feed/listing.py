"""What the feed says that it has of some intervals: by its newest file alone, or by the list of all."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from etl_assets.errors import PlatformError
from etl_assets.systems.events.feed.client import EventsFeed, FeedFile
from etl_assets.systems.events.intervals import INTERVAL

_log = logging.getLogger(__name__)


def newest(feed: EventsFeed) -> dict[datetime, FeedFile]:
    """The newest file, by its interval."""
    file = feed.latest()
    return {file.interval: file}


def all_listed(feed: EventsFeed, intervals: Sequence[datetime]) -> dict[datetime, FeedFile]:
    """The files of some intervals, of each the one that the list names last, and the newest.

    The newest file is asked for after the list, and goes before what that says of its interval: it may have been republished in
    between. Which of the two is out of date only the file can tell, so that both are given. Without the newest the list
    suffices.
    """
    if not intervals:
        return {}
    wanted = set(intervals)
    listed = {file.interval: file for file in feed.listed(min(intervals), max(intervals) + INTERVAL)}
    try:
        for interval, file in newest(feed).items():
            there = listed.get(interval)
            listed[interval] = replace(file, other=there) if there and there.md5 != file.md5 else file
    except PlatformError as error:
        _log.warning("the list of all files is taken as it is: %s", error)
    return {interval: file for interval, file in listed.items() if interval in wanted}


def listed_alone(feed: EventsFeed, interval: datetime) -> dict[datetime, FeedFile]:
    """The file of one interval; where the list of all files is not to be had the newest is enough, if it is that."""
    try:
        return all_listed(feed, [interval])
    except PlatformError as error:
        known = newest(feed)
        if interval not in known:
            raise
        _log.warning("the newest file is taken without the list of all: %s", error)
        return known

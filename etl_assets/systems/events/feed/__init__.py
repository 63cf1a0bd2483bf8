"""The public feed: its lists, its files, and the archives that they are."""

from etl_assets.systems.events.feed.archive import LARGEST_FILE_BYTES, verified
from etl_assets.systems.events.feed.client import (
    EventsFeed,
    FeedFile,
    FileMissing,
    all_listed,
    listed_alone,
    newest,
)

__all__ = [
    "LARGEST_FILE_BYTES",
    "EventsFeed",
    "FeedFile",
    "FileMissing",
    "all_listed",
    "listed_alone",
    "newest",
    "verified",
]

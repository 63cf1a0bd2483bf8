"""The text in a file of events, as rows in the contract of raw events."""

from etl_assets.systems.events.format.layout import RAW_COLUMNS, corrected_events, valid_events

__all__ = ["RAW_COLUMNS", "corrected_events", "valid_events"]

"""From the events of a file to the US events among them: pure functions over Arrow tables."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.core.contracts.arrow import ARROW_TYPES, arrow_schema
from etl_assets.core.contracts.contract import Kind
from etl_assets.systems.events.cameo import root_names
from etl_assets.systems.events.contracts import FLAGS, UsEventData
from etl_assets.systems.events.us_rule import UsRule

# What a row of `UsEventData` has beside the columns that it takes over from `RawEvents`.
MADE_HERE = ("event_root_name", "upload_date", "flags")
TAKEN_OVER = [name for name in UsEventData.columns if name not in MADE_HERE]


@dataclass(frozen=True)
class UsEvents:
    """The US events among the events of a file, and what became of the others: `rows` and `left_out` add up to all.

    Attributes:
        rows: in the columns of `UsEventData`.
        left_out: how many rows the rule left out, by reason; all its reasons, also those of no row.
    """

    rows: pa.Table
    left_out: Mapping[str, int]


def us_events(raw: pa.Table, *, rule: UsRule, uploaded_at: datetime) -> UsEvents:
    """The US events of a file, named by the class of their root code and flagged where something is to be known of them.

    An event whose root code is unknown stays without a name; one without coordinates, or at latitude 0 and longitude 0,
    stays if the rule goes by its country code. `sql_date`, the day of the event, and `date_added`, when the feed had it, are both kept.

    Args:
        raw: rows of `RawEvents`, of one file or several.
        rule: which of them are US events.
        uploaded_at: when the rows are stored, for those that are new or changed; the store keeps what an unchanged one has.

    Returns:
        The events in the order of `raw`, in the columns of `UsEventData`, and the counts of those left out.

    Raises:
        ValueError: if `uploaded_at` is naive.
    """
    if uploaded_at.tzinfo is None:
        raise ValueError(f"uploaded_at {uploaded_at.isoformat()} has no zone: give it in UTC")
    reasons = rule.reasons_left_out(raw)
    events = raw.select(TAKEN_OVER).filter(pc.is_null(reasons))
    names = root_names(events["event_root_code"])
    columns = {
        **dict(zip(TAKEN_OVER, events.columns, strict=True)),
        "event_root_name": names,
        "upload_date": pa.repeat(pa.scalar(uploaded_at, type=ARROW_TYPES[Kind.TIMESTAMP]), events.num_rows),
        "flags": _flags(events, names),
    }
    rows = pa.Table.from_arrays([columns[name] for name in UsEventData.columns], schema=arrow_schema(UsEventData))
    counts = {count["values"]: count["counts"] for count in pc.value_counts(reasons.drop_null()).to_pylist()}
    return UsEvents(rows, {reason: counts.get(reason, 0) for reason in rule.reasons})


def _flags(events: pa.Table, names: pa.ChunkedArray) -> pa.ChunkedArray:
    """What is to be known of each event: the names of its flags in the order of `FLAGS`, joined by `;`."""
    lat, long = events["action_geo_lat"], events["action_geo_long"]
    raised = {
        "unknown_root_code": pc.is_null(names),
        "no_coordinates": pc.or_(pc.is_null(lat), pc.is_null(long)),
        "null_island": pc.and_(pc.equal(lat, 0.0), pc.equal(long, 0.0)),
    }
    names_raised = (pc.if_else(pc.fill_null(raised[flag], False), f"{flag};", "") for flag in FLAGS)
    # Joined by `;` with nulls skipped, Arrow 26 leaves out the rows that have none.
    return pc.utf8_rtrim(pc.binary_join_element_wise(*names_raised, ""), characters=";")

"""From the events of a file to the US events among them, each stored with one file: pure functions over Arrow tables.

Which events are US events is the rule that `EVENTS_US_RULE` names:

| rule | lets through |
|---|---|
| `country_code` | events whose place has one of the country codes of `EVENTS_US_COUNTRY_CODES`, wherever its coordinates are |
| `bounding_box` | events whose coordinates are in a box around the 48 contiguous states, whatever their country code |

Country codes are those of FIPS 10-4, not of ISO 3166: `GM` is Germany and `RQ` is Puerto Rico. `US` is the fifty states and the District of
Columbia. Its territories have codes of their own, which can be added: `RQ` Puerto Rico, `VQ` Virgin Islands, `GQ` Guam, `AQ` American
Samoa, `CQ` Northern Mariana Islands. Their codes in ISO are those of others here: `AS` is Australia, `MP` Mauritius, `VI` the British Virgin Islands.

The box cuts off Alaska and Hawaii, and has the south of Canada and the north of Mexico in it. An event at latitude 0, longitude 0
has a country code and no place in the box.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from etl_assets.core.contracts.arrow import ARROW_TYPES, arrow_schema
from etl_assets.core.contracts.contract import Kind
from etl_assets.errors import ConfigurationError
from etl_assets.systems.events.contracts import FLAGS, UsEventData

# The classes of events at their broadest. Source: P. A. Schrodt, *CAMEO: Conflict and Mediation Event Observations, Event and
# Actor Codebook*, version 1.1b3, Pennsylvania State University 2012, with the names as the feed's own list of event codes has
# them (`CAMEO.eventcodes.txt`).
ROOT_CLASSES: Mapping[str, str] = {
    "01": "MAKE PUBLIC STATEMENT",
    "02": "APPEAL",
    "03": "EXPRESS INTENT TO COOPERATE",
    "04": "CONSULT",
    "05": "ENGAGE IN DIPLOMATIC COOPERATION",
    "06": "ENGAGE IN MATERIAL COOPERATION",
    "07": "PROVIDE AID",
    "08": "YIELD",
    "09": "INVESTIGATE",
    "10": "DEMAND",
    "11": "DISAPPROVE",
    "12": "REJECT",
    "13": "THREATEN",
    "14": "PROTEST",
    "15": "EXHIBIT FORCE POSTURE",
    "16": "REDUCE RELATIONS",
    "17": "COERCE",
    "18": "ASSAULT",
    "19": "FIGHT",
    "20": "USE UNCONVENTIONAL MASS VIOLENCE",
}

ANOTHER_COUNTRY = "another country"
NO_ACTION_LOCATION = "no action location"
OUTSIDE_THE_BOX = "outside the box"
NO_COORDINATES = "no coordinates"

# The feed has codes of its own beside those of FIPS 10-4 (`OS`: the oceans), so that no list of codes is complete.
COUNTRY_CODE = re.compile("[A-Z]{2}")
# Codes of US territories in ISO 3166 that are nobody's in FIPS 10-4: they would find nothing, without a word.
FIPS_BY_ISO = {"PR": "RQ", "GU": "GQ"}
LET_THROUGH = pa.scalar(None, pa.string())

# What a row of `UsEventData` has beside the columns that it takes over from `RawEvents`.
MADE_HERE = ("event_root_name", "upload_date", "flags")
TAKEN_OVER = [name for name in UsEventData.columns if name not in MADE_HERE]


@dataclass(frozen=True)
class ByCountryCode:
    """Events in a country, by the code of their place.

    Attributes:
        codes: FIPS 10-4.
    """

    reasons: ClassVar[tuple[str, ...]] = (ANOTHER_COUNTRY, NO_ACTION_LOCATION)

    codes: tuple[str, ...] = ("US",)

    def reasons_left_out(self, events: pa.Table) -> pa.ChunkedArray:
        """For each row of `RawEvents` why the rule leaves it out, one of `reasons`; NULL where it does not."""
        code = events["action_geo_country_code"]
        elsewhere = pc.if_else(pc.is_null(code), NO_ACTION_LOCATION, ANOTHER_COUNTRY)
        return pc.if_else(pc.is_in(code, value_set=pa.array(self.codes)), LET_THROUGH, elsewhere)


@dataclass(frozen=True)
class InBox:
    """Events in a box of latitudes and longitudes, its edges included; by default the 48 contiguous states.

    Attributes:
        south, north: latitudes in degrees.
        west, east: longitudes in degrees.
    """

    reasons: ClassVar[tuple[str, ...]] = (OUTSIDE_THE_BOX, NO_COORDINATES)

    south: float = 24.396308
    north: float = 49.384358
    west: float = -125.0
    east: float = -66.93457

    def reasons_left_out(self, events: pa.Table) -> pa.ChunkedArray:
        """For each row of `RawEvents` why the rule leaves it out, one of `reasons`; NULL where it does not."""
        inside = pc.and_(
            _between(events["action_geo_lat"], self.south, self.north),
            _between(events["action_geo_long"], self.west, self.east),
        )
        outside = pc.if_else(inside, LET_THROUGH, OUTSIDE_THE_BOX)
        return pc.if_else(pc.is_null(inside), NO_COORDINATES, outside)


UsRule = ByCountryCode | InBox
RULES = ("country_code", "bounding_box")


def us_rule(rule: str = "country_code", country_codes: Iterable[str] = ("US",)) -> UsRule:
    """The rule that the settings name.

    Args:
        rule: value of `EVENTS_US_RULE`.
        country_codes: values of `EVENTS_US_COUNTRY_CODES`, in capitals or not; only `country_code` looks at them.

    Raises:
        ConfigurationError: for an unknown rule, a code that is none of FIPS 10-4, or no code; names the variable and what it may be.
    """
    if rule == "bounding_box":
        return InBox()
    if rule != "country_code":
        raise ConfigurationError(f"EVENTS_US_RULE is {rule!r}, which is no rule: set it to {' or '.join(RULES)}")
    codes = tuple(dict.fromkeys(_country_code(code) for code in country_codes))
    if not codes:
        raise ConfigurationError(
            "EVENTS_US_COUNTRY_CODES names no country: set it to US, or to US,RQ for Puerto Rico as well"
        )
    return ByCountryCode(codes)


def _country_code(text: str) -> str:
    code = text.strip().upper()
    if code in FIPS_BY_ISO:
        raise ConfigurationError(
            f"EVENTS_US_COUNTRY_CODES has {text!r}, which ISO 3166 knows and FIPS 10-4 does not: write {FIPS_BY_ISO[code]}"
        )
    if not COUNTRY_CODE.fullmatch(code):
        raise ConfigurationError(
            f"EVENTS_US_COUNTRY_CODES has {text!r}, which is no country code of FIPS 10-4: write its two letters, US for the"
            " United States, RQ, VQ, GQ, AQ, CQ for its territories, separated by commas"
        )
    return code


def _between(values: pa.ChunkedArray, lowest: float, highest: float) -> pa.ChunkedArray:
    """Whether values are in a range, its ends included; NULL where there is none."""
    return pc.and_(pc.greater_equal(values, lowest), pc.less_equal(values, highest))


class UsEvents(NamedTuple):
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
    stays if the rule goes by its country code. `sql_date`, the day of the event, and `date_added`, when the feed added it, are both kept.

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


def root_names(codes: pa.ChunkedArray) -> pa.ChunkedArray:
    """The name of each root code, NULL where it is none of the twenty: `1` is not `01`."""
    places = pc.index_in(codes, value_set=pa.array(ROOT_CLASSES))
    return pc.take(pa.array(ROOT_CLASSES.values()), places)


class Deduplicated(NamedTuple):
    """The events of some intervals, as they are to be stored.

    Attributes:
        rows: no event twice, and none that is stored with an interval beside these.
        given_up: whether an event is stored with one of these intervals, and none of them has it any more.
    """

    rows: pa.Table
    given_up: bool


def deduplicated_events(
    rows: pa.Table, stored: pa.Table, intervals: Sequence[datetime], *, known_ids: pa.ChunkedArray
) -> Deduplicated:
    """Decide which of the rows are stored.

    An event stays with the interval that it is stored with as long as that still has it (`known_ids`): another file does not change
    it. One that is nowhere stored, or that its interval gives up, goes to the first of these that has it.

    Args:
        rows: the events of these intervals, in each at most once; `global_event_id` and `file_interval` are among the columns.
        stored: `global_event_id` and `file_interval` of what is stored: all of these intervals, and of others the events in `rows`.
        intervals: aware.
        known_ids: the ids of all events that these intervals have, also of those that are not among the rows. What a file that is as
            it was has, and another rule leaves out, is not given up: the rule would leave it out of another file too.

    Returns:
        Rows in their order.
    """
    ids, at = rows["global_event_id"], rows["file_interval"]
    holder = stored["file_interval"].take(pc.index_in(ids, value_set=stored["global_event_id"]))
    batch = pa.array(intervals, at.type)
    own = _true(pc.equal(holder, at))
    elsewhere = _true(pc.and_(holder.is_valid(), pc.invert(pc.is_in(holder, value_set=batch))))
    by_event = np.lexsort((~own, ids.to_numpy()))
    _, first = np.unique(ids.to_numpy()[by_event], return_index=True)
    kept = np.sort(by_event[first])
    kept = kept[~elsewhere[kept]]
    ours = pc.is_in(stored["file_interval"], value_set=batch)
    given_up = (
        pc.any(pc.and_(ours, pc.invert(pc.is_in(stored["global_event_id"], value_set=known_ids)))).as_py() is True
    )
    return Deduplicated(rows if len(kept) == rows.num_rows else rows.take(pa.array(kept)), given_up)


def _true(which: pa.ChunkedArray) -> NDArray[np.bool_]:
    return pc.fill_null(which, False).to_numpy()

"""Which events are US events: the rule that `EVENTS_US_RULE` names.

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
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from etl_assets.errors import ConfigurationError

ANOTHER_COUNTRY = "another country"
NO_ACTION_LOCATION = "no action location"
OUTSIDE_THE_BOX = "outside the box"
NO_COORDINATES = "no coordinates"

# The feed has codes of its own beside those of FIPS 10-4 (`OS`: the oceans), so that no list of codes is complete.
COUNTRY_CODE = re.compile("[A-Z]{2}")
# Codes of US territories in ISO 3166 that are nobody's in FIPS 10-4: they would find nothing, without a word.
FIPS_BY_ISO = {"PR": "RQ", "GU": "GQ"}
_LET_THROUGH = pa.scalar(None, pa.string())


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
        return pc.if_else(pc.is_in(code, value_set=pa.array(self.codes)), _LET_THROUGH, elsewhere)


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
        outside = pc.if_else(inside, _LET_THROUGH, OUTSIDE_THE_BOX)
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

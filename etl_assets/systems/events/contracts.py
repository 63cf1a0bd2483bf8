"""The tables that the events system owns: what the files of the feed say, the US events, and the manifest of intervals.

The contract of the raw events asks for little: a row that breaks a rule is in quarantine instead of the table, and of a public
feed nobody here can correct a row. So an event needs an identity, a day and an instant; everything else may be blank, and a number is refused only
where the format itself gives its range.
"""

from collections.abc import Mapping

from etl_assets.core.contracts import Contract, Date, Timestamp, column

INTERVAL = "Begin of the fifteen minutes that the file of the event is named by"
EVENT_ID = "Event, as the feed numbers it"
SQL_DATE = "Day on which the event took place, as far as the feed can tell; often before the day it was added"
DATE_ADDED = "Instant at which the feed added the event"
EVENT_CODE = "CAMEO code of what was done, like `043` or `0231`; text, its zeros count"
BASE_CODE = "Class of the code at the second level of CAMEO; the code itself where there is none below it"
ROOT_CODE = "Class of the code at the first level of CAMEO, `01` to `20`"
SOURCE_URL = "First report in which the event was found: an address, or the name of a source"

CAMEO_CODE = "CAMEO code of all that is known of the {}: country, group, religion and roles in one"
NAME = "Name of the {} in capitals: a person, a country, a role"
COUNTRY = "Country that the {} belongs to, CAMEO code of three letters"
GROUP = "Organisation that the {} is, where CAMEO knows it by a code"
ETHNIC = "Ethnic group of the {}, CAMEO code"
RELIGION = "Religion of the {}, CAMEO code"
RELIGION_MORE = "Branch of that religion, CAMEO code"
ROLE = "Role of the {}, CAMEO code, like `GOV` or `COP`"
ROLE_MORE = "A further role of the {}, CAMEO code"
GEO_TYPE = (
    "How closely the place of the {} is known: 0 not at all, 1 country, 2 US state, 3 place in the US, 4 place elsewhere,"
    " 5 state or province elsewhere"
)
GEO_NAME = "Place of the {} in words, from the small to the large, spelt as its report spells it"
GEO_COUNTRY = "Country of the place of the {}, FIPS 10-4 code: `GM` is Germany, `RQ` Puerto Rico"
GEO_ADM1 = "State or province of the place of the {}: FIPS 10-4 code of the country, then that of its part"
GEO_ADM2 = "County or district of the place of the {}: in the US state and county number, elsewhere a GAUL number"
GEO_LAT = "Latitude of the middle of the place of the {}"
GEO_LONG = "Longitude of the middle of the place of the {}"
GEO_FEATURE = "The place of the {} in the gazetteer: a number, also a negative one, or a code of letters"
SEEN = "{} in the fifteen minutes in which the event was first seen"
FIRST, SECOND, ACTION = "first actor", "second actor", "event"

# What is to be known of a US event, by the name of its flag; no flag drops or changes a row.
FLAGS: Mapping[str, str] = {
    "unknown_root_code": "its root code is none of CAMEO's twenty, or missing",
    "no_coordinates": "latitude or longitude is missing",
    "null_island": "it lies at latitude 0, longitude 0, where the gazetteer has no better",
}


class RawEvents(Contract):
    """What the files of the feed say: one row per event and file, all 61 columns of the format, codes as text."""

    file_interval: Timestamp = column(INTERVAL)
    global_event_id: int = column(EVENT_ID)
    sql_date: Date = column(SQL_DATE)
    month_year: int | None = column("Month of that day, as the number YYYYMM")
    year: int | None = column("Year of that day")
    fraction_date: float | None = column(
        "That day as a year with a fraction: (month × 30 + day) / 365, roughly", unit="a"
    )
    actor1_code: str | None = column(CAMEO_CODE.format(FIRST))
    actor1_name: str | None = column(NAME.format(FIRST))
    actor1_country_code: str | None = column(COUNTRY.format(FIRST))
    actor1_known_group_code: str | None = column(GROUP.format(FIRST))
    actor1_ethnic_code: str | None = column(ETHNIC.format(FIRST))
    actor1_religion1_code: str | None = column(RELIGION.format(FIRST))
    actor1_religion2_code: str | None = column(RELIGION_MORE)
    actor1_type1_code: str | None = column(ROLE.format(FIRST))
    actor1_type2_code: str | None = column(ROLE_MORE.format(FIRST))
    actor1_type3_code: str | None = column(ROLE_MORE.format(FIRST))
    actor2_code: str | None = column(CAMEO_CODE.format(SECOND))
    actor2_name: str | None = column(NAME.format(SECOND))
    actor2_country_code: str | None = column(COUNTRY.format(SECOND))
    actor2_known_group_code: str | None = column(GROUP.format(SECOND))
    actor2_ethnic_code: str | None = column(ETHNIC.format(SECOND))
    actor2_religion1_code: str | None = column(RELIGION.format(SECOND))
    actor2_religion2_code: str | None = column(RELIGION_MORE)
    actor2_type1_code: str | None = column(ROLE.format(SECOND))
    actor2_type2_code: str | None = column(ROLE_MORE.format(SECOND))
    actor2_type3_code: str | None = column(ROLE_MORE.format(SECOND))
    is_root_event: int | None = column("Whether the event is in the lead of its report: 1 yes, 0 no", ge=0, le=1)
    event_code: str | None = column(EVENT_CODE)
    event_base_code: str | None = column(BASE_CODE)
    event_root_code: str | None = column(ROOT_CODE)
    quad_class: int | None = column(
        "Kind of the event: 1 cooperation in words, 2 in deeds, 3 conflict in words, 4 in deeds", ge=1, le=4
    )
    goldstein_scale: float | None = column(
        "What events with this code do to the stability of a country, on the scale of Goldstein: -10 worst, 10 best",
        ge=-10,
        le=10,
    )
    num_mentions: int | None = column(SEEN.format("Mentions of the event"), unit="mentions", ge=0)
    num_sources: int | None = column(SEEN.format("Sources that mention the event"), unit="sources", ge=0)
    num_articles: int | None = column(SEEN.format("Documents that mention the event"), unit="documents", ge=0)
    avg_tone: float | None = column(
        "Mean tone of these documents, below 0 where it is negative: -100 to 100, mostly within 10 of 0"
    )
    actor1_geo_type: int | None = column(GEO_TYPE.format(FIRST), ge=0, le=5)
    actor1_geo_full_name: str | None = column(GEO_NAME.format(FIRST))
    actor1_geo_country_code: str | None = column(GEO_COUNTRY.format(FIRST))
    actor1_geo_adm1_code: str | None = column(GEO_ADM1.format(FIRST))
    actor1_geo_adm2_code: str | None = column(GEO_ADM2.format(FIRST))
    actor1_geo_lat: float | None = column(GEO_LAT.format(FIRST), unit="°", ge=-90, le=90)
    actor1_geo_long: float | None = column(GEO_LONG.format(FIRST), unit="°", ge=-180, le=180)
    actor1_geo_feature_id: str | None = column(GEO_FEATURE.format(FIRST))
    actor2_geo_type: int | None = column(GEO_TYPE.format(SECOND), ge=0, le=5)
    actor2_geo_full_name: str | None = column(GEO_NAME.format(SECOND))
    actor2_geo_country_code: str | None = column(GEO_COUNTRY.format(SECOND))
    actor2_geo_adm1_code: str | None = column(GEO_ADM1.format(SECOND))
    actor2_geo_adm2_code: str | None = column(GEO_ADM2.format(SECOND))
    actor2_geo_lat: float | None = column(GEO_LAT.format(SECOND), unit="°", ge=-90, le=90)
    actor2_geo_long: float | None = column(GEO_LONG.format(SECOND), unit="°", ge=-180, le=180)
    actor2_geo_feature_id: str | None = column(GEO_FEATURE.format(SECOND))
    action_geo_type: int | None = column(GEO_TYPE.format(ACTION), ge=0, le=5)
    action_geo_full_name: str | None = column(GEO_NAME.format(ACTION))
    action_geo_country_code: str | None = column(GEO_COUNTRY.format(ACTION))
    action_geo_adm1_code: str | None = column(GEO_ADM1.format(ACTION))
    action_geo_adm2_code: str | None = column(GEO_ADM2.format(ACTION))
    action_geo_lat: float | None = column(GEO_LAT.format(ACTION), unit="°", ge=-90, le=90)
    action_geo_long: float | None = column(GEO_LONG.format(ACTION), unit="°", ge=-180, le=180)
    action_geo_feature_id: str | None = column(GEO_FEATURE.format(ACTION))
    date_added: Timestamp = column(DATE_ADDED)
    source_url: str | None = column(SOURCE_URL)

    class Config:
        table = "events.raw_events"
        store = "parquet"
        key = ("file_interval", "global_event_id")
        partition_by = "file_interval"
        # The feed has stood still for days on end; which intervals it never brought is in the manifest of intervals.
        may_be_empty = True


class UsEventData(Contract):
    """Events in the United States by the rule that is set, each once."""

    file_interval: Timestamp = column(INTERVAL)
    global_event_id: int = column(EVENT_ID)
    sql_date: Date = column(SQL_DATE)
    event_code: str | None = column(EVENT_CODE)
    event_base_code: str | None = column(BASE_CODE)
    event_root_code: str | None = column(ROOT_CODE)
    event_root_name: str | None = column(
        "Name of that class in CAMEO; NULL where the root code is unknown, which is flagged"
    )
    action_geo_full_name: str | None = column(GEO_NAME.format(ACTION))
    action_geo_country_code: str | None = column(GEO_COUNTRY.format(ACTION))
    action_geo_lat: float | None = column(GEO_LAT.format(ACTION), unit="°", ge=-90, le=90)
    action_geo_long: float | None = column(GEO_LONG.format(ACTION), unit="°", ge=-180, le=180)
    date_added: Timestamp = column(DATE_ADDED)
    source_url: str | None = column(SOURCE_URL)
    upload_date: Timestamp = column("When the row was stored first as it is; stays as long as the row says the same")
    flags: str = column(
        "What is to be known of the event, separated by `;`, empty for nothing: "
        + "; ".join(f"{name}: {meaning}" for name, meaning in FLAGS.items())
    )

    class Config:
        table = "events.us_event_data"
        key = ("global_event_id",)
        partition_by = "file_interval"
        indexes = (("file_interval",), ("date_added", "global_event_id"))
        first_stored = ("upload_date",)
        # At night a file may well have no event that the rule lets through.
        may_be_empty = True


class Intervals(Contract):
    """The manifest of the feed's intervals: one row per interval that was asked for or is known to be due, with its outcome."""

    interval: Timestamp = column("Begin of the fifteen minutes; the name of the file")
    state: str = column(
        "missing: the feed may still bring it; fetched: its rows are in raw_events; loaded: its US events are stored too;"
        " absent: the feed did not bring it in time; refused: its file cannot be taken, see the reason",
        isin=("missing", "fetched", "loaded", "absent", "refused"),
    )
    size: int | None = column("Size of the archive that the rows are from", unit="B", ge=0)
    md5: str | None = column("MD5 of that archive in hexadecimal digits: tells a republished file from the one we have")
    refused_md5: str | None = column("MD5, as the feed says it, of the last archive that could not be taken")
    rows_raw: int | None = column("Rows of the file in raw_events", unit="rows", ge=0)
    rows_us: int | None = column("Rows of the file in us_event_data", unit="rows", ge=0)
    rows_repeated: int | None = column(
        "US events of the file that are in us_event_data with another interval, which brought them before",
        unit="rows",
        ge=0,
    )
    attempts: int = column("How often the feed was asked for the file", unit="attempts", ge=0)
    first_asked_at: Timestamp | None = column("When the feed was first asked for the file; NULL before that")
    last_asked_at: Timestamp | None = column("When the feed was last asked for the file")
    loaded_at: Timestamp | None = column("When the interval was loaded last")
    reason: str | None = column("Why the interval is in its state, for people; NULL where nothing is wrong")
    accepted: str | None = column(
        "Why a person has accepted that the file, or its newest version, is not to be had; NULL where nobody has, and again when another file comes"
    )

    class Config:
        table = "events.intervals"
        key = ("interval",)
        indexes = (("state", "interval"),)
        first_stored = ("loaded_at",)
        may_be_empty = True


CONTRACTS = (RawEvents, UsEventData, Intervals)

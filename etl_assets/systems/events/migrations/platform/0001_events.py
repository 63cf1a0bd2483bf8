"""The tables of the events system."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0005"}


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS events")
    op.create_table(
        "intervals",
        sa.Column(
            "interval",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="Begin of the fifteen minutes; the name of the file",
        ),
        sa.Column(
            "state",
            sa.Text(collation="C"),
            nullable=False,
            comment="missing: the feed may still bring it; fetched: its rows are in raw_events; loaded: its US events are stored too; absent: the feed did not bring it in time; refused: its file cannot be taken, see the reason",
        ),
        sa.Column("size", sa.BigInteger(), nullable=True, comment="Size of the archive that the rows are from [B]"),
        sa.Column(
            "md5",
            sa.Text(collation="C"),
            nullable=True,
            comment="MD5 of that archive in hexadecimal digits: tells a republished file from the one we have",
        ),
        sa.Column(
            "refused_md5",
            sa.Text(collation="C"),
            nullable=True,
            comment="MD5, as the feed says it, of the last archive that could not be taken",
        ),
        sa.Column("rows_raw", sa.BigInteger(), nullable=True, comment="Rows of the file in raw_events [rows]"),
        sa.Column("rows_us", sa.BigInteger(), nullable=True, comment="Rows of the file in us_event_data [rows]"),
        sa.Column(
            "rows_repeated",
            sa.BigInteger(),
            nullable=True,
            comment="US events of the file that are in us_event_data with another interval, which brought them before [rows]",
        ),
        sa.Column(
            "attempts", sa.BigInteger(), nullable=False, comment="How often the feed was asked for the file [attempts]"
        ),
        sa.Column(
            "first_asked_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the feed was first asked for the file; NULL before that",
        ),
        sa.Column(
            "last_asked_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the feed was last asked for the file",
        ),
        sa.Column(
            "loaded_at",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="When the rows that are stored now were stored",
        ),
        sa.Column(
            "reason",
            sa.Text(collation="C"),
            nullable=True,
            comment="Why the interval is in its state, for people; NULL where nothing is wrong",
        ),
        sa.CheckConstraint('"attempts" >= 0', name="intervals_attempts_ge"),
        sa.CheckConstraint('"rows_raw" >= 0', name="intervals_rows_raw_ge"),
        sa.CheckConstraint('"rows_repeated" >= 0', name="intervals_rows_repeated_ge"),
        sa.CheckConstraint('"rows_us" >= 0', name="intervals_rows_us_ge"),
        sa.CheckConstraint('"size" >= 0', name="intervals_size_ge"),
        sa.CheckConstraint(
            "\"state\" IN ('missing', 'fetched', 'loaded', 'absent', 'refused')", name="intervals_state_isin"
        ),
        sa.PrimaryKeyConstraint("interval", name="intervals_pkey"),
        schema="events",
        comment="The book of the feed's intervals: one row per interval that was asked for or is known to be due, with its outcome.",
    )
    op.create_index("intervals_state_interval_idx", "intervals", ["state", "interval"], unique=False, schema="events")
    op.create_table(
        "us_event_data",
        sa.Column(
            "file_interval",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="Begin of the fifteen minutes that the file of the event is named by",
        ),
        sa.Column("global_event_id", sa.BigInteger(), nullable=False, comment="Event, as the feed numbers it"),
        sa.Column(
            "sql_date",
            sa.Date(),
            nullable=False,
            comment="Day on which the event took place, as far as the feed can tell; often before the day it was added",
        ),
        sa.Column(
            "event_code",
            sa.Text(collation="C"),
            nullable=True,
            comment="CAMEO code of what was done, like `043` or `0231`; text, its zeros count",
        ),
        sa.Column(
            "event_base_code",
            sa.Text(collation="C"),
            nullable=True,
            comment="Class of the code at the second level of CAMEO; the code itself where there is none below it",
        ),
        sa.Column(
            "event_root_code",
            sa.Text(collation="C"),
            nullable=True,
            comment="Class of the code at the first level of CAMEO, `01` to `20`",
        ),
        sa.Column(
            "event_root_name",
            sa.Text(collation="C"),
            nullable=True,
            comment="Name of that class in CAMEO; NULL where the root code is unknown, which is flagged",
        ),
        sa.Column(
            "action_geo_full_name",
            sa.Text(collation="C"),
            nullable=True,
            comment="Place of the event in words, from the small to the large, spelt as its report spells it",
        ),
        sa.Column(
            "action_geo_country_code",
            sa.Text(collation="C"),
            nullable=True,
            comment="Country of the place of the event, FIPS 10-4 code: `GM` is Germany, `RQ` Puerto Rico",
        ),
        sa.Column(
            "action_geo_lat", sa.Double(), nullable=True, comment="Latitude of the middle of the place of the event [°]"
        ),
        sa.Column(
            "action_geo_long",
            sa.Double(),
            nullable=True,
            comment="Longitude of the middle of the place of the event [°]",
        ),
        sa.Column(
            "date_added",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="Instant at which the feed added the event",
        ),
        sa.Column(
            "source_url",
            sa.Text(collation="C"),
            nullable=True,
            comment="First report in which the event was found: an address, or the name of a source",
        ),
        sa.Column(
            "upload_date",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the row was stored first as it is; stays as long as the row says the same",
        ),
        sa.Column(
            "flags",
            sa.Text(collation="C"),
            nullable=False,
            comment="What is to be known of the event, separated by `;`, empty for nothing: unknown_root_code: its root code is none of CAMEO's twenty, or missing; no_coordinates: latitude or longitude is missing; null_island: it lies at latitude 0, longitude 0, where the gazetteer has no better",
        ),
        sa.CheckConstraint('"action_geo_lat" <= 90', name="us_event_data_action_geo_lat_le"),
        sa.CheckConstraint(
            "\"action_geo_lat\" > '-Infinity' AND \"action_geo_lat\" < 'Infinity'",
            name="us_event_data_action_geo_lat_finite",
        ),
        sa.CheckConstraint('"action_geo_lat" >= -90', name="us_event_data_action_geo_lat_ge"),
        sa.CheckConstraint('"action_geo_long" <= 180', name="us_event_data_action_geo_long_le"),
        sa.CheckConstraint(
            "\"action_geo_long\" > '-Infinity' AND \"action_geo_long\" < 'Infinity'",
            name="us_event_data_action_geo_long_finite",
        ),
        sa.CheckConstraint('"action_geo_long" >= -180', name="us_event_data_action_geo_long_ge"),
        sa.PrimaryKeyConstraint("global_event_id", name="us_event_data_pkey"),
        schema="events",
        comment="Events in the United States by the rule that is set, each once.",
    )
    op.create_index(
        "us_event_data_date_added_global_event_id_idx",
        "us_event_data",
        ["date_added", "global_event_id"],
        unique=False,
        schema="events",
    )
    op.create_index(
        "us_event_data_file_interval_idx", "us_event_data", ["file_interval"], unique=False, schema="events"
    )

"""The tables of the outages system."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0002"}


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS outages")
    op.create_table(
        "delivered_site_outages",
        sa.Column(
            "delivery_key", sa.Text(collation="C"), nullable=False, comment="Hash of site, device, begin, end and name"
        ),
        sa.Column("site_id", sa.Text(collation="C"), nullable=False, comment="Site that the outage was reported for"),
        sa.Column(
            "device_id", sa.Text(collation="C"), nullable=False, comment="Device of the site, as the API names it"
        ),
        sa.Column("name", sa.Text(collation="C"), nullable=False, comment="Name of the device, as delivered"),
        sa.Column(
            "begin_text", sa.Text(collation="C"), nullable=False, comment="Begin of the outage, the text as delivered"
        ),
        sa.Column(
            "end_text", sa.Text(collation="C"), nullable=False, comment="End of the outage, the text as delivered"
        ),
        sa.Column(
            "batch_key",
            sa.Text(collation="C"),
            nullable=False,
            comment="Batch in which the outage went out: the Idempotency-Key of its POST",
        ),
        sa.Column(
            "delivered_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the acknowledgement was recorded"
        ),
        sa.CheckConstraint("char_length(delivery_key) <= 64", name="delivered_site_outages_delivery_key_max_length"),
        sa.CheckConstraint("char_length(delivery_key) >= 64", name="delivered_site_outages_delivery_key_min_length"),
        sa.CheckConstraint("char_length(device_id) >= 1", name="delivered_site_outages_device_id_min_length"),
        sa.CheckConstraint("char_length(site_id) >= 1", name="delivered_site_outages_site_id_min_length"),
        sa.PrimaryKeyConstraint("delivery_key", name="delivered_site_outages_pkey"),
        schema="outages",
        comment="Outages that the API has acknowledged, each exactly once.",
    )
    op.create_table(
        "delivery_batches",
        sa.Column(
            "batch_key",
            sa.Text(collation="C"),
            nullable=False,
            comment="Hash of the delivery keys in their order: the Idempotency-Key of the POST",
        ),
        sa.Column("site_id", sa.Text(collation="C"), nullable=False, comment="Site that the batch is for"),
        sa.Column("body", sa.Text(collation="C"), nullable=False, comment="The payload, exactly as it is sent"),
        sa.Column("outages", sa.BigInteger(), nullable=False, comment="Outages in the batch [rows]"),
        sa.Column(
            "state",
            sa.Text(collation="C"),
            nullable=False,
            comment="frozen: to be sent; delivered: acknowledged; refused: not taken, its outages are free again; disputed: somebody must say whether it was taken",
        ),
        sa.Column(
            "attempts", sa.BigInteger(), nullable=False, comment="How often the batch was handed to the client to send"
        ),
        sa.Column(
            "may_have_arrived",
            sa.Boolean(),
            nullable=False,
            comment="Whether an attempt ended without an answer that rules out its effect",
        ),
        sa.Column("http_status", sa.BigInteger(), nullable=True, comment="Status of the last answer"),
        sa.Column("response", sa.Text(collation="C"), nullable=True, comment="Text of the last answer, or the failure"),
        sa.Column("frozen_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the batch was frozen"),
        sa.Column(
            "settled_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it was known what became of it"
        ),
        sa.CheckConstraint(
            "state IN ('frozen', 'delivered', 'refused', 'disputed')", name="delivery_batches_state_isin"
        ),
        sa.CheckConstraint("attempts >= 0", name="delivery_batches_attempts_ge"),
        sa.CheckConstraint("outages >= 1", name="delivery_batches_outages_ge"),
        sa.PrimaryKeyConstraint("batch_key", name="delivery_batches_pkey"),
        schema="outages",
        comment="The outbox: payloads frozen for one POST each, with what became of them.",
    )
    op.create_table(
        "site_devices",
        sa.Column("site_id", sa.Text(collation="C"), nullable=False, comment="Site that the device belongs to"),
        sa.Column(
            "device_id", sa.Text(collation="C"), nullable=False, comment="Device of the site, as the API names it"
        ),
        sa.Column("device_name", sa.Text(collation="C"), nullable=False, comment="Name of the device"),
        sa.CheckConstraint("char_length(device_id) >= 1", name="site_devices_device_id_min_length"),
        sa.CheckConstraint("char_length(site_id) >= 1", name="site_devices_site_id_min_length"),
        sa.PrimaryKeyConstraint("site_id", "device_id", name="site_devices_pkey"),
        schema="outages",
        comment="Devices of a site, with the names under which outages are reported.",
    )
    op.create_table(
        "site_outages",
        sa.Column("site_id", sa.Text(collation="C"), nullable=False, comment="Site that the outage is reported for"),
        sa.Column(
            "device_id", sa.Text(collation="C"), nullable=False, comment="Device of the site, as the API names it"
        ),
        sa.Column("name", sa.Text(collation="C"), nullable=False, comment="Name of the device"),
        sa.Column(
            "begin_text",
            sa.Text(collation="C"),
            nullable=False,
            comment="Begin of the outage, the text exactly as received",
        ),
        sa.Column(
            "end_text",
            sa.Text(collation="C"),
            nullable=False,
            comment="End of the outage, the text exactly as received",
        ),
        sa.Column("begin_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="Begin of the outage"),
        sa.Column("end_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="End of the outage"),
        sa.Column(
            "position",
            sa.BigInteger(),
            nullable=False,
            comment="Place in the answer of the API, from 0: the order of delivery",
        ),
        sa.Column(
            "delivery_key",
            sa.Text(collation="C"),
            nullable=False,
            comment="Hash of site, device, begin, end and name: what is delivered once",
        ),
        sa.CheckConstraint("char_length(delivery_key) <= 64", name="site_outages_delivery_key_max_length"),
        sa.CheckConstraint("char_length(delivery_key) >= 64", name="site_outages_delivery_key_min_length"),
        sa.CheckConstraint("char_length(device_id) >= 1", name="site_outages_device_id_min_length"),
        sa.CheckConstraint("char_length(site_id) >= 1", name="site_outages_site_id_min_length"),
        sa.CheckConstraint("position >= 0", name="site_outages_position_ge"),
        sa.PrimaryKeyConstraint("site_id", "device_id", "begin_text", "end_text", name="site_outages_pkey"),
        schema="outages",
        comment="Outages of a site's own devices that began at or after the cut-off, with device names: what is to be delivered.",
    )
    op.create_index(
        "delivered_site_outages_site_id_delivered_at_idx",
        "delivered_site_outages",
        ["site_id", "delivered_at"],
        unique=False,
        schema="outages",
    )
    op.create_index(
        "delivery_batches_site_id_state_idx", "delivery_batches", ["site_id", "state"], unique=False, schema="outages"
    )

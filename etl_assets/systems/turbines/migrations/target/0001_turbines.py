"""The tables and the view of the turbines in their target database."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"target": "0001"}


def upgrade() -> None:
    op.create_table(
        "bin",
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=False, comment="Begin of the bin of ten minutes"),
        sa.Column(
            "turbine",
            sa.Text(collation="C"),
            nullable=False,
            comment="Turbine, as the source names it; empty for the only one of a source that knows none",
        ),
        sa.Column(
            "source_signal", sa.Text(collation="C"), nullable=False, comment="Signal of the source, like `wind_speed`"
        ),
        sa.Column("n", sa.BigInteger(), nullable=False, comment="Samples with a value [samples]"),
        sa.Column("coverage", sa.Double(), nullable=False, comment="Share of the ten minutes that have a sample [1]"),
        sa.Column(
            "flags",
            sa.Text(collation="C"),
            nullable=False,
            comment="What is to be known of the samples, separated by `;`: gap, duplicate, out_of_range, frozen, spike, low_coverage; empty for nothing",
        ),
        sa.CheckConstraint('"coverage" > 0', name="bin_coverage_gt"),
        sa.CheckConstraint("\"coverage\" > '-Infinity' AND \"coverage\" < 'Infinity'", name="bin_coverage_finite"),
        sa.CheckConstraint('"n" >= 1', name="bin_n_ge"),
        sa.CheckConstraint('char_length("source_signal") >= 1', name="bin_source_signal_min_length"),
        sa.PrimaryKeyConstraint("timestamp", "turbine", "source_signal", name="bin_pkey"),
        schema="public",
        comment="What the statistics of a bin are made of: one row per bin of ten minutes, turbine and source signal.",
    )
    op.create_table(
        "data",
        sa.Column("timestamp", sa.TIMESTAMP(timezone=True), nullable=False, comment="Begin of the bin of ten minutes"),
        sa.Column("signal_id", sa.BigInteger(), nullable=False, comment="Signal, the id of table signal"),
        sa.Column(
            "value",
            sa.Double(),
            nullable=True,
            comment="Mean, least, greatest, or sample standard deviation (ddof 1) of the samples in the bin, in the unit of the source signal; NULL where it is not defined: the deviation of one sample",
        ),
        sa.CheckConstraint('"signal_id" >= 1', name="data_signal_id_ge"),
        sa.CheckConstraint("\"value\" > '-Infinity' AND \"value\" < 'Infinity'", name="data_value_finite"),
        sa.PrimaryKeyConstraint("timestamp", "signal_id", name="data_pkey"),
        schema="public",
        comment="The statistics: one row per bin of ten minutes and signal.",
    )
    op.create_table(
        "signal",
        sa.Column("id", sa.BigInteger(), nullable=False, comment="Identity of the signal in this database"),
        sa.Column(
            "name",
            sa.Text(collation="C"),
            nullable=False,
            comment="Source signal and statistic, like `wind_speed_mean`",
        ),
        sa.Column(
            "turbine",
            sa.Text(collation="C"),
            nullable=False,
            comment="Turbine, as the source names it; empty for the only one of a source that knows none",
        ),
        sa.CheckConstraint('"id" >= 1', name="signal_id_ge"),
        sa.CheckConstraint('char_length("name") >= 1', name="signal_name_min_length"),
        sa.PrimaryKeyConstraint("id", name="signal_pkey"),
        schema="public",
        comment="The signals that statistics are kept of: one row per turbine, source signal and statistic.",
    )

    op.execute(
        """
        CREATE VIEW public.ten_minute AS
        SELECT b.timestamp, b.turbine, b.source_signal,
               max(d.value) FILTER (WHERE s.name = b.source_signal || '_mean') AS mean,
               max(d.value) FILTER (WHERE s.name = b.source_signal || '_min') AS min,
               max(d.value) FILTER (WHERE s.name = b.source_signal || '_max') AS max,
               max(d.value) FILTER (WHERE s.name = b.source_signal || '_std') AS std,
               b.n, b.coverage, b.flags
        FROM public.bin AS b
        JOIN public.signal AS s ON s.turbine = b.turbine AND starts_with(s.name, b.source_signal || '_')
        LEFT JOIN public.data AS d ON d.timestamp = b.timestamp AND d.signal_id = s.id
        GROUP BY b.timestamp, b.turbine, b.source_signal, b.n, b.coverage, b.flags
        """
    )
    op.execute("COMMENT ON VIEW public.ten_minute IS 'One row per bin of ten minutes, turbine and source signal'")

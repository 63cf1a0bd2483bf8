"""The tables of the production system."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0003"}


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS production")
    op.create_table(
        "aligned_work_orders",
        sa.Column("product_id", sa.BigInteger(), nullable=False, comment="Product, the id as received"),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the work order ended"),
        sa.Column("parameter_id", sa.BigInteger(), nullable=False, comment="Machine parameter, the id as received"),
        sa.Column(
            "started_at",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When the previous work order of the product ended",
        ),
        sa.Column("production", sa.Double(), nullable=True, comment="Output as recorded"),
        sa.Column(
            "output",
            sa.Double(),
            nullable=True,
            comment="Output of this work order: the increment where `production` is a running counter, else `production` itself",
        ),
        sa.Column(
            "value",
            sa.Double(),
            nullable=True,
            comment="Time-weighted mean of the parameter from start to end; NULL where readings cover too little of it",
        ),
        sa.Column(
            "coverage",
            sa.Double(),
            nullable=False,
            comment="Share of the interval for which there is a reading that is not too old",
        ),
        sa.CheckConstraint('"coverage" <= 1', name="aligned_work_orders_coverage_le"),
        sa.CheckConstraint(
            "\"coverage\" > '-Infinity' AND \"coverage\" < 'Infinity'", name="aligned_work_orders_coverage_finite"
        ),
        sa.CheckConstraint('"coverage" >= 0', name="aligned_work_orders_coverage_ge"),
        sa.CheckConstraint(
            "\"output\" > '-Infinity' AND \"output\" < 'Infinity'", name="aligned_work_orders_output_finite"
        ),
        sa.CheckConstraint('"parameter_id" >= 0', name="aligned_work_orders_parameter_id_ge"),
        sa.CheckConstraint('"product_id" >= 0', name="aligned_work_orders_product_id_ge"),
        sa.CheckConstraint(
            "\"production\" > '-Infinity' AND \"production\" < 'Infinity'", name="aligned_work_orders_production_finite"
        ),
        sa.CheckConstraint(
            "\"value\" > '-Infinity' AND \"value\" < 'Infinity'", name="aligned_work_orders_value_finite"
        ),
        sa.PrimaryKeyConstraint("product_id", "completed_at", "parameter_id", name="aligned_work_orders_pkey"),
        schema="production",
        comment="What each machine parameter was while a work order ran: its time-weighted mean, one row per work order and parameter. A work order runs from the previous one of its product to its own end; the first of a product has no such interval.",
    )
    op.create_table(
        "metrics",
        sa.Column("parameter_id", sa.BigInteger(), nullable=False, comment="Machine parameter, the id as received"),
        sa.Column("measured_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="Instant of the reading"),
        sa.Column(
            "value",
            sa.Double(),
            nullable=True,
            comment="Reading, in the parameter's own unit; NULL where the source said that it is no number",
        ),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="Place in the stream, from 1"),
        sa.CheckConstraint('"parameter_id" >= 0', name="metrics_parameter_id_ge"),
        sa.CheckConstraint('"sequence" >= 1', name="metrics_sequence_ge"),
        sa.CheckConstraint("\"value\" > '-Infinity' AND \"value\" < 'Infinity'", name="metrics_value_finite"),
        sa.PrimaryKeyConstraint("parameter_id", "measured_at", name="metrics_pkey"),
        schema="production",
        comment="Readings of machine parameters, one row per parameter and instant; of several the one that arrived last.",
    )
    op.create_table(
        "product_correlations",
        sa.Column("product_id", sa.BigInteger(), nullable=False, comment="Product, the id as received"),
        sa.Column(
            "reading",
            sa.Text(collation="C"),
            nullable=False,
            comment="as_recorded: the output as the source has it; per_work_order: what each work order added",
        ),
        sa.Column("parameter_id", sa.BigInteger(), nullable=False, comment="Machine parameter, the id as received"),
        sa.Column(
            "rank",
            sa.BigInteger(),
            nullable=False,
            comment="Place by |r| within product and reading, from 1; those without r come last",
        ),
        sa.Column("r", sa.Double(), nullable=True, comment="Pearson's correlation over the work orders"),
        sa.Column(
            "ci_low",
            sa.Double(),
            nullable=True,
            comment="Lower end of the 95 % interval of r, which respects dependence in time",
        ),
        sa.Column("ci_high", sa.Double(), nullable=True, comment="Upper end of that interval"),
        sa.Column("rho", sa.Double(), nullable=True, comment="Spearman's rank correlation"),
        sa.Column(
            "n", sa.BigInteger(), nullable=False, comment="Work orders with an output and enough readings [rows]"
        ),
        sa.Column(
            "n_effective", sa.Double(), nullable=True, comment="Independent work orders that carry as much information"
        ),
        sa.Column(
            "coverage", sa.Double(), nullable=False, comment="Mean share of the work orders' time that readings cover"
        ),
        sa.Column(
            "p",
            sa.Double(),
            nullable=True,
            comment="Probability of at least such a correlation without a relation, by surrogates of the treated series",
        ),
        sa.Column(
            "q", sa.Double(), nullable=True, comment="p corrected for the number of parameters (false discovery rate)"
        ),
        sa.Column(
            "stability",
            sa.Double(),
            nullable=True,
            comment="Probability of being among the first three, by block bootstrap",
        ),
        sa.Column(
            "tie_group",
            sa.BigInteger(),
            nullable=True,
            comment="Parameters whose |r| cannot be told apart have the same number",
        ),
        sa.Column("verdict", sa.Text(collation="C"), nullable=False, comment="What can be said, the first that holds"),
        sa.Column(
            "p_naive", sa.Double(), nullable=True, comment="p of Pearson's r as if the work orders were independent"
        ),
        sa.Column("r_treated", sa.Double(), nullable=True, comment="r after the treatment, on which p rests"),
        sa.Column("dependence", sa.Text(collation="C"), nullable=True, comment="What the parameter is in time"),
        sa.Column("output_dependence", sa.Text(collation="C"), nullable=True, comment="What the output is in time"),
        sa.Column(
            "treatment",
            sa.Text(collation="C"),
            nullable=True,
            comment="What the relation had to outlast before p was computed",
        ),
        sa.CheckConstraint('"ci_high" <= 1', name="product_correlations_ci_high_le"),
        sa.CheckConstraint(
            "\"ci_high\" > '-Infinity' AND \"ci_high\" < 'Infinity'", name="product_correlations_ci_high_finite"
        ),
        sa.CheckConstraint('"ci_high" >= -1', name="product_correlations_ci_high_ge"),
        sa.CheckConstraint('"ci_low" <= 1', name="product_correlations_ci_low_le"),
        sa.CheckConstraint(
            "\"ci_low\" > '-Infinity' AND \"ci_low\" < 'Infinity'", name="product_correlations_ci_low_finite"
        ),
        sa.CheckConstraint('"ci_low" >= -1', name="product_correlations_ci_low_ge"),
        sa.CheckConstraint('"coverage" <= 1', name="product_correlations_coverage_le"),
        sa.CheckConstraint(
            "\"coverage\" > '-Infinity' AND \"coverage\" < 'Infinity'", name="product_correlations_coverage_finite"
        ),
        sa.CheckConstraint('"coverage" >= 0', name="product_correlations_coverage_ge"),
        sa.CheckConstraint(
            "\"dependence\" IN ('independent', 'autoregressive', 'trend', 'unit root')",
            name="product_correlations_dependence_isin",
        ),
        sa.CheckConstraint('"n" >= 0', name="product_correlations_n_ge"),
        sa.CheckConstraint(
            "\"n_effective\" > '-Infinity' AND \"n_effective\" < 'Infinity'",
            name="product_correlations_n_effective_finite",
        ),
        sa.CheckConstraint('"n_effective" >= 0', name="product_correlations_n_effective_ge"),
        sa.CheckConstraint(
            "\"output_dependence\" IN ('independent', 'autoregressive', 'trend', 'unit root')",
            name="product_correlations_output_dependence_isin",
        ),
        sa.CheckConstraint('"p" <= 1', name="product_correlations_p_le"),
        sa.CheckConstraint("\"p\" > '-Infinity' AND \"p\" < 'Infinity'", name="product_correlations_p_finite"),
        sa.CheckConstraint('"p" >= 0', name="product_correlations_p_ge"),
        sa.CheckConstraint('"p_naive" <= 1', name="product_correlations_p_naive_le"),
        sa.CheckConstraint(
            "\"p_naive\" > '-Infinity' AND \"p_naive\" < 'Infinity'", name="product_correlations_p_naive_finite"
        ),
        sa.CheckConstraint('"p_naive" >= 0', name="product_correlations_p_naive_ge"),
        sa.CheckConstraint('"parameter_id" >= 0', name="product_correlations_parameter_id_ge"),
        sa.CheckConstraint('"product_id" >= 0', name="product_correlations_product_id_ge"),
        sa.CheckConstraint('"q" <= 1', name="product_correlations_q_le"),
        sa.CheckConstraint("\"q\" > '-Infinity' AND \"q\" < 'Infinity'", name="product_correlations_q_finite"),
        sa.CheckConstraint('"q" >= 0', name="product_correlations_q_ge"),
        sa.CheckConstraint('"r" <= 1', name="product_correlations_r_le"),
        sa.CheckConstraint("\"r\" > '-Infinity' AND \"r\" < 'Infinity'", name="product_correlations_r_finite"),
        sa.CheckConstraint('"r" >= -1', name="product_correlations_r_ge"),
        sa.CheckConstraint('"r_treated" <= 1', name="product_correlations_r_treated_le"),
        sa.CheckConstraint(
            "\"r_treated\" > '-Infinity' AND \"r_treated\" < 'Infinity'", name="product_correlations_r_treated_finite"
        ),
        sa.CheckConstraint('"r_treated" >= -1', name="product_correlations_r_treated_ge"),
        sa.CheckConstraint('"rank" >= 1', name="product_correlations_rank_ge"),
        sa.CheckConstraint(
            "\"reading\" IN ('as_recorded', 'per_work_order')", name="product_correlations_reading_isin"
        ),
        sa.CheckConstraint('"rho" <= 1', name="product_correlations_rho_le"),
        sa.CheckConstraint("\"rho\" > '-Infinity' AND \"rho\" < 'Infinity'", name="product_correlations_rho_finite"),
        sa.CheckConstraint('"rho" >= -1', name="product_correlations_rho_ge"),
        sa.CheckConstraint('"stability" <= 1', name="product_correlations_stability_le"),
        sa.CheckConstraint(
            "\"stability\" > '-Infinity' AND \"stability\" < 'Infinity'", name="product_correlations_stability_finite"
        ),
        sa.CheckConstraint('"stability" >= 0', name="product_correlations_stability_ge"),
        sa.CheckConstraint('"tie_group" >= 1', name="product_correlations_tie_group_ge"),
        sa.CheckConstraint(
            "\"treatment\" IN ('detrended', 'detrended and differenced')", name="product_correlations_treatment_isin"
        ),
        sa.CheckConstraint(
            "\"verdict\" IN ('insufficient data', 'constant', 'low coverage', 'shared trend', 'not significant', 'supported')",
            name="product_correlations_verdict_isin",
        ),
        sa.PrimaryKeyConstraint("product_id", "reading", "parameter_id", name="product_correlations_pkey"),
        schema="production",
        comment="How each machine parameter goes with the output of each product, and what that is worth; all parameters ranked by |r|.",
    )
    op.create_table(
        "workorders",
        sa.Column("product_id", sa.BigInteger(), nullable=False, comment="Product, the id as received"),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=False, comment="When the work order ended"),
        sa.Column(
            "production",
            sa.Double(),
            nullable=True,
            comment="Output as recorded, which may be a running counter; NULL where the source said that it is no number",
        ),
        sa.Column("sequence", sa.BigInteger(), nullable=False, comment="Place in the stream, from 1"),
        sa.CheckConstraint('"product_id" >= 0', name="workorders_product_id_ge"),
        sa.CheckConstraint(
            "\"production\" > '-Infinity' AND \"production\" < 'Infinity'", name="workorders_production_finite"
        ),
        sa.CheckConstraint('"sequence" >= 1', name="workorders_sequence_ge"),
        sa.PrimaryKeyConstraint("product_id", "completed_at", name="workorders_pkey"),
        schema="production",
        comment="Work orders as they were completed, one row per product and instant; of several the one that arrived last.",
    )

"""The tables of the experiments system."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
# The revision of the histories before this one in which the same was done.
replaces = {"platform": "0004"}


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS experiments")
    op.create_table(
        "compounds",
        sa.Column("compound_id", sa.BigInteger(), nullable=False, comment="Compound, the id of compounds.csv"),
        sa.Column("compound_name", sa.Text(collation="C"), nullable=True, comment="Name of the compound"),
        sa.Column(
            "compound_structure",
            sa.Text(collation="C"),
            nullable=True,
            comment="Formula of the compound, as it was given",
        ),
        sa.PrimaryKeyConstraint("compound_id", name="compounds_pkey"),
        schema="experiments",
        comment="Chemical compounds, as compounds.csv has them: one row per compound.",
    )
    op.create_table(
        "experiment_compounds",
        sa.Column(
            "experiment_id", sa.BigInteger(), nullable=False, comment="Experiment, the id of user_experiments.csv"
        ),
        sa.Column("compound_id", sa.BigInteger(), nullable=False, comment="Compound, the id of compounds.csv"),
        sa.PrimaryKeyConstraint("experiment_id", "compound_id", name="experiment_compounds_pkey"),
        schema="experiments",
        comment="The compounds of each experiment: one row per experiment and compound, however often the list names it.",
    )
    op.create_table(
        "user_experiments",
        sa.Column(
            "experiment_id", sa.BigInteger(), nullable=False, comment="Experiment, the id of user_experiments.csv"
        ),
        sa.Column("user_id", sa.BigInteger(), nullable=False, comment="User, the id of users.csv"),
        sa.Column(
            "experiment_run_time",
            sa.Double(),
            nullable=False,
            comment="How long the experiment ran, in the unit of the file",
        ),
        sa.CheckConstraint(
            "\"experiment_run_time\" > '-Infinity' AND \"experiment_run_time\" < 'Infinity'",
            name="user_experiments_experiment_run_time_finite",
        ),
        sa.CheckConstraint('"experiment_run_time" >= 0', name="user_experiments_experiment_run_time_ge"),
        sa.PrimaryKeyConstraint("experiment_id", name="user_experiments_pkey"),
        schema="experiments",
        comment="Experiments that a known user ran with known compounds, as user_experiments.csv has them: one row per experiment.",
    )
    op.create_table(
        "user_features",
        sa.Column("user_id", sa.BigInteger(), nullable=False, comment="User, the id of users.csv"),
        sa.Column("as_of", sa.Date(), nullable=False, comment="The day that the features are computed for"),
        sa.Column(
            "experiments_count", sa.BigInteger(), nullable=False, comment="Experiments of the user [experiments]"
        ),
        sa.Column(
            "total_run_time",
            sa.Double(),
            nullable=False,
            comment="Sum of their run times, in the unit of the file; 0 without an experiment",
        ),
        sa.Column(
            "mean_run_time",
            sa.Double(),
            nullable=True,
            comment="Mean of their run times, in the unit of the file; NULL without an experiment",
        ),
        sa.Column(
            "days_since_signup",
            sa.BigInteger(),
            nullable=False,
            comment="Whole days from the sign-up to `as_of`; 0 if it lies after [d]",
        ),
        sa.Column("signup_in_future", sa.Boolean(), nullable=False, comment="Whether the sign-up lies after `as_of`"),
        sa.Column(
            "most_common_compounds",
            sa.Text(collation="C"),
            nullable=True,
            comment="Compounds that occur in most of the user's experiments: all that tie, their ids in order, separated by `;`; NULL without an experiment",
        ),
        sa.Column(
            "most_common_compounds_count",
            sa.BigInteger(),
            nullable=False,
            comment="In how many of the user's experiments each of them occurs [experiments]",
        ),
        sa.CheckConstraint('"days_since_signup" >= 0', name="user_features_days_since_signup_ge"),
        sa.CheckConstraint('"experiments_count" >= 0', name="user_features_experiments_count_ge"),
        sa.CheckConstraint(
            "\"mean_run_time\" > '-Infinity' AND \"mean_run_time\" < 'Infinity'",
            name="user_features_mean_run_time_finite",
        ),
        sa.CheckConstraint('"mean_run_time" >= 0', name="user_features_mean_run_time_ge"),
        sa.CheckConstraint('"most_common_compounds_count" >= 0', name="user_features_most_common_compounds_count_ge"),
        sa.CheckConstraint(
            "\"total_run_time\" > '-Infinity' AND \"total_run_time\" < 'Infinity'",
            name="user_features_total_run_time_finite",
        ),
        sa.CheckConstraint('"total_run_time" >= 0', name="user_features_total_run_time_ge"),
        sa.PrimaryKeyConstraint("as_of", "user_id", name="user_features_pkey"),
        schema="experiments",
        comment="What is known of each user as of a day: one row per user and day, also for users without an experiment.",
    )
    op.create_table(
        "users",
        sa.Column("user_id", sa.BigInteger(), nullable=False, comment="User, the id of users.csv"),
        sa.Column("name", sa.Text(collation="C"), nullable=True, comment="Name of the user"),
        sa.Column("email", sa.Text(collation="C"), nullable=True, comment="Address of the user, as it was given"),
        sa.Column("signup_date", sa.Date(), nullable=False, comment="Day of the sign-up; may lie in the future"),
        sa.PrimaryKeyConstraint("user_id", name="users_pkey"),
        schema="experiments",
        comment="Users who signed up, as users.csv has them: one row per user.",
    )

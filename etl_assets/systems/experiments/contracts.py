"""The tables that the experiments system owns."""

from etl_assets.core.contracts import Contract, Date, column

USER = "User, the id of users.csv"
EXPERIMENT = "Experiment, the id of user_experiments.csv"
COMPOUND = "Compound, the id of compounds.csv"
# What is wrong with a file as a whole breaks nearly all of its rows, and to load the few others would delete what is stored of them;
# of a small file that somebody wrote, more than half may be bad one by one.
MAX_REJECTED = 0.8


class Users(Contract):
    """Users who signed up, as users.csv has them: one row per user."""

    user_id: int = column(USER)
    name: str | None = column("Name of the user")
    email: str | None = column("Address of the user, as it was given")
    signup_date: Date = column("Day of the sign-up; may lie in the future")

    class Config:
        table = "experiments.users"
        key = ("user_id",)
        max_rejected = MAX_REJECTED


class Compounds(Contract):
    """Chemical compounds, as compounds.csv has them: one row per compound."""

    compound_id: int = column(COMPOUND)
    compound_name: str | None = column("Name of the compound")
    compound_structure: str | None = column("Formula of the compound, as it was given")

    class Config:
        table = "experiments.compounds"
        key = ("compound_id",)
        max_rejected = MAX_REJECTED


class UserExperiments(Contract):
    """Experiments that a known user ran with known compounds, as user_experiments.csv has them: one row per experiment."""

    experiment_id: int = column(EXPERIMENT)
    user_id: int = column(USER)
    experiment_run_time: float = column("How long the experiment ran, in the unit of the file", ge=0)

    class Config:
        table = "experiments.user_experiments"
        key = ("experiment_id",)
        max_rejected = MAX_REJECTED
        may_be_empty = True


class ExperimentCompounds(Contract):
    """The compounds of each experiment: one row per experiment and compound, however often the list names it."""

    experiment_id: int = column(EXPERIMENT)
    compound_id: int = column(COMPOUND)

    class Config:
        table = "experiments.experiment_compounds"
        key = ("experiment_id", "compound_id")
        may_be_empty = True


class UserFeatures(Contract):
    """What is known of each user as of a day: one row per user and day, also for users without an experiment."""

    user_id: int = column(USER)
    as_of: Date = column("The day that the features are computed for")
    experiments_count: int = column("Experiments of the user", unit="experiments", ge=0)
    total_run_time: float = column("Sum of their run times, in the unit of the file; 0 without an experiment", ge=0)
    mean_run_time: float | None = column(
        "Mean of their run times, in the unit of the file; NULL without an experiment", ge=0
    )
    days_since_signup: int = column("Whole days from the sign-up to `as_of`; 0 if it lies after", unit="d", ge=0)
    signup_in_future: bool = column("Whether the sign-up lies after `as_of`")
    most_common_compounds: str | None = column(
        "Compounds that occur in most of the user's experiments: all that tie, their ids in order, separated by `;`;"
        " NULL without an experiment"
    )
    most_common_compounds_count: int = column(
        "In how many of the user's experiments each of them occurs", unit="experiments", ge=0
    )

    class Config:
        table = "experiments.user_features"
        key = ("as_of", "user_id")
        partition_by = "as_of"


CONTRACTS = (Users, Compounds, UserExperiments, ExperimentCompounds, UserFeatures)

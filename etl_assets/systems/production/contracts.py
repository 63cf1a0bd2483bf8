"""The tables that the production system owns, and the streams that two of them are filled from."""

from collections.abc import Mapping
from dataclasses import dataclass

from etl_assets.core.contracts import Contract, Id, Timestamp, column

PARAMETER = "Machine parameter, the id as received"
PRODUCT = "Product, the id as received"
SEQUENCE = "Place in the stream, from 1"
DEPENDENCES = ("independent", "autoregressive", "trend", "unit root")
READINGS = ("as_recorded", "per_work_order")
VERDICTS = ("insufficient data", "constant", "low coverage", "shared trend", "not significant", "supported")


class Metrics(Contract):
    """Readings of machine parameters, one row per parameter and instant; of several the one that arrived last."""

    parameter_id: Id = column(PARAMETER)
    measured_at: Timestamp = column("Instant of the reading")
    value: float | None = column(
        "Reading, in the parameter's own unit; NULL where the source said that it is no number"
    )
    sequence: int = column(SEQUENCE, ge=1)

    class Config:
        table = "production.metrics"
        key = ("parameter_id", "measured_at")


class Workorders(Contract):
    """Work orders as they were completed, one row per product and instant; of several the one that arrived last."""

    product_id: Id = column(PRODUCT)
    completed_at: Timestamp = column("When the work order ended")
    production: float | None = column(
        "Output as recorded, which may be a running counter; NULL where the source said that it is no number"
    )
    sequence: int = column(SEQUENCE, ge=1)

    class Config:
        table = "production.workorders"
        key = ("product_id", "completed_at")


class AlignedWorkOrders(Contract):
    """What each machine parameter was while a work order ran: its time-weighted mean, one row per work order and parameter.

    A work order runs from the previous one of its product to its own end; the first of a product has no such interval.
    """

    product_id: Id = column(PRODUCT)
    completed_at: Timestamp = column("When the work order ended")
    parameter_id: Id = column(PARAMETER)
    started_at: Timestamp = column("When the previous work order of the product ended")
    production: float | None = column("Output as recorded")
    output: float | None = column(
        "Output of this work order: the increment where `production` is a running counter, else `production` itself"
    )
    value: float | None = column(
        "Time-weighted mean of the parameter from start to end; NULL where readings cover too little of it"
    )
    coverage: float = column("Share of the interval for which there is a reading that is not too old", ge=0, le=1)

    class Config:
        table = "production.aligned_work_orders"
        key = ("product_id", "completed_at", "parameter_id")
        may_be_empty = True


class ProductCorrelations(Contract):
    """How each machine parameter goes with the output of each product, and what that is worth; all parameters ranked by |r|."""

    product_id: Id = column(PRODUCT)
    reading: str = column(
        "as_recorded: the output as the source has it; per_work_order: what each work order added", isin=READINGS
    )
    parameter_id: Id = column(PARAMETER)
    rank: int = column("Place by |r| within product and reading, from 1; those without r come last", ge=1)
    r: float | None = column("Pearson's correlation over the work orders", ge=-1, le=1)
    ci_low: float | None = column("Lower end of the 95 % interval of r, which respects dependence in time", ge=-1, le=1)
    ci_high: float | None = column("Upper end of that interval", ge=-1, le=1)
    rho: float | None = column("Spearman's rank correlation", ge=-1, le=1)
    n: int = column("Work orders with an output and enough readings", unit="rows", ge=0)
    n_effective: float | None = column("Independent work orders that carry as much information", ge=0)
    coverage: float = column("Mean share of the work orders' time that readings cover", ge=0, le=1)
    p: float | None = column(
        "Probability of at least such a correlation without a relation, by surrogates of the treated series", ge=0, le=1
    )
    q: float | None = column("p corrected for the number of parameters (false discovery rate)", ge=0, le=1)
    stability: float | None = column("Probability of being among the first three, by block bootstrap", ge=0, le=1)
    tie_group: int | None = column("Parameters whose |r| cannot be told apart have the same number", ge=1)
    verdict: str = column("What can be said, the first that holds", isin=VERDICTS)
    p_naive: float | None = column("p of Pearson's r as if the work orders were independent", ge=0, le=1)
    r_treated: float | None = column("r after the treatment, on which p rests", ge=-1, le=1)
    dependence: str | None = column("What the parameter is in time", isin=DEPENDENCES)
    output_dependence: str | None = column("What the output is in time", isin=DEPENDENCES)
    treatment: str | None = column(
        "What the relation had to outlast before p was computed", isin=("detrended", "detrended and differenced")
    )

    class Config:
        table = "production.product_correlations"
        key = ("product_id", "reading", "parameter_id")
        may_be_empty = True


CONTRACTS = (Metrics, Workorders, AlignedWorkOrders, ProductCorrelations)


@dataclass(frozen=True)
class Stream:
    """A stream of records from an API through the broker to a table.

    Attributes:
        name: of the API's path, of the broker's stream, and of the table.
        contract: the table.
        fields: by field of a record, the column that it goes to.
    """

    name: str
    contract: type[Contract]
    fields: Mapping[str, str]


METRICS = Stream("metrics", Metrics, {"id": "parameter_id", "val": "value", "time": "measured_at"})
WORKORDERS = Stream(
    "workorders", Workorders, {"product": "product_id", "production": "production", "time": "completed_at"}
)
STREAMS = (METRICS, WORKORDERS)

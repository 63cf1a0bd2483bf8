"""The tables that the gateway owns."""

from etl_assets.core.contracts import Contract, Timestamp, column


class Triggers(Contract):
    """When each trigger was last taken, so that its rate limit holds across processes and restarts."""

    name: str = column("What is triggered, like `experiments`", min_length=1)
    triggered_at: Timestamp = column("When it was last taken, by the database's clock")
    run_id: str = column("The run that was started")

    class Config:
        table = "gateway.triggers"
        key = ("name",)
        may_be_empty = True


CONTRACTS = (Triggers,)

"""The two streams of the system: what they are called, and where their records go."""

from collections.abc import Mapping
from dataclasses import dataclass

from etl_assets.core.contracts import Contract
from etl_assets.systems.production.contracts import Metrics, Workorders


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

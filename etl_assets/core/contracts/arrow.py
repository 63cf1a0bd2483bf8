"""The contract as an Arrow schema: the types in which every slice travels."""

import pyarrow as pa

from etl_assets.core.contracts.contract import Contract, Kind

ARROW_TYPES = {
    Kind.INT: pa.int64(),
    Kind.FLOAT: pa.float64(),
    Kind.BOOL: pa.bool_(),
    Kind.TEXT: pa.string(),
    Kind.ID: pa.string(),
    Kind.DATE: pa.date32(),
    Kind.TIMESTAMP: pa.timestamp("us", tz="UTC"),
}


def arrow_schema(contract: type[Contract], columns: tuple[str, ...] = ()) -> pa.Schema:
    """The Arrow schema of a contract, or of some of its columns in the order asked for.

    Raises:
        KeyError: if a column is not of the contract.
    """
    chosen = [contract.columns[name] for name in columns] if columns else contract.columns.values()
    return pa.schema(
        [pa.field(c.name, ARROW_TYPES[c.kind], c.nullable, metadata={"description": c.description}) for c in chosen]
    )

"""What a table is: columns, types, units, key and meaning, written once; every other description is rendered from it.

What does not belong here: any domain's tables (they are in its system), I/O, and Dagster, which only
`etl_assets.core.dagster.contract_types` imports.
"""

from etl_assets.core.contracts.contract import Column, Contract, Date, Id, Timestamp, column
from etl_assets.core.contracts.split import ByPartition, Fault, Record, Split

__all__ = ["ByPartition", "Column", "Contract", "Date", "Fault", "Id", "Record", "Split", "Timestamp", "column"]

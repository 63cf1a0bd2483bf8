"""From Dagster's partition keys to slices of a table."""

from collections.abc import Sequence
from datetime import UTC
from typing import Any

import dagster as dg

from etl_assets.core.contracts import Contract
from etl_assets.core.contracts.contract import Kind
from etl_assets.core.slices.slice import Slice, Span, Value
from etl_assets.errors import ContractError


def slices_of(
    contract: type[Contract], partitions: dg.PartitionsDefinition[Any] | None, keys: Sequence[str]
) -> list[Slice]:
    """The slices that partition keys stand for; the whole table for an asset without partitions.

    Raises:
        ContractError: if the contract does not say which column the partitions go by.
    """
    if partitions is None:
        return [Slice(contract)]
    columns = contract.partition_columns()
    if not columns:
        raise ContractError(f"{contract.config.table} is partitioned and its contract states no partition_by")
    return [Slice(contract, str(key), _bounds(contract, partitions, key)) for key in sorted(keys)]


def _bounds(contract: type[Contract], partitions: dg.PartitionsDefinition[Any], key: str) -> dict[str, Value | Span]:
    columns = contract.partition_columns()
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        by_dimension = partitions.get_partition_key_from_str(key).keys_by_dimension
        definitions = {d.name: d.partitions_def for d in partitions.partitions_defs}
        if set(columns) != set(definitions):
            raise ContractError(
                f"{contract.config.table}: partition_by has dimensions {sorted(columns)}, the asset {sorted(definitions)}"
            )
        return {
            column: _bound(contract, column, definitions[dimension], by_dimension[dimension])
            for dimension, column in columns.items()
        }
    (column,) = columns.values()
    return {column: _bound(contract, column, partitions, key)}


def _bound(contract: type[Contract], column: str, partitions: dg.PartitionsDefinition[Any], key: str) -> Value | Span:
    kind = contract.columns[column].kind
    if isinstance(partitions, dg.TimeWindowPartitionsDefinition):
        window = partitions.time_window_for_partition_key(key)
        if kind is Kind.DATE:
            return Span(window.start.date(), window.end.date())
        return Span(window.start.astimezone(UTC), window.end.astimezone(UTC))
    return int(key) if kind is Kind.INT else key

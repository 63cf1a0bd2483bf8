"""Contracts as Dagster sees them: types, asset arguments, column schema, and what a permanent failure means.

The only module of `contracts` that imports Dagster; transforms never import it.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts import ByPartition, Contract, Split
from etl_assets.core.contracts.contract import Column
from etl_assets.core.contracts.validation import require_columns
from etl_assets.errors import ContractError, PermanentError, of_system

FORMS: dict[type, str] = {pd.DataFrame: "Frame", pa.Table: "Table", pa.RecordBatchReader: "Batches"}
MODE = "etl/mode"
COLUMNS = "etl/columns"
ORDERED = "etl/ordered"
NO_CONTRACT = "etl/no_contract"
# On a failed step: nobody is to ask for the same again.
PERMANENT = "etl/permanent"
# A step that met something transient is tried again; what is permanent raises Failure(allow_retries=False).
RETRIES = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)


class ContractType(dg.DagsterType):
    """A Dagster type that knows its contract.

    Attributes:
        contract: the contract whose shape it judges.
        form: the Python type of its values; None takes any form, read from the value.
        chosen: the columns that are asked for; empty for all.
    """

    def __init__(self, contract: type[Contract], form: type | None, chosen: tuple[str, ...]) -> None:
        self.contract = contract
        self.form = form
        self.chosen = chosen
        suffix = (FORMS[form] if form else "") + ("_" + "_".join(chosen) if chosen else "")
        super().__init__(
            key=contract.config.table.replace(".", "_") + suffix,
            name=contract.__name__ + suffix,
            description=" ".join((contract.__doc__ or "").split()),
            type_check_fn=self._judge,
            typing_type=form or Any,
            metadata={"dagster/column_schema": column_schema(contract, chosen)},
        )

    @functools.cached_property
    def _frame_type(self) -> dg.DagsterType:
        return frame_type(self.contract, self.chosen)

    def _judge(self, context: Any, value: Any) -> dg.TypeCheck:
        """Judge the shape: the form and the names of the columns; rows are judged where they are stored.

        Of partitions that are made one after another there is nothing to judge yet: each is when it is stored.
        """
        if isinstance(value, ByPartition) and self.form is None:
            return dg.TypeCheck(True)
        valid = value.valid if isinstance(value, Split) else value
        forms = [form for form in FORMS if isinstance(valid, form)]
        if not forms or (self.form and self.form not in forms):
            wanted = self.form.__name__ if self.form else ", ".join(form.__name__ for form in FORMS)
            return dg.TypeCheck(False, f"must be {wanted}, alone or in a Split; got {type(valid).__name__}")
        if forms[0] is pd.DataFrame:
            check = self._frame_type.type_check(context, valid)
            return dg.TypeCheck(check.success, check.description)
        try:
            _require(self.contract, self.chosen, valid.schema.names)
        except ContractError as error:
            return dg.TypeCheck(False, str(error))
        return dg.TypeCheck(True)


_known_types: Callable[..., ContractType] = functools.cache(ContractType)


def contract_type(contract: type[Contract], form: type | None = None, chosen: tuple[str, ...] = ()) -> ContractType:
    """The one Dagster type of a contract, a form of value, and a choice of columns."""
    return _known_types(contract, form, chosen)


def frame_type(contract: type[Contract], chosen: tuple[str, ...] = ()) -> dg.DagsterType:
    """The frame form of a contract, made with dagster-pandas.

    Its stock column constraints insist on nanoseconds, so that the one constraint is the contract's own.
    """
    import dagster_pandas
    from dagster_pandas.constraints import DataFrameConstraint, DataFrameConstraintViolationException

    class ColumnsOfContract(DataFrameConstraint):
        def __init__(self) -> None:
            super().__init__(
                error_description="columns of the contract", markdown_description="columns of the contract"
            )

        def validate(self, dataframe: pd.DataFrame) -> None:
            try:
                _require(contract, chosen, list(dataframe.columns))
            except ContractError as error:
                raise DataFrameConstraintViolationException(
                    constraint_name=contract.__name__,
                    constraint_description=str(error),
                ) from None

    with quiet():
        made: dg.DagsterType = dagster_pandas.create_dagster_pandas_dataframe_type(
            name=f"{contract.__name__}PandasFrame" + "_".join(("", *chosen)),
            dataframe_constraints=[ColumnsOfContract()],
        )
        return made


def _require(contract: type[Contract], chosen: tuple[str, ...], given: Sequence[str]) -> None:
    if not chosen:
        require_columns(contract, given)
    elif set(chosen) != set(given):
        raise ContractError(f"{contract.config.table}: columns {', '.join(chosen)} expected, got {', '.join(given)}")


def asset_key(contract: type[Contract]) -> dg.AssetKey:
    """The key of the asset of a table in the platform's database or in files: system and table."""
    return dg.AssetKey([contract.schema_name(), contract.table_name()])


def stored(contract: type[Contract], *, mode: str, mirrored: bool = False) -> dict[str, Any]:
    """The arguments of `dg.asset` for a table with a contract.

    Args:
        contract: what the asset stores; names the asset and its group.
        mode: replace | partition | upsert | append (Postgres), replace | partition | snapshot (parquet).
        mirrored: a table in Postgres is copied to parquet files after each write, for those who read files.

    Raises:
        ContractError: if a table that is not in Postgres is to be mirrored.
    """
    if mirrored and contract.config.store != "postgres":
        raise ContractError(
            f"{contract.config.table} is in {contract.config.store}: only tables in Postgres are mirrored"
        )
    stores = {contract.config.store, *(("parquet",) if mirrored else ())}
    return {
        "key_prefix": [contract.schema_name()],
        "name": contract.table_name(),
        "group_name": contract.schema_name(),
        "kinds": {*stores, "python"},
        "dagster_type": contract_type(contract),
        "io_manager_key": "postgres_and_parquet_io" if mirrored else f"{contract.config.store}_io",
        "metadata": {**described(contract), MODE: mode},
        "retry_policy": RETRIES,
        "backfill_policy": single_run(),
    }


def stored_out(contract: type[Contract], *, mode: str) -> dg.AssetOut:
    """One of several tables that a `dg.multi_asset` stores; retries and backfills are stated there."""
    arguments = stored(contract, mode=mode)
    for whole in ("name", "retry_policy", "backfill_policy"):
        del arguments[whole]
    return dg.AssetOut(description=" ".join((contract.__doc__ or "").split()), **arguments)


def effect(contract: type[Contract], *, kinds: set[str]) -> dict[str, Any]:
    """The arguments of `dg.asset` for an asset that stores its table by itself, together with an effect outside."""
    arguments = stored(contract, mode="")
    for storing in ("dagster_type", "io_manager_key"):
        del arguments[storing]
    return {**arguments, "kinds": kinds | {contract.config.store}, "metadata": described(contract)}


def loads(contract: type[Contract], *columns: str, form: type = pd.DataFrame, ordered: bool = False) -> dg.AssetIn:
    """An input of an asset: the contract it is stored under, the columns that are needed, and the form wanted.

    Args:
        columns: those that are needed; all by default.
        form: `pandas.DataFrame`, `pyarrow.Table`, or `pyarrow.RecordBatchReader` (constant memory).
        ordered: rows come in the order of the table's key, which the database sorts by; else in no particular order.

    Raises:
        ContractError: for an unknown column, and for an order that the table does not have: without a key, or in files.
    """
    for name in columns:
        if name not in contract.columns:
            raise ContractError(f"{contract.config.table} has no column {name}")
    if ordered and not (contract.config.key and contract.config.store == "postgres"):
        raise ContractError(f"{contract.config.table} has no order: only tables in Postgres with a key do")
    return dg.AssetIn(
        key=asset_key(contract),
        dagster_type=contract_type(contract, form, columns),
        metadata={COLUMNS: list(columns), ORDERED: ordered},
        # By the table's own store: an asset that stores its table by itself has no IO manager to ask.
        input_manager_key=f"{contract.config.store}_io",
    )


def described(contract: type[Contract]) -> dict[str, Any]:
    """What the UI shows of a table: its name, its columns, its key."""
    return {
        "dagster/column_schema": column_schema(contract),
        "dagster/table_name": contract.config.table,
        "key": ", ".join(contract.config.key) or "none",
    }


def column_schema(contract: type[Contract], chosen: tuple[str, ...] = ()) -> dg.TableSchema:
    """The contract as the column schema of Dagster's UI."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                name=c.name,
                type=c.kind.value,
                description=f"{c.description} [{c.unit}]" if c.unit else c.description,
                constraints=dg.TableColumnConstraints(
                    nullable=c.nullable, unique=contract.config.key == (c.name,), other=_rules(c)
                ),
            )
            for c in contract.columns.values()
            if not chosen or c.name in chosen
        ]
    )


def _rules(c: Column) -> list[str]:
    from etl_assets.core.contracts.validation import rules_of

    return [rule for rule in rules_of(c) if rule != "no NUL"]


def single_run() -> dg.BackfillPolicy:
    """All partitions of a backfill in one run; the policy is still marked beta."""
    with quiet():
        return dg.BackfillPolicy.single_run()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Dagster's remarks that something we use on purpose is beta or in preview."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        warnings.simplefilter("ignore", dg.PreviewWarning)
        yield


@contextlib.contextmanager
def permanent_failures_stop() -> Iterator[None]:
    """Tell Dagster that a permanent failure must not be tried again, and in one line what the operating system has refused."""
    try:
        yield
    except PermanentError as error:
        raise _without_retries(error) from error
    except OSError as error:
        failure = of_system(error)
        raise (_without_retries(failure) if isinstance(failure, PermanentError) else failure) from error


def _without_retries(failure: PermanentError) -> dg.Failure:
    return dg.Failure(description=str(failure), metadata={PERMANENT: True}, allow_retries=False)

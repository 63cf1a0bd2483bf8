"""The contract of a table as a class that reads like a page of a catalogue."""

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Union

from etl_assets.failures import ContractError

if TYPE_CHECKING:
    import pandas as pd

    from etl_assets.contracts.split import Split

Timestamp = datetime
Date = date

IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Kind(Enum):
    """The types that a column can have, as Postgres, Arrow and pandas see them alike."""

    INT = "int64"
    FLOAT = "float64"
    BOOL = "bool"
    TEXT = "text"
    DATE = "date"
    TIMESTAMP = "timestamptz"


KINDS: Mapping[type, Kind] = {
    int: Kind.INT,
    float: Kind.FLOAT,
    bool: Kind.BOOL,
    str: Kind.TEXT,
    date: Kind.DATE,
    datetime: Kind.TIMESTAMP,
}


@dataclass(frozen=True)
class Column:
    """One column: its meaning and everything that its values must keep to.

    Bounds are in the column's own unit; a timestamp's are aware. Floats are finite: a reading that is infinite is a
    fault of the source. `zone` is the zone of naive values, stated where a source's contract states it.
    """

    description: str
    unit: str | None = None
    ge: Any = None
    gt: Any = None
    le: Any = None
    lt: Any = None
    isin: tuple[Any, ...] | None = None
    pattern: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    zone: str | None = None
    name: str = ""
    kind: Kind = Kind.TEXT
    nullable: bool = False

    @property
    def constraints(self) -> tuple[str, ...]:
        """Names of the rules that a value can break, beside that of its type."""
        rules = [] if self.nullable else ["required"]
        rules += [rule for rule in ("ge", "gt", "le", "lt", "isin", "pattern") if getattr(self, rule) is not None]
        rules += [rule for rule in ("min_length", "max_length") if getattr(self, rule) is not None]
        return tuple(rules + (["finite"] if self.kind is Kind.FLOAT else []))


def column(description: str, **rules: Any) -> Any:
    """Declare a column of a contract; see `Column` for the rules."""
    return Column(description, **rules)


@dataclass(frozen=True)
class TableConfig:
    """What a contract's `class Config` may say.

    Attributes:
        table: `schema.table`; the schema is the system's name, the table the asset's.
        key: columns that identify a row; empty where rows have no identity (append only).
        store: where the table lives.
        database: `platform`, or the name of another database with a migration history of its own.
        partition_by: column that says to which partition a row belongs; by dimension for two dimensions.
        native: the table is partitioned in Postgres itself by `partition_by`, one native partition per such span.
        may_be_empty: a table without rows is in order; its checks then may evaluate none.
    """

    table: str
    key: tuple[str, ...] = ()
    store: Literal["postgres", "parquet"] = "postgres"
    database: str = "platform"
    partition_by: str | Mapping[str, str] | None = None
    native: Literal["day", "month"] | None = None
    may_be_empty: bool = False
    indexes: tuple[tuple[str, ...], ...] = field(default=())


class Contract:
    """Base of all contracts; a subclass declares columns and a `class Config`.

    Raises:
        ContractError: at definition, if the contract does not hold together.
    """

    columns: ClassVar[Mapping[str, Column]] = {}
    config: ClassVar[TableConfig]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = vars(cls).get("Config")
        if declared is None:
            raise ContractError(f"contract {cls.__name__} has no class Config with its table")
        cls.config = TableConfig(**{k: v for k, v in vars(declared).items() if not k.startswith("__")})
        hints = typing.get_type_hints(cls)
        cls.columns = {
            name: _typed(value, name=name, hint=hints[name], contract=cls.__name__)
            for name, value in vars(cls).items()
            if isinstance(value, Column)
        }
        _verify(cls)

    @classmethod
    def schema_name(cls) -> str:
        """The Postgres schema: the system's name."""
        return cls.config.table.split(".")[0]

    @classmethod
    def table_name(cls) -> str:
        """The table's name within its schema: the asset's name."""
        return cls.config.table.split(".")[1]

    @classmethod
    def split(cls, frame: "pd.DataFrame", **options: Any) -> "Split[pd.DataFrame]":
        """Divide a frame into rows that keep the contract and records of the rest; see `validation.split`."""
        from etl_assets.contracts.validation import split

        return split(cls, frame, **options)

    @classmethod
    def partition_columns(cls) -> Mapping[str, str]:
        """Column by partition dimension; one unnamed dimension has the name ''."""
        by = cls.config.partition_by
        if by is None:
            return {}
        return {"": by} if isinstance(by, str) else by


def _typed(declared: Column, *, name: str, hint: Any, contract: str) -> Column:
    options = (
        [hint] if typing.get_origin(hint) not in (Union, types.UnionType) else list(typing.get_args(hint))
    )
    concrete = [option for option in options if option is not type(None)]
    if len(concrete) != 1 or concrete[0] not in KINDS:
        raise ContractError(f"{contract}.{name} has type {hint}; known are {', '.join(t.__name__ for t in KINDS)}")
    return replace(declared, name=name, kind=KINDS[concrete[0]], nullable=len(options) > len(concrete))


def _verify(cls: type[Contract]) -> None:
    config, name = cls.config, cls.__name__
    parts = config.table.split(".")
    if len(parts) != 2 or not all(IDENTIFIER.fullmatch(part) for part in (*parts, *cls.columns)):
        raise ContractError(f"{name}: table and columns must be lower-case identifiers, the table schema.table")
    named = [*config.key, *cls.partition_columns().values(), *(c for index in config.indexes for c in index)]
    for unknown in [column_name for column_name in named if column_name not in cls.columns]:
        raise ContractError(f"{name}: Config names {unknown}, which is no column")
    for key_column in config.key:
        if cls.columns[key_column].nullable:
            raise ContractError(f"{name}.{key_column} is in the key and cannot be NULL")
    if not (cls.__doc__ or "").strip():
        raise ContractError(f"{name} has no docstring: say what a row is")
    if config.native and (
        len(cls.partition_columns()) != 1 or set(cls.partition_columns().values()) - set(config.key)
    ):
        raise ContractError(f"{name}: a natively partitioned table has its partition column in the key")

"""The contract of a table as a class that reads like a page of a catalogue."""

import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import date, datetime
from enum import Enum
from typing import Any, ClassVar, Literal, NewType, Union

from etl_assets.core.contracts.names import LONGEST_NAME
from etl_assets.errors import ContractError

Timestamp = datetime
Date = date
Id = NewType("Id", str)

IDENTIFIER = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Kind(Enum):
    """The types that a column can have, as Postgres, Arrow and pandas see them alike.

    An id is text that tells things apart: a whole number is the text that it is written as, and what cannot be shown is none.
    """

    INT = "int64"
    FLOAT = "float64"
    BOOL = "bool"
    TEXT = "text"
    ID = "id"
    DATE = "date"
    TIMESTAMP = "timestamptz"


KINDS: Mapping[Any, Kind] = {
    int: Kind.INT,
    float: Kind.FLOAT,
    bool: Kind.BOOL,
    str: Kind.TEXT,
    Id: Kind.ID,
    date: Kind.DATE,
    datetime: Kind.TIMESTAMP,
}

SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
BOUNDS = tuple(SIGNS)
CHECKED = (*BOUNDS, "isin", "pattern", "min_length", "max_length")
# Rules that a column of each kind can have, beside `unit`.
RULES: Mapping[Kind, tuple[str, ...]] = {
    Kind.INT: (*BOUNDS, "isin"),
    Kind.FLOAT: (*BOUNDS, "isin"),
    Kind.BOOL: ("isin",),
    Kind.TEXT: CHECKED,
    Kind.ID: CHECKED,
    Kind.DATE: (*BOUNDS, "isin"),
    Kind.TIMESTAMP: (*BOUNDS, "isin", "zone"),
}
DECLARED = ("unit", *CHECKED, "zone")


@dataclass(frozen=True)
class Column:
    """One column: its meaning and everything that its values must keep to.

    Bounds are in the column's own unit; a timestamp's are aware. Floats are finite: a reading that is infinite is a
    fault of the source. `zone` is the zone of naive values, stated where a source's contract states it. A `pattern` is
    a regular expression of RE2 (no look-around, no back references) that the whole value matches; lengths are in
    characters; those of an id are at least one and at most `LONGEST_NAME` unless it says otherwise.
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
        rules += [rule for rule in CHECKED if getattr(self, rule) is not None]
        own = {Kind.FLOAT: ["finite"], Kind.ID: ["printable"]}
        return tuple(rules + own.get(self.kind, []))


def column(description: str, **rules: Any) -> Any:
    """Declare a column of a contract; see `Column` for the rules.

    Raises:
        ContractError: for a rule that is not known; names it.
    """
    unknown = sorted(set(rules) - set(DECLARED))
    if unknown:
        raise ContractError(
            f"column {description!r} has unknown rules {', '.join(unknown)}; known are {', '.join(DECLARED)}"
        )
    return Column(description, **rules)


STORES = Literal["postgres", "parquet"]
SPANS = Literal["day", "month"]


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
        first_stored: columns in which a row that says the same otherwise keeps what it was first stored with.
        partial_loads: a partition may be written with a part of what its source has: such a write says nothing of rows in quarantine
            that it does not meet.
        current_within_h: so many hours a derived table may be behind an input that has changed.
        max_rejected: the largest share of rejected rows that an input may have, 0 to 1; beyond it nothing of it is loaded. None: any share
            but all.
        versions_kept: of a table in files, how many versions of a slice can be read; an older one is deleted a day after it was given up.
    """

    table: str
    key: tuple[str, ...] = ()
    store: STORES = "postgres"
    database: str = "platform"
    partition_by: str | Mapping[str, str] | None = None
    native: SPANS | None = None
    may_be_empty: bool = False
    indexes: tuple[tuple[str, ...], ...] = field(default=())
    first_stored: tuple[str, ...] = ()
    partial_loads: bool = False
    current_within_h: float = 24.0
    max_rejected: float | None = None
    versions_kept: int = 1


class Contract:
    """Base of all contracts; a subclass declares columns and a `class Config`.

    Raises:
        ContractError: at definition, if the contract does not hold together.
    """

    columns: ClassVar[Mapping[str, Column]] = {}
    config: ClassVar[TableConfig]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        declared = {name: value for name, value in vars(cls).items() if isinstance(value, Column)}
        _require(_faults_of_declarations(cls, declared))
        cls.config = _config(cls)
        hints = typing.get_type_hints(cls)
        cls.columns = {
            name: _typed(value, name=name, hint=hints[name], contract=cls.__name__) for name, value in declared.items()
        }
        _require(_faults_of_table(cls))
        for c in cls.columns.values():
            _require(_faults_of_rules(c, f"{cls.__name__}.{c.name}"))

    @classmethod
    def schema_name(cls) -> str:
        """The Postgres schema: the system's name."""
        return cls.config.table.split(".")[0]

    @classmethod
    def table_name(cls) -> str:
        """The table's name within its schema: the asset's name."""
        return cls.config.table.split(".")[1]

    @classmethod
    def partition_columns(cls) -> Mapping[str, str]:
        """Column by partition dimension; one unnamed dimension has the name ''."""
        by = cls.config.partition_by
        if by is None:
            return {}
        return {"": by} if isinstance(by, str) else by


def _require(faults: Iterator[str]) -> None:
    for fault in faults:
        raise ContractError(fault)


def _config(cls: type[Contract]) -> TableConfig:
    declared = vars(cls).get("Config")
    if declared is None or not isinstance(vars(declared).get("table"), str):
        raise ContractError(f"contract {cls.__name__} has no class Config with its table")
    options = {k: v for k, v in vars(declared).items() if not k.startswith("__")}
    known = [f.name for f in fields(TableConfig)]
    if unknown := sorted(set(options) - set(known)):
        raise ContractError(f"{cls.__name__}: Config says {', '.join(unknown)}; it may say {', '.join(known)}")
    return TableConfig(**options)


def _faults_of_declarations(cls: type[Contract], declared: Mapping[str, Column]) -> Iterator[str]:
    name = cls.__name__
    if cls.__bases__ != (Contract,):
        yield f"{name} is derived from another contract: a table's columns stand in one place, write them out"
    annotated = [n for n in vars(cls).get("__annotations__", {}) if not n.startswith("__")]
    for bare in [n for n in annotated if n not in declared]:
        yield f"{name}.{bare} has a type and no column(...): say what it means"
    for untyped in [n for n in declared if n not in annotated]:
        yield f"{name}.{untyped} is a column without a type"
    for taken in [n for n in declared if hasattr(Contract, n) or n == "config"]:
        yield f"{name}.{taken} hides what every contract has under this name: choose another"
    if not declared:
        yield f"{name} has no columns"


def _typed(declared: Column, *, name: str, hint: Any, contract: str) -> Column:
    options = [hint] if typing.get_origin(hint) not in (Union, types.UnionType) else list(typing.get_args(hint))
    concrete = [option for option in options if option is not type(None)]
    if len(concrete) != 1 or concrete[0] not in KINDS:
        raise ContractError(f"{contract}.{name} has type {hint}; known are {', '.join(t.__name__ for t in KINDS)}")
    kind = KINDS[concrete[0]]
    if kind is Kind.ID:
        declared = replace(
            declared, min_length=declared.min_length or 1, max_length=declared.max_length or LONGEST_NAME
        )
    return replace(declared, name=name, kind=kind, nullable=len(options) > len(concrete))


def _faults_of_table(cls: type[Contract]) -> Iterator[str]:
    config, columns, name = cls.config, cls.columns, cls.__name__
    # A single name in brackets without a comma is text, which would pass for its letters.
    tuples = (config.key, config.first_stored, *config.indexes)
    if not all(isinstance(names, tuple) for names in tuples) or not all(config.indexes):
        yield f"{name}: key and first_stored are tuples of columns, indexes a tuple of such tuples: mind the commas"
    if config.store not in typing.get_args(STORES) or config.native not in (None, *typing.get_args(SPANS)):
        yield f"{name}: unknown store {config.store!r} or native partition {config.native!r}"
    parts = config.table.split(".")
    if len(parts) != 2 or not all(IDENTIFIER.fullmatch(part) for part in (*parts, *columns)):
        yield f"{name}: table and columns must be lower-case identifiers, the table schema.table"
    partition = tuple(cls.partition_columns().values())
    lists = [config.key, partition, config.first_stored, *config.indexes]
    for unknown in [column_name for names in lists for column_name in names if column_name not in columns]:
        yield f"{name}: Config names {unknown}, which is no column"
    if any(len(set(names)) != len(names) for names in lists):
        yield f"{name}: Config names a column twice in its key, its partition or an index"
    for role, names in (("is in the key", config.key), ("says to which partition a row belongs", partition)):
        for nullable in [n for n in names if columns[n].nullable]:
            yield f"{name}.{nullable} {role} and cannot be NULL"
    if config.versions_kept < 1 or (config.versions_kept > 1 and config.store != "parquet"):
        yield f"{name}: versions_kept is of a table in files, at least 1"
    if config.max_rejected is not None and not 0 <= config.max_rejected <= 1:
        yield f"{name}: max_rejected is a share, 0 to 1"
    if config.first_stored and (not config.key or set(config.first_stored) & {*config.key, *partition}):
        yield f"{name}: first_stored are columns beside the key and the partition, of rows that have a key"
    if not (vars(cls).get("__doc__") or "").strip():
        yield f"{name} has no docstring: say what a row is"
    if config.native and (len(partition) != 1 or set(partition) - set(config.key)):
        yield f"{name}: a natively partitioned table has its partition column in the key"
    if config.native and (kind := columns[partition[0]].kind) not in (Kind.DATE, Kind.TIMESTAMP):
        yield f"{name}.{partition[0]} is {kind.value}: spans of time need a time"


def _faults_of_rules(c: Column, name: str) -> Iterator[str]:
    if not c.description.strip():
        yield f"{name} has no description: say what it means"
    for rule in (*CHECKED, "zone"):
        if getattr(c, rule) is not None and rule not in RULES[c.kind]:
            yield f"{name} is {c.kind.value}, for which there is no rule {rule}"
    if c.isin is not None and (not isinstance(c.isin, tuple) or not c.isin or len(set(c.isin)) != len(c.isin)):
        yield f"{name}: isin is a tuple of different values, at least one"
    for value in (*(getattr(c, rule) for rule in BOUNDS), *(c.isin or ())):
        if value is not None and not _fits(value, c.kind):
            yield f"{name} is {c.kind.value}, which {value!r} is not: state it in the column's own type"
    lowest, highest = (c.gt if c.ge is None else c.ge), (c.lt if c.le is None else c.le)
    for low, high in ((lowest, highest), (c.min_length, c.max_length)):
        if low is not None and high is not None and low > high:
            yield f"{name}: no value can keep to both of its bounds"
    if c.pattern is not None:
        try:
            re.compile(c.pattern)
        except re.error as error:
            yield f"{name}: {c.pattern!r} is no regular expression: {error}"


def _fits(value: Any, kind: Kind) -> bool:
    """Whether a bound is of the column's own type; times are aware, floats finite."""
    if kind is Kind.FLOAT:
        return type(value) in (int, float) and math.isfinite(value)
    if kind is Kind.TIMESTAMP:
        return isinstance(value, datetime) and value.tzinfo is not None
    if kind is Kind.ID:
        return type(value) is str
    return KINDS.get(type(value)) is kind

"""A contract that does not hold together is refused where it is written."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from etl_assets.core.contracts import Column, Contract, Date, Timestamp, column
from etl_assets.core.contracts.contract import Kind
from etl_assets.errors import ContractError


def define(columns: dict[str, tuple[Any, Any]], *, doc: str | None = "Rows.", **config: Any) -> type[Contract]:
    """A contract made from `name: (type, column(...))`."""
    body: dict[str, Any] = {name: declared for name, (_, declared) in columns.items()}
    body["__annotations__"] = {name: hint for name, (hint, _) in columns.items()}
    body["Config"] = type("Config", (), {"table": "systems.rows", **config})
    return type("Rows", (Contract,), {**body, "__doc__": doc, "__module__": __name__})


ID = (int, column("Identity"))
AT = (Timestamp, column("Instant"))


def test_a_contract_reads_its_columns_in_order_with_their_kinds() -> None:
    rows = define(
        {
            "i": (int, column("i")), "f": (float, column("f", unit="m", ge=0)), "b": (bool | None, column("b")),
            "t": (str, column("t", pattern="a+", isin=("a", "aa"))), "d": (Date, column("d")), "at": (Timestamp | None, column("at")),
        },
        key=("i",),
    )  # fmt: skip

    assert [(c.name, c.kind, c.nullable) for c in rows.columns.values()] == [
        ("i", Kind.INT, False), ("f", Kind.FLOAT, False), ("b", Kind.BOOL, True),
        ("t", Kind.TEXT, False), ("d", Kind.DATE, False), ("at", Kind.TIMESTAMP, True),
    ]  # fmt: skip
    assert rows.columns["f"].constraints == ("required", "ge", "finite")
    assert rows.columns["t"].constraints == ("required", "isin", "pattern")
    assert rows.columns["b"].constraints == ()
    assert (rows.schema_name(), rows.table_name()) == ("systems", "rows")


def test_partition_columns_are_by_dimension() -> None:
    two = {"id": ID, "at": AT, "site": (str, column("Site"))}

    assert define(two).partition_columns() == {}
    assert define(two, partition_by="site").partition_columns() == {"": "site"}
    assert define(two, partition_by={"site": "site", "day": "at"}).partition_columns() == {"site": "site", "day": "at"}


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        ({"id": ID}, {"table": "rows"}, "lower-case identifiers"),
        ({"id": ID}, {"table": "Systems.rows"}, "lower-case identifiers"),
        ({"id": ID}, {"table": "systems.rows; drop"}, "lower-case identifiers"),
        ({"id": ID}, {"table": "systems.rows\n"}, "lower-case identifiers"),
        ({"Id": ID}, {}, "lower-case identifiers"),
        ({"é": ID}, {}, "lower-case identifiers"),
        ({"x" * 64: ID}, {}, "lower-case identifiers"),
        ({"id": (complex, column("x"))}, {}, r"Rows\.id has type <class 'complex'>; known are int, float"),
        ({"id": (int | str, column("x"))}, {}, r"Rows\.id has type int \| str"),
        ({"id": (type(None), column("x"))}, {}, r"Rows\.id has type"),
        ({"id": (int | None, column("x"))}, {"key": ("id",)}, r"Rows\.id is in the key and cannot be NULL"),
        ({"id": (int | None, column("x"))}, {"partition_by": "id"}, r"Rows\.id says to which partition"),
        ({"id": ID}, {"key": ("other",)}, "Config names other, which is no column"),
        ({"id": ID}, {"partition_by": "other"}, "Config names other, which is no column"),
        ({"id": ID}, {"indexes": (("other",),)}, "Config names other, which is no column"),
        ({"id": ID}, {"key": ("id", "id")}, "names a column twice"),
        ({"id": ID}, {"key": "id"}, "mind the commas"),
        ({"id": ID}, {"indexes": ("id",)}, "mind the commas"),
        ({"id": ID}, {"store": "postgress"}, "unknown store 'postgress'"),
        ({"id": ID}, {"primary_key": ("id",)}, "Config says primary_key; it may say table, key"),
        ({"id": ID}, {"table": None}, "no class Config with its table"),
        (
            {"id": ID, "at": AT},
            {"key": ("id",), "partition_by": "at", "native": "day"},
            "has its partition column in the key",
        ),
        ({"id": ID}, {"key": ("id",), "partition_by": "id", "native": "day"}, "spans of time need a time"),
        ({"id": ID, "at": AT}, {"key": ("at",), "partition_by": "at", "native": "hour"}, "native partition 'hour'"),
        ({"id": ID}, {"max_rejected": 1.5}, "max_rejected is a share, 0 to 1"),
        ({"config": ID}, {}, "hides what every contract has under this name"),
        ({"table_name": ID}, {}, "hides what every contract has under this name"),
        ({}, {}, "has no columns"),
    ],
)
def test_a_definition_that_does_not_hold_together_is_refused(columns: Any, config: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        define(columns, **config)


@pytest.mark.parametrize(
    ("hint", "rules", "message"),
    [
        (int, {"pattern": "a"}, "Rows.x is int64, for which there is no rule pattern"),
        (bool, {"ge": False}, "there is no rule ge"),
        (float, {"max_length": 3}, "there is no rule max_length"),
        (str, {"zone": "UTC"}, "there is no rule zone"),
        (Date, {"zone": "UTC"}, "there is no rule zone"),
        (int, {"ge": 0.5}, "int64, which 0.5 is not"),
        (int, {"ge": True}, "which True is not"),
        (float, {"lt": float("inf")}, "which inf is not"),
        (str, {"isin": ("a", 1)}, "which 1 is not"),
        (Date, {"ge": datetime(2020, 1, 1)}, "which datetime"),
        (Timestamp, {"ge": datetime(2020, 1, 1)}, "which datetime"),
        (Timestamp, {"ge": date(2020, 1, 1)}, "which datetime.date"),
        (str, {"isin": ()}, "at least one"),
        (str, {"isin": ["a"]}, "isin is a tuple"),
        (str, {"isin": ("a", "a")}, "different values"),
        (int, {"ge": 2, "le": 1}, "no value can keep to both"),
        (int, {"gt": 2, "lt": 1}, "no value can keep to both"),
        (str, {"min_length": 2, "max_length": 1}, "no value can keep to both"),
        (str, {"pattern": "("}, r"'\(' is no regular expression"),
    ],
)
def test_a_rule_that_does_not_fit_its_column_is_refused(hint: Any, rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        define({"x": (hint, column("X", **rules))})


def test_rules_of_the_columns_own_type_are_taken() -> None:
    late = datetime(2030, 1, 1, tzinfo=UTC)
    rows = define(
        {"at": (Timestamp, column("x", lt=late, zone="Europe/London")), "f": (float, column("x", ge=0, le=0))}
    )

    assert (rows.columns["at"].lt, rows.columns["at"].zone, rows.columns["f"].ge) == (late, "Europe/London", 0)


def test_an_unknown_rule_is_refused_by_name() -> None:
    with pytest.raises(ContractError, match="column 'Price' has unknown rules minimum; known are unit, ge"):
        column("Price", minimum=1)


def test_a_description_and_a_docstring_are_required() -> None:
    with pytest.raises(ContractError, match=r"Rows\.id has no description"):
        define({"id": (int, column(" "))})
    with pytest.raises(ContractError, match="no docstring"):
        define({"id": ID}, doc=None)


def test_a_contract_without_config_is_refused() -> None:
    with pytest.raises(ContractError, match="contract Bare has no class Config"):

        class Bare(Contract):
            """Rows."""

            x: int = column("X")


def test_a_type_without_a_column_is_refused() -> None:
    with pytest.raises(ContractError, match=r"Half\.y has a type and no column"):

        class Half(Contract):
            """Rows."""

            x: int = column("X")
            y: int

            class Config:
                table = "systems.half"


def test_a_column_without_a_type_is_refused() -> None:
    with pytest.raises(ContractError, match=r"Half\.y is a column without a type"):

        class Half(Contract):
            """Rows."""

            x: int = column("X")
            y = column("Y")

            class Config:
                table = "systems.half"


def test_a_contract_is_not_derived_from_another() -> None:
    base = define({"id": ID})

    with pytest.raises(ContractError, match="More is derived from another contract"):

        class More(base):  # type: ignore[misc,valid-type]
            """Rows."""

            y: int = column("Y")

            class Config:
                table = "systems.more"


def test_a_column_says_what_it_is_made_of() -> None:
    assert column("Reading", unit="kWh", ge=0) == Column("Reading", unit="kWh", ge=0)

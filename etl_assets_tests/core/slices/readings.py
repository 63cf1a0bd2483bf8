"""Contracts of readings for the conformance suite, one set per store."""

from typing import Any, Literal

from etl_assets.core.contracts import Contract, Timestamp, column


def readings(store: Literal["postgres", "parquet"], table: str, **config: Any) -> type[Contract]:
    """A contract with columns id, site, at, value (at most 100) in schema `plant`."""

    class Readings(Contract):
        """Readings of a site."""

        id: int = column("Identity", ge=0)
        site: str = column("Site")
        at: Timestamp = column("When")
        value: float = column("What", le=100)

        Config = type("Config", (), {"table": f"plant.{table}", "key": ("id",), "store": store, **config})

    Readings.__name__ = "".join(part.title() for part in table.split("_"))
    return Readings


def family(store: Literal["postgres", "parquet"]) -> dict[str, type[Contract]]:
    """The four contracts that the suite needs."""
    return {
        "whole": readings(store, f"{store}_whole", may_be_empty=True),
        "by_site": readings(store, f"{store}_by_site", partition_by="site"),
        "by_day": readings(store, f"{store}_by_day", partition_by="at"),
        "by_both": readings(store, f"{store}_by_both", partition_by={"site": "site", "day": "at"}),
    }

"""The data dictionary."""

from datetime import date

from etl_assets.core import registry
from etl_assets.core.contracts import Contract, Date, Timestamp, column
from etl_assets.core.contracts.dictionary import HEAD, page


class Meters(Contract):
    """Meters of a site,
    with `a|b` and a_b*c*."""

    meter: str = column("Meter | `kind_of`", pattern="a|b`c", min_length=1, max_length=9)
    digest: str = column("Digest", min_length=64, max_length=64)
    power: float | None = column("Power <b>", unit="kW_h", ge=0, lt=1.5)
    state: str = column("State", isin=("on", "off"))
    day: Date = column("Day", gt=date(2020, 1, 1))
    at: Timestamp = column("Local time", zone="Europe/London")

    class Config:
        table = "power.meters"
        key = ("meter", "day")
        partition_by = "day"
        native = "month"
        indexes = (("state", "day"),)


class Files(Contract):
    """What a source reports."""

    line: str = column("Line")

    class Config:
        table = "power.files"
        store = "parquet"
        may_be_empty = True
        max_rejected = 0.8
        partition_by = {"site": "line"}


def test_a_table_is_a_page_of_the_catalogue() -> None:
    assert page("power", [Meters, Files]) == HEAD.format(name="power") + "\n" + "\n".join(
        [
            "## power.meters", "",
            r"Meters of a site, with `a\|b` and a\_b\*c\*.", "",
            "- Lives in: Postgres, database `platform`",
            "- Key: `meter`, `day`",
            "- Partition by: `day` (one native partition per month)",
            "- Indexes: `state`, `day`",
            "- May be empty: no", "",
            "| column | type | unit | NULL | rules | meaning |", "|---|---|---|---|---|---|",
            r"| `meter` | text |  | no | matches `` a\|b`c ``, not empty, at most 9 characters | Meter \| `kind_of` |",
            "| `digest` | text |  | no | 64 characters | Digest |",
            r"| `power` | float64 | kW\_h | yes | >= 0, \< 1.5 | Power \<b> |",
            "| `state` | text |  | no | one of `on`, `off` | State |",
            "| `day` | date |  | no | > 2020-01-01 | Day |",
            "| `at` | timestamptz |  | no | without a zone: Europe/London | Local time |", "",
            "## power.files", "",
            "What a source reports.", "",
            "- Lives in: Parquet files under the storage root",
            "- Key: none, rows are only appended or replaced",
            "- Partition by: site: `line`",
            "- Rejected rows that an input may have: 80%",
            "- May be empty: yes", "",
            "| column | type | unit | NULL | rules | meaning |", "|---|---|---|---|---|---|",
            "| `line` | text |  | no |  | Line |", "",
        ]
    )  # fmt: skip


def test_every_column_of_the_platform_is_in_it() -> None:
    for owner in registry.owners():
        text = page(owner.name, owner.contracts)
        for contract in owner.contracts:
            table = text.split(f"## {contract.config.table}\n")[1].split("\n## ")[0]
            assert [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")] == list(
                contract.columns
            )

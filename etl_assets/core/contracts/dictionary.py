"""The data dictionary: contracts as Markdown, for people who read the tables."""

from collections.abc import Iterable

from etl_assets.core.contracts.contract import SIGNS, Column, Contract

HEAD = """# Tables of {name}

What a row is, where it lives, and what each column means. Rendered from the contracts, which also make the tables, judge the rows
and label the assets. Not to be edited: change the contract and run `make docs`.

All times are UTC with microseconds. All text sorts by its bytes (collation `C`) and has no NUL character. An `id` is text that can be
printed; of a source that sends whole numbers it is their text. Numbers of type `float64` are finite. A row that breaks a rule is in `etl.quarantine`, not in its table.
"""
STORES = {"postgres": "Postgres, database `{database}`", "parquet": "Parquet files under the storage root"}
SPANS = {"day": "one native partition per day", "month": "one native partition per month"}


def page(name: str, contracts: Iterable[type[Contract]]) -> str:
    """The page of one owner of tables, in the order given."""
    return "\n".join([HEAD.format(name=name), *(_table(contract) for contract in contracts)])


def _table(contract: type[Contract]) -> str:
    config = contract.config
    facts = [f"- Lives in: {STORES[config.store].format(database=config.database)}"]
    facts.append(f"- Key: {_names(config.key)}" if config.key else "- Key: none, rows are only appended or replaced")
    partition = contract.partition_columns()
    if partition:
        by = [f"{dimension}: `{name}`" if dimension else f"`{name}`" for dimension, name in partition.items()]
        native = f" ({SPANS[config.native]})" if config.native else ""
        facts.append(f"- Partition by: {', '.join(by)}{native}")
    if config.indexes:
        facts.append(f"- Indexes: {'; '.join(_names(index) for index in config.indexes)}")
    if config.first_stored:
        facts.append(f"- As first stored, as long as the rest of the row is the same: {_names(config.first_stored)}")
    if config.partial_loads:
        facts.append("- A load may be of a part of a partition")
    if config.max_rejected is not None:
        facts.append(f"- Rejected rows that an input may have: {config.max_rejected:.0%}")
    facts.append(f"- May be empty: {'yes' if config.may_be_empty else 'no'}")
    rows = ["| column | type | unit | NULL | rules | meaning |", "|---|---|---|---|---|---|"]
    rows += [_row(c) for c in contract.columns.values()]
    meaning = " ".join((contract.__doc__ or "").split())
    return "\n".join([f"## {config.table}\n", f"{_plain(meaning)}\n", *facts, "", *rows, ""])


def _row(c: Column) -> str:
    cells = (
        f"`{c.name}`",
        c.kind.value,
        _plain(c.unit or ""),
        "yes" if c.nullable else "no",
        ", ".join(_rules(c)),
        _plain(c.description),
    )
    return "| " + " | ".join(cells) + " |"


def _rules(c: Column) -> list[str]:
    bounds = [(sign, getattr(c, rule)) for rule, sign in SIGNS.items()]
    rules = [f"{_plain(sign)} {_plain(str(bound))}" for sign, bound in bounds if bound is not None]
    if c.isin is not None:
        rules.append("one of " + ", ".join(_code(str(value)) for value in c.isin))
    if c.pattern is not None:
        rules.append(f"matches {_code(c.pattern)}")
    if c.min_length is not None and c.min_length == c.max_length:
        rules.append(f"{c.min_length} characters")
    else:
        rules += ["not empty" if c.min_length == 1 else f"at least {c.min_length} characters"] if c.min_length else []
        rules += [f"at most {c.max_length} characters"] if c.max_length is not None else []
    return rules + ([f"without a zone: {c.zone}"] if c.zone else [])


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _code(text: str) -> str:
    """Code in a cell of a table: a bar would end the cell, also within code."""
    fence = "``" if "`" in text else "`"
    padding = " " if "`" in text or not text.strip() else ""
    return f"{fence}{padding}{text}{padding}{fence}".replace("|", "\\|")


def _plain(text: str) -> str:
    """Text of a cell in which Markdown finds nothing but code."""
    parts = text.split("`")
    for at in range(0, len(parts), 2):
        for mark in ("\\", "<", "*", "_"):
            parts[at] = parts[at].replace(mark, "\\" + mark)
    return "`".join(parts).replace("|", "\\|")

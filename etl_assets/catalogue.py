"""All tables of the platform, and what is made of all of them together: the data dictionary, the check of migrations.

    python -m etl_assets.catalogue dictionary > docs/data-dictionary.md
    python -m etl_assets.catalogue migrations

A new system adds its contracts to `ROOMS`. Only definitions, the command line and checks import this module.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from etl_assets.core.contracts import Contract
from etl_assets.core.migrations import HEADS
from etl_assets.core.slices.ledger import Ledger, Quarantine
from etl_assets.errors import ContractError
from etl_assets.gateway import contracts as gateway
from etl_assets.systems.events import contracts as events
from etl_assets.systems.experiments import contracts as experiments
from etl_assets.systems.outages import contracts as outages
from etl_assets.systems.production import contracts as production
from etl_assets.systems.turbines import contracts as turbines

BOOKKEEPING: tuple[type[Contract], ...] = (Ledger, Quarantine)  # in each database that is written to
ROOMS: tuple[tuple[type[Contract], ...], ...] = (
    outages.CONTRACTS,
    production.CONTRACTS,
    experiments.CONTRACTS,
    turbines.CONTRACTS,
    events.CONTRACTS,
    gateway.CONTRACTS,
)
CONTRACTS: Mapping[str, tuple[type[Contract], ...]] = {
    database: BOOKKEEPING + tuple(c for room in ROOMS for c in room if c.config.database == database)
    for database in HEADS
}


def contract_of(table: str) -> type[Contract]:
    """The contract of a table, `schema.table`.

    Raises:
        ContractError: if no system owns it.
    """
    known = {contract.config.table: contract for room in ROOMS for contract in room}
    if table not in known:
        raise ContractError(f"no system owns the table {table}; known are {', '.join(sorted(known))}")
    return known[table]


def dictionary() -> str:
    """The data dictionary of the platform, as Markdown."""
    from etl_assets.core.contracts.dictionary import render

    rooms = [contract for room in ROOMS for contract in room]
    return render([*rooms, *BOOKKEEPING])


def missing_migrations() -> list[str]:
    """What the migrations of all histories lack, one sentence per difference; runs them in a server of its own."""
    from etl_assets.core.embedded import EmbeddedPostgres
    from etl_assets.core.migrations import drift

    sentences: list[str] = []
    with tempfile.TemporaryDirectory(prefix="etl-assets-migrations-") as folder:
        server = EmbeddedPostgres(Path(folder))
        try:
            with server:
                for history, contracts in CONTRACTS.items():
                    urls = [server.create_database(f"{history}_{by}") for by in ("migrated", "created")]
                    found = drift.missing_migrations(history, contracts, migrated_url=urls[0], created_url=urls[1])
                    sentences += [f"{history}: {sentence}" for sentence in found]
        finally:
            server.purge()
    return sentences


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the data dictionary, or what the migrations lack (exit code 1 if they lack anything)."""
    parser = argparse.ArgumentParser(prog="python -m etl_assets.catalogue", description=main.__doc__)
    parser.add_argument("what", choices=("dictionary", "migrations"))
    if parser.parse_args(arguments).what == "dictionary":
        sys.stdout.write(dictionary())
        return
    sentences = missing_migrations()
    if sentences:
        print("\n".join(sentences), file=sys.stderr)
        print("write a migration: how is said in etl_assets/core/migrations/drift.py", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""`etl-assets quarantine …`: look at rows that broke their contract, and replay them."""

import json
from typing import TYPE_CHECKING, Literal

import typer

from etl_assets.core import registry
from etl_assets.errors import ConfigurationError
from etl_assets.settings import load_settings

if TYPE_CHECKING:
    from etl_assets.core.slices.quarantine import Entry

app = typer.Typer(no_args_is_help=True)


@app.command("list")
def list_command(
    asset: str | None = typer.Option(None, help="Only this table, schema.table."),
    status: Literal["open", "replayed", "gone", "all"] = typer.Option("open", help="Only entries of this status."),
    limit: int = typer.Option(100, min=1, help="At most so many, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="As JSON lines."),
) -> None:
    """What is in quarantine, the newest first."""
    from etl_assets.core.servers import platform_database
    from etl_assets.core.slices.quarantine import list_entries

    entries, total = list_entries(platform_database(load_settings()), asset=asset, status=status, limit=limit)
    if as_json:
        for entry in entries:
            print(json.dumps(entry.as_dict()))
        return
    _print_table(entries)
    print(f"{len(entries)} of {total} entries" if total else "nothing is in quarantine")


@app.command()
def show(entry: str = typer.Argument(help="The entry's id, or its beginning.")) -> None:
    """One entry with all its faults and the raw row."""
    from etl_assets.core.servers import platform_database
    from etl_assets.core.slices.quarantine import find_entry

    print(json.dumps(find_entry(platform_database(load_settings()), entry).as_dict(), indent=2))


@app.command("replay")
def replay_command(
    entries: list[str] = typer.Argument(help="Ids, or their beginnings.", metavar="ID..."),
    corrections: list[str] = typer.Option(
        [],
        "--set",
        help="field=value: replace a field of the raw row; value is JSON, or else text.",
        metavar="FIELD=VALUE",
    ),
) -> None:
    """Judge rows anew, after a correction of the contract or of the row, and store those that pass."""
    from etl_assets.core.servers import platform_database
    from etl_assets.core.slices.quarantine import Replay, find_entry, replay

    replays: dict[str, Replay] = {}
    for system in registry.systems():
        replays |= system.part("replay", "REPLAYS", {})
    settings = load_settings()
    database = platform_database(settings)
    corrected = dict(_correction(text) for text in corrections)
    still_bad = 0
    for identity in entries:
        entry = find_entry(database, identity)
        how = replays.get(entry.asset, Replay())
        how.require(entry, corrected)
        with how.locked(database, entry) as storing:
            faults = replay(
                database,
                settings.storage_url,
                # As it is now that nobody else changes its slice.
                find_entry(database, entry.id),
                contract=registry.contract_of(entry.asset),
                read_raw=how.read_raw,
                corrections=corrected,
                storing=storing,
            )
        still_bad += bool(faults)
        print(f"{entry.id}: " + ("; ".join(faults) if faults else f"stored in {entry.asset}"))
    if still_bad:
        raise typer.Exit(1)


def _correction(text: str) -> tuple[str, object]:
    field, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"--set {text!r}: give field=value")
    try:
        return field, json.loads(value)
    except json.JSONDecodeError:
        return field, value


def _print_table(entries: "list[Entry]") -> None:
    from rich.console import Console
    from rich.table import Table

    if not entries:
        return
    table = Table("id", "asset", "partition", "outcome", "faults", "source", "seen", "last seen")
    for entry in entries:
        faults = "\n".join(f"{f['column']}: {f['rule']} ({_short(f['raw'])})" for f in entry.faults)
        seen = f"{entry.last_seen:%Y-%m-%d %H:%M}"
        table.add_row(
            entry.id[:8], entry.asset, entry.partition, entry.outcome, faults, entry.source, str(entry.seen), seen
        )
    Console(width=None if Console().is_terminal else 200).print(table)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"

"""`etl-assets quarantine …`: look at rows that broke their contract; replay, accept or forget them."""

import getpass
import json
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import typer

from etl_assets.core import registry
from etl_assets.core.results import Ended, with_json
from etl_assets.errors import ConfigurationError, PermanentError, PlatformError, combined
from etl_assets.settings import load_settings

if TYPE_CHECKING:
    from etl_assets.core.database.connections import Database
    from etl_assets.core.slices.entries import Entry, Filter
    from etl_assets.core.slices.replay import Replayed

app = typer.Typer(no_args_is_help=True)
STATUSES = ("open", "replayed", "superseded", "accepted", "gone", "all")
IDS = typer.Argument(None, help="Ids, or their beginnings; without them all that the options choose.", metavar="ID...")
ASSET = typer.Option(None, help="Only of this table, schema.table.")
PARTITION = typer.Option(None, help="Only of this partition.")
COLUMN = typer.Option(None, help="Only with a fault of this column.")
RULE = typer.Option(None, help="Only with a fault of this rule.")
CONTAINING = typer.Option(None, help="Only those whose raw row has this text.")
STATUS = typer.Option("open", help=f"Only of this status: {', '.join(STATUSES)}.")
OLDER_THAN = typer.Option(None, "--older-than", metavar="DAYS", min=0, help="Only those last seen so many days ago.")
REASON = typer.Option(..., help="Why, for those who come after you.")


@app.command("list")
def list_command(
    asset: str | None = ASSET,
    partition: str | None = PARTITION,
    status: str = STATUS,
    column: str | None = COLUMN,
    rule: str | None = RULE,
    containing: str | None = CONTAINING,
    older_than: int | None = OLDER_THAN,
    limit: int = typer.Option(100, min=1, help="At most so many, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="As JSON lines."),
) -> None:
    """What is in quarantine, the newest first."""
    from etl_assets.core.slices.entries import Filter, list_entries

    chosen = _filter(asset, partition, status, column, rule, containing, older_than)
    entries, total = list_entries(_database(), chosen, limit=limit)
    if as_json:
        for entry in entries:
            print(json.dumps(entry.as_dict()))
        return
    _print_table(entries)
    nothing = "nothing is open in quarantine" if chosen == Filter() else "no entry is chosen"
    print(f"{len(entries)} of {total} entries" if total else nothing)


@app.command()
@with_json
def show(entry: str = typer.Argument(help="The entry's id, or its beginning.")) -> object:
    """One entry with all its faults and the raw row, as JSON."""
    from etl_assets.core.slices.entries import find_entry

    found = find_entry(_database(), entry).as_dict()
    print(json.dumps(found, indent=2))
    return found


@app.command("replay")
@with_json
def replay_command(
    entries: list[str] = IDS,
    corrections: list[str] = typer.Option(
        [],
        "--set",
        help="field=value: replace a field of the raw row; value is JSON, or else text.",
        metavar="FIELD=VALUE",
    ),
    asset: str | None = ASSET,
    partition: str | None = PARTITION,
    column: str | None = COLUMN,
    rule: str | None = RULE,
    containing: str | None = CONTAINING,
    reason: str | None = typer.Option(None, help="Why, for those who come after you."),
) -> object:
    """Judge rows anew, after a correction of the contract or of the row, and store those that pass; each once."""
    from etl_assets.core.slices.files import ParquetRoot
    from etl_assets.core.slices.raw_rows import replay_of
    from etl_assets.core.slices.replay import replay

    database, root = _database(), ParquetRoot(load_settings().storage_url)
    corrected = dict(_correction(text) for text in corrections)
    chosen = _chosen(database, entries, asset, partition, "open", column, rule, containing, None)
    if not entries:
        # Of others the rows are in their table, or are not to be: whoever names one by its id is told.
        chosen = [one for one in chosen if replay_of(one.asset).takes(one.outcome)]
    failures: list[PlatformError] = []
    became: Counter[str] = Counter()
    replayed = []
    for entry in chosen:
        try:
            done = replay(
                database,
                root,
                entry.id,
                contract=registry.contract_of(entry.asset),
                corrections=corrected,
                who=getpass.getuser(),
                reason=reason,
            )
        except (ConfigurationError, PermanentError) as error:
            # Those behind it may well be stored.
            failures.append(error)
            continue
        became[done.outcome] += 1
        print(f"{entry.id}: {_said(done)}")
        replayed.append({"id": entry.id, "outcome": done.outcome, "said": _said(done)})
    if not chosen:
        print("no rejected row is chosen")
    if len(chosen) > 1:
        became["failed"] = len(failures)
        print(", ".join(f"{count} {outcome}" for outcome, count in became.items() if count))
    if failures:
        raise combined(failures)
    if became["rejected"]:
        raise Ended(1, {"entries": replayed})
    return {"entries": replayed}


@app.command()
@with_json
def accept(
    entries: list[str] = IDS,
    reason: str = REASON,
    asset: str | None = ASSET,
    partition: str | None = PARTITION,
    column: str | None = COLUMN,
    rule: str | None = RULE,
    containing: str | None = CONTAINING,
    older_than: int | None = OLDER_THAN,
) -> object:
    """Close open entries that nobody will mend; they are kept, with the reason."""
    from etl_assets.core.slices.entries import accept as close

    database = _database()
    chosen = _chosen(database, entries, asset, partition, "open", column, rule, containing, older_than)
    for entry in chosen:
        if entry.status != "open":
            print(f"{entry.id} is {entry.status}, not open: left as it is")
    count = close(database, chosen, registry.contract_of, who=getpass.getuser(), reason=_given(reason))
    print(f"{count} entries accepted: {reason.strip()}")
    return {"accepted": count}


@app.command()
@with_json
def forget(
    entries: list[str] = IDS,
    reason: str = REASON,
    asset: str | None = ASSET,
    partition: str | None = PARTITION,
    status: str = typer.Option("all", help=f"Only of this status: {', '.join(STATUSES)}."),
    column: str | None = COLUMN,
    rule: str | None = RULE,
    containing: str | None = CONTAINING,
    older_than: int | None = OLDER_THAN,
) -> object:
    """Delete entries for good, with the corrections of their rows: raw rows may hold names and addresses."""
    from etl_assets.core.slices.entries import forget as delete

    database = _database()
    chosen = _chosen(database, entries, asset, partition, status, column, rule, containing, older_than)
    count = delete(database, chosen, registry.contract_of, who=getpass.getuser(), reason=_given(reason))
    print(f"{count} entries forgotten: {reason.strip()}")
    return {"forgotten": count}


def _database() -> "Database":
    from etl_assets.core.servers import platform_database

    return platform_database(load_settings())


def _filter(
    asset: str | None,
    partition: str | None,
    status: str,
    column: str | None,
    rule: str | None,
    containing: str | None,
    older_than: int | None,
) -> "Filter":
    from etl_assets.core.slices.entries import Filter

    if asset is not None:
        registry.contract_of(asset)
    if status not in STATUSES:
        raise typer.BadParameter(f"--status {status!r} is none of {', '.join(STATUSES)}")
    age = None if older_than is None else timedelta(days=older_than)
    return Filter(asset, partition, status, column, rule, age, containing)


def _chosen(database: "Database", ids: Sequence[str], *options: str | int | None) -> "list[Entry]":
    """The entries of these ids, or those that the options choose; to choose all takes an option."""
    from etl_assets.core.slices.entries import find_entry, list_entries

    asset, partition, status, *others = options
    filtered = any(option is not None for option in (asset, partition, *others)) or status not in ("open", "all")
    if ids and filtered:
        raise typer.BadParameter("give ids, or options that choose entries: not both")
    if ids:
        return [find_entry(database, identity) for identity in ids]
    if not filtered:
        raise typer.BadParameter("give ids, or say which entries: --asset, --partition, --column, --rule, --containing")
    entries, _ = list_entries(database, _filter(asset, partition, status, *others), limit=None)  # type: ignore[arg-type]
    return entries


def _given(reason: str) -> str:
    if not reason.strip():
        raise typer.BadParameter("--reason is empty: say why")
    return reason.strip()


def _said(done: "Replayed") -> str:
    """What a replay did, for people."""
    if done.outcome == "rejected":
        return "; ".join(done.faults)
    if done.outcome == "done":
        return f"was {done.entry.status} before, nothing was changed"
    if done.outcome == "superseded":
        return f"superseded: {done.entry.asset} has a later record of the same key, which stays"
    return f"stored in {done.entry.asset}"


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
    table = Table("id", "asset", "partition", "outcome", "status", "faults", "source", "seen", "last seen")
    for entry in entries:
        faults = "\n".join(f"{f['column']}: {f['rule']} ({_short(f['raw'])})" for f in entry.faults)
        seen = f"{entry.last_seen:%Y-%m-%d %H:%M}"
        table.add_row(
            entry.id[:8],
            entry.asset,
            entry.partition,
            entry.outcome,
            entry.status,
            faults,
            entry.source,
            str(entry.seen),
            seen,
        )
    Console(width=None if Console().is_terminal else 200).print(table)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"

"""`etl-assets ledger …`: what was written when, from what, by whom; and to tell a Dagster instance of it."""

import json
from typing import TYPE_CHECKING, Any

import typer

from etl_assets.core import registry
from etl_assets.core.results import with_json
from etl_assets.settings import load_settings

if TYPE_CHECKING:
    import dagster as dg

    from etl_assets.core.contracts import Contract
    from etl_assets.core.database.connections import Database

app = typer.Typer(no_args_is_help=True)
# What is done to entries of the quarantine changes no row.
OF_ENTRIES = {"accept": "entries accepted", "forget": "entries forgotten"}
CHANGES = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined", "flagged")


@app.command()
def show(
    table: str = typer.Argument(help="The table, schema.table."),
    partition: str | None = typer.Argument(None, help="One of its slices; without it all.", metavar="[SLICE]"),
    limit: int = typer.Option(20, min=1, help="At most so many commits, the newest first."),
    as_json: bool = typer.Option(False, "--json", help="As JSON lines."),
) -> None:
    """The commits of a table, or of one of its slices: what each changed, and what it was derived from."""
    from etl_assets.core.slices.history import history

    # As the UI writes it, too.
    contract = registry.contract_of(table.replace("/", "."))
    commits = history(_database_of(contract), contract, partition, limit=limit)
    for commit in commits:
        print(json.dumps(commit, default=str) if as_json else "\n".join(_lines(commit)))
    if not commits and not as_json:
        print(f"{table}{'' if partition is None else f'[{partition}]'} has no commit")


@app.command()
@with_json
def sweep() -> object:
    """Delete the files of versions that are not kept, and those that killed writers left; put the copies right."""
    from etl_assets.core.slices.copies import mend
    from etl_assets.core.slices.files import ParquetRoot
    from etl_assets.core.slices.sweeping import sweep as delete

    settings = load_settings()
    database, root = _platform(), ParquetRoot(settings.storage_url)
    contracts = [contract for contract in registry.contracts(registry.PLATFORM) if contract.config.store == "parquet"]
    done = delete(database, root, contracts)
    mended = sum(mend(root, database, contract) for contract in contracts)
    print(f"{done.files} files of {done.slices} slices deleted, {mended} copies put right")
    return {"files": done.files, "slices": done.slices, "copies": mended}


@app.command()
@with_json
def report() -> object:
    """Tell the Dagster instance at DAGSTER_HOME of the slices that are stored and that it does not know, or knows under an older key."""
    import dagster as dg

    from etl_assets.core.dagster.instance import instance_at_home
    from etl_assets.definitions import platform_definitions

    with instance_at_home() as instance:
        told: dict[str, int] = {}
        for asset in platform_definitions().assets or ():
            assert isinstance(asset, dg.AssetsDefinition)
            for key in asset.keys:
                if count := _report(instance, asset, key):
                    told[key.to_user_string()] = count
                    print(f"{key.to_user_string()}: {count}")
    print(f"{sum(told.values())} materialisations reported")
    return {"reported": told}


def _report(instance: "dg.DagsterInstance", asset: "dg.AssetsDefinition", key: "dg.AssetKey") -> int:
    """Report what is stored of an asset and not known to the instance; gives how many materialisations."""
    import dagster as dg

    from etl_assets.core.slices.history import stored_partitions

    table = asset.metadata_by_key[key].get("dagster/table_name")
    if table is None:
        return 0
    contract = registry.contract_of(str(table))
    partitions = asset.partitions_def
    owner = registry.owner_of(contract.config.table)
    names = owner.part("automation", "PARTITIONS_OF_SLICES", {}) if owner else {}
    name_of = names.get(contract.config.table, str)
    commits = {name_of(name): commit for name, commit in stored_partitions(_database_of(contract), contract)}
    if isinstance(partitions, dg.DynamicPartitionsDefinition) and partitions.name and commits:
        instance.add_dynamic_partitions(partitions.name, [name for name in commits if name])
    if partitions is None:
        commits = {"": next(iter(commits.values()))} if commits else {}
        known = {""} if instance.get_latest_materialization_event(key) else set()
    else:
        commits = {
            name: commit
            for name, commit in commits.items()
            if name and (isinstance(partitions, dg.DynamicPartitionsDefinition) or partitions.has_partition_key(name))
        }
        known = instance.get_materialized_partitions(key)
    missing = sorted(set(commits) - known)
    for name in missing:
        metadata = {
            "commit": commits[name] or "from before commits were kept",
            "reported": "by `etl-assets ledger report`",
        }
        instance.report_runless_asset_event(
            dg.AssetMaterialization(asset_key=key, partition=name or None, metadata=metadata)
        )
    return len(missing)


def _lines(commit: dict[str, Any]) -> list[str]:
    """A commit for people."""
    changes = ", ".join(f"{commit[name]:,} {name}" for name in CHANGES if commit[name])
    place = f" [{commit['partition']}]" if commit["partition"] else ""
    lines = [
        f"{commit['committed_at']:%Y-%m-%d %H:%M:%S} {commit['commit_id']}{place}{' (stands)' if commit['stands'] else ''}",
        f"    {commit['mode']} by {commit['run_id']}: {changes or OF_ENTRIES.get(commit['mode'], 'nothing changed')}",
    ]
    for table, commits in commit["inputs"].items():
        shown = [f"{of or 'whole'} {identity}" for of, identity in sorted(commits.items())]
        more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
        lines.append(f"    from {table}: {', '.join(shown[:3])}{more}")
    if commit["source_position"]:
        lines.append(f"    the source stood at {commit['source_position']}")
    if commit["file"]:
        lines.append(f"    file {commit['file']}")
    if commit["remark"]:
        lines.append(f"    {commit['remark']}")
    return lines


def _platform() -> "Database":
    from etl_assets.core.servers import platform_database

    return platform_database(load_settings())


def _database_of(contract: "type[Contract]") -> "Database":
    name = contract.config.database
    database: Database = _platform() if name == registry.PLATFORM else registry.databases()[name]()
    return database

"""What the UI shows of a materialisation: what became of the rows, how long it took, where they are."""

import json
from collections.abc import Sequence
from typing import Any

import dagster as dg
import pandas as pd

from etl_assets.core.contracts import Contract
from etl_assets.core.dagster.contract_types import MODE
from etl_assets.core.database.connections import Database
from etl_assets.core.slices.heads import NO_HEAD, heads_of, key_of
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Outcome

COUNTS = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined", "flagged")
SHOWN_COMMITS = 10


def report(
    context: dg.OutputContext,
    contract: type[Contract],
    outcomes: Sequence[Outcome],
    preview: pd.DataFrame | None,
    *,
    table_rows: int,
    location: str,
    inputs: Inputs,
) -> None:
    """Attach the counts to the materialisation, those of each partition to its own where a run has several.

    Args:
        preview: the first rows of what was stored; none for a stream.
        table_rows: rows in the whole table after the write.
        location: where the table is.
        inputs: what the rows are derived from.
    """
    total = {name: sum(outcome.counts()[name] for outcome in outcomes) for name in COUNTS}
    seconds = sum(outcome.seconds for outcome in outcomes)
    context.add_output_metadata(
        {
            **total,
            "dagster/row_count": table_rows,
            "seconds": round(seconds, 3),
            "bytes": sum(outcome.size for outcome in outcomes),
            "relation": location,
            **commits_of_write(outcomes, inputs),
            **({"preview": dg.MetadataValue.md(as_markdown(preview))} if preview is not None else {}),
        }
    )
    if total["quarantined"]:
        context.log.warning(
            f"{total['quarantined']} rows of {contract.config.table} are in quarantine: `etl-assets quarantine list`"
        )
    if context.has_asset_partitions:
        partitioned = context.definition_metadata[MODE] == "partition"
        for outcome in outcomes:
            context.step_context.add_asset_metadata(
                metadata={
                    **outcome.counts(),
                    "commit": outcome.commit_id,
                    "seconds": round(outcome.seconds, 3),
                    "bytes": outcome.size,
                    **({"dagster/partition_row_count": _rows(outcome)} if partitioned else {}),
                },
                asset_key=context.asset_key,
                partition_key=outcome.slice.name,
            )


def commits_of_write(outcomes: Sequence[Outcome], inputs: Inputs) -> dict[str, Any]:
    """The commits of a write, and those that it was derived from: what `etl-assets ledger show` has more of."""
    shown = [outcome.commit_id for outcome in outcomes[:SHOWN_COMMITS]]
    more = [f"and {len(outcomes) - SHOWN_COMMITS} more"] if len(outcomes) > SHOWN_COMMITS else []
    return {"commit": ", ".join([*shown, *more]) or "none", **derived_from(inputs)}


def derived_from(inputs: Inputs) -> dict[str, Any]:
    """The commits that something was derived from; nothing of what was derived from no table."""
    derived = inputs.as_json()
    return {"derived_from": dg.MetadataValue.json(json.loads(derived))} if derived else {}


def standing_commit(database: Database, slice_: Slice) -> dict[str, Any]:
    """The commit that stands of a slice which an asset has written by itself."""
    return {"commit": heads_of(database, [slice_]).get(key_of(slice_), NO_HEAD).commit_id or "none"}


def _rows(outcome: Outcome) -> int:
    """Rows of a partition that was replaced."""
    return outcome.loaded + outcome.change.unchanged


def as_markdown(frame: pd.DataFrame) -> str:
    """A few rows as a table."""
    if frame.empty:
        return "no rows"
    cells = [
        [str(value).replace("|", "\\|").replace("\n", " ")[:80] for value in row]
        for row in frame.itertuples(index=False)
    ]
    header = [str(name) for name in frame.columns]
    lines = [header, ["---"] * len(header), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)

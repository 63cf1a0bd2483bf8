"""What the UI shows of a materialisation: what became of the rows, how long it took, where they are."""

from collections.abc import Sequence

import dagster as dg
import pandas as pd

from etl_assets.core.contracts import Contract
from etl_assets.core.dagster.contract_types import MODE
from etl_assets.core.slices.writing import Outcome

COUNTS = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined", "flagged")


def report(
    context: dg.OutputContext,
    contract: type[Contract],
    outcomes: Sequence[Outcome],
    preview: pd.DataFrame | None,
    *,
    table_rows: int,
    location: str,
) -> None:
    """Attach the counts to the materialisation, those of each partition to its own where a run has several.

    Args:
        preview: the first rows of what was stored; none for a stream.
        table_rows: rows in the whole table after the write.
        location: where the table is.
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
                    "seconds": round(outcome.seconds, 3),
                    "bytes": outcome.size,
                    **({"dagster/partition_row_count": _rows(outcome)} if partitioned else {}),
                },
                asset_key=context.asset_key,
                partition_key=outcome.slice.name,
            )


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

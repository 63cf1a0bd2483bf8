"""What the UI shows of a relay, a drain and a report."""

from typing import Any

import dagster as dg
import pandas as pd

from etl_assets.core.dagster.materialisation import as_markdown
from etl_assets.systems.production.report.files import ReportFiles
from etl_assets.systems.production.streaming.drain import Drained
from etl_assets.systems.production.streaming.relay import Relayed

UNKNOWN = "the API does not say"
DRAINED = ("received", "inserted", "updated", "unchanged", "deduplicated", "superseded", "rejected", "transactions")


def relayed(done: Relayed, *, seconds: float) -> dict[str, Any]:
    """Metadata of a relay: what it added to the broker, and where the stream stands."""
    return {
        "published": done.published,
        "position": done.position,
        "dagster/row_count": done.position,
        "seconds": round(seconds, 3),
        "source": done.source or UNKNOWN,
        "relation": f"broker, stream {done.stream}",
        "note": "the waiting room is full: the next run goes on after a drain"
        if done.waiting_room_full
        else "complete",
    }


def drained(done: Drained, *, seconds: float, rows: int) -> dict[str, Any]:
    """Metadata of a drain: what became of the records, and the lag before and after it.

    Args:
        rows: of the whole table now.
    """
    lags = {"before": done.lag_before, "after": done.lag}
    return {
        **{name: getattr(done, name) for name in DRAINED},
        **{f"lag_{when}_records": lag.records for when, lag in lags.items()},
        **{f"lag_{when}_entries": lag.batches for when, lag in lags.items()},
        **{f"lag_{when}_seconds": round(lag.seconds, 3) for when, lag in lags.items()},
        "position": done.position,
        "dagster/row_count": rows,
        "seconds": round(seconds, 3),
        "source": done.source or UNKNOWN,
        "relation": f"production.{done.stream}",
    }


def reported(files: ReportFiles, correlations: pd.DataFrame, *, seconds: float) -> dict[str, Any]:
    """Metadata of a report: the answers, the first three of each product, and where the files are."""
    answers = [f"Product {product['product']}: {product['answer']}" for product in files.document["products"]]
    top = correlations[correlations["rank"] <= 3]
    columns = ["product_id", "reading", "rank", "parameter_id", "r", "ci_low", "ci_high", "n", "q", "verdict"]
    return {
        "answer": dg.MetadataValue.md("\n\n".join(answers) or "There is no product."),
        "first_three": dg.MetadataValue.md(as_markdown(top[columns].round(3))),
        "report": dg.MetadataValue.path(str(files.latest_html)),
        "this_run": dg.MetadataValue.path(str(files.html)),
        "dagster/row_count": len(correlations),
        "seconds": round(seconds, 3),
        "relation": str(files.latest_html),
    }

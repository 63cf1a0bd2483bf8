"""The assets of the production system, and what they are given: wiring."""

import time
from typing import Any, Literal

import dagster as dg
import pandas as pd
import pyarrow as pa
from pydantic import Field

from etl_assets.core.contracts.names import natural
from etl_assets.core.dagster.bodies import classified
from etl_assets.core.dagster.broker import BrokerResource
from etl_assets.core.dagster.contract_types import NO_CONTRACT, RETRIES, effect, loads, stored
from etl_assets.core.dagster.database import PostgresResource
from etl_assets.core.dagster.materialisation import as_markdown, derived_from, standing_commit
from etl_assets.core.dagster.steps import inputs_of
from etl_assets.core.slices.slice import Slice
from etl_assets.systems.production.contracts import (
    METRICS,
    WORKORDERS,
    AlignedWorkOrders,
    Metrics,
    ProductCorrelations,
    Stream,
    Workorders,
)
from etl_assets.systems.production.draining import COUNTS, drain
from etl_assets.systems.production.relaying import relay
from etl_assets.systems.production.report import read_findings, write_report
from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.source import ProductionApi
from etl_assets.systems.production.statistics import TOP, AlignmentRules, Method, aligned, correlations, outputs
from etl_assets.systems.production.tables import committed_position, parameter_ids, rows_stored

API_POOL = "production_api"
# Two drains of one table would wait for each other and hold a slot each.
DRAIN_POOL = "production_drain"
UNKNOWN = "the API does not say"
BEST = ["product_id", "reading", "rank", "parameter_id", "r", "ci_low", "ci_high", "n", "q", "verdict"]


class ProductionApiResource(dg.ConfigurableResource[Any]):
    """The API at PRODUCTION_API_URL; settings are read when a run needs it, so that no address is in a run config."""

    def connect(self) -> ProductionApi:
        """The API, ready to be read.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return ProductionApi.from_settings(ProductionSettings.load())


class ReportMethod(dg.ConfigurableResource[Any]):
    """How readings are aligned with work orders, and how strict the statistics are."""

    interpolation: Literal["last", "linear"] = Field(
        default="last", description="What a parameter was between two readings"
    )
    max_age_spacings: float = Field(
        default=3.0,
        gt=0,
        allow_inf_nan=False,
        description="Maximum age of a reading, in median spacings of its parameter",
    )
    min_coverage: float = Field(default=0.5, ge=0, le=1, description="Share of a work order that readings must cover")
    level: float = Field(default=0.04, gt=0, lt=1, description="Largest q of the verdict `supported`")
    correction: Literal["bh", "by"] = Field(
        default="bh", description="Benjamini and Hochberg, or the cautious Benjamini and Yekutieli"
    )

    def alignment(self) -> AlignmentRules:
        """The rules of alignment."""
        return AlignmentRules(self.interpolation, self.max_age_spacings, self.min_coverage)

    def statistics(self) -> Method:
        """The settings of the statistics."""
        return Method(level=self.level, correction=self.correction, min_coverage=self.min_coverage)


def published(stream: Stream) -> dict[str, Any]:
    """The arguments of `dg.asset` for a stream in the broker."""
    return {
        "key_prefix": [stream.contract.schema_name()],
        "name": f"{stream.name}_stream",
        "group_name": stream.contract.schema_name(),
        "kinds": {"redis", "python"},
        "metadata": {NO_CONTRACT: "the records as the source sent them, in the broker until they are in their table"},
        "retry_policy": RETRIES,
        "pool": API_POOL,
    }


@dg.asset(**published(METRICS))
@classified
def metrics_stream(
    production_api: ProductionApiResource, broker: BrokerResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """Readings of machine parameters in the broker, from where the last relay stopped."""
    return _relayed(METRICS, production_api, broker, postgres)


@dg.asset(**published(WORKORDERS))
@classified
def workorders_stream(
    production_api: ProductionApiResource, broker: BrokerResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """Completed work orders in the broker, from where the last relay stopped."""
    return _relayed(WORKORDERS, production_api, broker, postgres)


@dg.asset(**effect(Metrics, kinds={"redis", "python"}), deps=[metrics_stream], pool=DRAIN_POOL)
@classified
def metrics(
    context: dg.AssetExecutionContext, broker: BrokerResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """Readings of machine parameters; the position in the stream is committed with the rows."""
    return _drained(METRICS, broker, postgres, run_id=context.run.run_id)


@dg.asset(**effect(Workorders, kinds={"redis", "python"}), deps=[workorders_stream], pool=DRAIN_POOL)
@classified
def workorders(
    context: dg.AssetExecutionContext, broker: BrokerResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """Work orders as they were completed; the position in the stream is committed with the rows."""
    return _drained(WORKORDERS, broker, postgres, run_id=context.run.run_id)


@dg.asset(
    **stored(AlignedWorkOrders, mode="replace", mirrored=True),
    ins={
        "metrics": loads(Metrics, "parameter_id", "measured_at", "value", form=pa.RecordBatchReader, ordered=True),
        "workorders": loads(Workorders, "product_id", "completed_at", "production"),
    },
)
@classified
def aligned_work_orders(
    production_method: ReportMethod, metrics: pa.RecordBatchReader, workorders: pd.DataFrame
) -> pa.RecordBatchReader:
    """What each parameter was while each work order ran: its time-weighted mean, with the share of time that it covers."""
    orders, _ = outputs(workorders)
    return aligned(metrics, orders, production_method.alignment())


@dg.asset(
    **stored(ProductCorrelations, mode="replace", mirrored=True),
    ins={
        "aligned_work_orders": loads(AlignedWorkOrders, form=pa.Table),
        "workorders": loads(Workorders, "product_id"),
    },
    deps=[metrics],
)
@classified
def product_correlations(
    context: dg.AssetExecutionContext,
    production_method: ReportMethod,
    postgres: PostgresResource,
    aligned_work_orders: pa.Table,
    workorders: pd.DataFrame,
) -> pd.DataFrame:
    """All parameters ranked by |r| with the output of each product, with what each r is worth."""
    return correlations(
        aligned_work_orders,
        production_method.statistics(),
        products=workorders["product_id"].unique().tolist(),
        parameters=parameter_ids(postgres.database, inputs_of(context)),
    )


@dg.asset(
    key_prefix=[Metrics.schema_name()],
    group_name=Metrics.schema_name(),
    kinds={"html", "python"},
    metadata={NO_CONTRACT: "files for people, rendered from product_correlations"},
    retry_policy=RETRIES,
    ins={
        "product_correlations": loads(ProductCorrelations),
        "aligned_work_orders": loads(AlignedWorkOrders, form=pa.Table),
        "workorders": loads(Workorders, "product_id", "completed_at", "production"),
    },
)
@classified
def correlation_report(
    context: dg.AssetExecutionContext,
    production_method: ReportMethod,
    postgres: PostgresResource,
    product_correlations: pd.DataFrame,
    aligned_work_orders: pa.Table,
    workorders: pd.DataFrame,
) -> dg.MaterializeResult[None]:
    """The three parameters that go best with the output of each product, as HTML, CSV and JSON."""
    started = time.perf_counter()
    found = read_findings(
        postgres.database,
        correlations=product_correlations,
        aligned=aligned_work_orders,
        workorders=workorders,
        rules=production_method.alignment(),
        method=production_method.statistics(),
        run_id=context.run.run_id,
    )
    files = write_report(ProductionSettings.load().reports_dir / Metrics.schema_name(), found)
    answers = [f"Product {product['product']}: {product['answer']}" for product in files.document["products"]]
    best = product_correlations[product_correlations["rank"] <= TOP].sort_values(["reading", "rank"])
    best = best.sort_values("product_id", key=lambda ids: ids.map(natural), kind="stable")
    return dg.MaterializeResult(
        metadata={
            "answer": dg.MetadataValue.md("\n\n".join(answers) or "There is no product."),
            "first_three": dg.MetadataValue.md(as_markdown(best[BEST].round(3))),
            "report": dg.MetadataValue.path(str(files.latest_html)),
            "this_run": dg.MetadataValue.path(str(files.html)),
            "dagster/row_count": len(product_correlations),
            "seconds": round(time.perf_counter() - started, 3),
            "relation": str(files.latest_html),
            **derived_from(inputs_of(context)),
        }
    )


def _relayed(
    stream: Stream, api: ProductionApiResource, broker: BrokerResource, postgres: PostgresResource
) -> dg.MaterializeResult[None]:
    """Relay a stream; what that added to the broker, and where the stream stands."""
    started = time.perf_counter()
    done = relay(api.connect(), broker.broker, stream, committed=lambda: committed_position(postgres.database, stream))
    return dg.MaterializeResult(
        metadata={
            "published": done.published,
            "position": done.position,
            "dagster/row_count": done.position,
            "seconds": round(time.perf_counter() - started, 3),
            "source": done.source or UNKNOWN,
            "relation": f"broker, stream {done.stream}",
            "note": "the backlog is full: the next run goes on after a drain" if done.backlog_full else "complete",
        }
    )


def _drained(
    stream: Stream, broker: BrokerResource, postgres: PostgresResource, *, run_id: str
) -> dg.MaterializeResult[None]:
    """Drain a stream; what became of the records, and the lag before and after it."""
    started = time.perf_counter()
    done = drain(postgres.database, broker.broker, stream, run_id=run_id)
    seconds = time.perf_counter() - started
    lags = {"before": done.lag_before, "after": done.lag}
    return dg.MaterializeResult(
        metadata={
            **{name: getattr(done, name) for name in (*COUNTS, "transactions")},
            **{f"lag_{when}_records": lag.records for when, lag in lags.items()},
            **{f"lag_{when}_entries": lag.batches for when, lag in lags.items()},
            **{f"lag_{when}_seconds": round(lag.seconds, 3) for when, lag in lags.items()},
            "position": done.position,
            "dagster/row_count": rows_stored(postgres.database, stream.contract),
            "seconds": round(seconds, 3),
            "source": done.source or UNKNOWN,
            "relation": stream.contract.config.table,
            **standing_commit(postgres.database, Slice(stream.contract)),
        }
    )


ASSETS = [
    metrics_stream,
    workorders_stream,
    metrics,
    workorders,
    aligned_work_orders,
    product_correlations,
    correlation_report,
]

"""The production system without an orchestrator: for the command line, a cron job, or a person with two files."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.database.connections import Database
from etl_assets.core.progress import progress
from etl_assets.core.servers import platform_broker, platform_database
from etl_assets.core.slices import reading
from etl_assets.core.slices.copies import mirror
from etl_assets.core.slices.inputs import Inputs
from etl_assets.core.slices.parquet import ParquetRoot
from etl_assets.core.slices.session import looked_again
from etl_assets.core.slices.slice import Slice
from etl_assets.core.slices.writing import Write, write
from etl_assets.core.sources.streams.broker import Broker
from etl_assets.systems.production.contracts import (
    STREAMS,
    AlignedWorkOrders,
    Metrics,
    ProductCorrelations,
    Stream,
    Workorders,
)
from etl_assets.systems.production.draining import Drained, drain
from etl_assets.systems.production.relaying import relay
from etl_assets.systems.production.report import ReportFiles, read_findings, write_report
from etl_assets.systems.production.settings import ProductionSettings
from etl_assets.systems.production.source import ProductionApi
from etl_assets.systems.production.statistics import AlignmentRules, Method, aligned, correlations, outputs
from etl_assets.systems.production.tables import committed_position, parameter_ids


@dataclass(frozen=True)
class ReportResult:
    """What a report did.

    Attributes:
        copied: by stream, what its drains did, in their order.
        files: where the report is; None of a dry run.
    """

    copied: Mapping[str, Sequence[Drained]]
    files: ReportFiles | None

    @property
    def quarantined(self) -> int:
        """Records that are in quarantine, among them readings that a later one took the place of."""
        return sum(done.superseded + done.rejected for drains in self.copied.values() for done in drains)


def report(
    *,
    rules: AlignmentRules | None = None,
    method: Method | None = None,
    settings: ProductionSettings | None = None,
    database: Database | None = None,
    broker: Broker | None = None,
    api: ProductionApi | None = None,
) -> ReportResult:
    """The whole way: both streams through the broker into their tables, aligned, correlated, reported.

    Args:
        rules, method: how to align, and how strict to be; by default as documented there.
        settings: by default those of the environment.
        database, broker, api: by default those that the settings name. With a database for a dry run the streams alone are judged and compared:
            nothing is aligned, which needs what is stored.

    Raises:
        ConfigurationError: if a setting is missing; names it.
        TransientError: if the API, the broker or the database stays unavailable; nothing is lost, the next call goes on.
        PermanentError: if the API refuses, or streams something else than what is stored.
    """
    settings = settings or ProductionSettings.load()
    database = database or platform_database(settings)
    broker = broker or platform_broker(settings)
    api = api or ProductionApi.from_settings(settings)
    streams = progress(STREAMS, of="stream", name=lambda stream: stream.name)
    if database.is_dry_run:
        return ReportResult({stream.name: [rehearse(stream, api, settings, database)] for stream in streams}, None)
    copied = {stream.name: copy(stream, api, broker, database) for stream in streams}
    files = write_findings(database, settings, rules=rules or AlignmentRules(), method=method or Method())
    return ReportResult(copied, files)


def copy(stream: Stream, api: ProductionApi, broker: Broker, database: Database) -> list[Drained]:
    """Relay and drain a stream until everything that the API has is in the table.

    What waits in the broker is drained first: a relay cannot go on behind an entry that is not its own.
    """
    drains = [drain(database, broker, stream)]
    while True:
        relayed = relay(api, broker, stream, committed=lambda: committed_position(database, stream))
        drains.append(drain(database, broker, stream))
        if not relayed.backlog_full:
            return drains


def rehearse(stream: Stream, api: ProductionApi, settings: ProductionSettings, database: Database) -> Drained:
    """What a drain would do with the records that the API has after those of the table, by way of a stream of this call alone."""
    broker = platform_broker(settings, prefix=f"etl:dry-run:{uuid.uuid4().hex}:")
    try:
        relay(api, broker, stream, committed=lambda: committed_position(database, stream))
        return drain(database, broker, stream)
    finally:
        broker.delete(stream.name)
        broker.close()


def write_findings(
    database: Database, settings: ProductionSettings, *, rules: AlignmentRules, method: Method
) -> ReportFiles:
    """Align, correlate and report what is in the tables."""
    root = ParquetRoot(settings.storage_url)
    looked_again(partial(_align, database, rules))
    mirror(root, database, Slice(AlignedWorkOrders))
    workorders, together, ranked = looked_again(partial(_correlate, database, method))
    mirror(root, database, Slice(ProductCorrelations))
    found = read_findings(
        database,
        correlations=ranked,
        aligned=together,
        workorders=workorders,
        rules=rules,
        method=method,
        run_id=f"script-{uuid.uuid4().hex[:12]}",
    )
    return write_report(settings.reports_dir / Metrics.schema_name(), found)


def _align(database: Database, rules: AlignmentRules) -> None:
    """Store what each parameter was while each work order ran."""
    inputs = Inputs()
    orders, _ = outputs(to_frame(reading.read(database, [Slice(Workorders)], inputs=inputs)))
    columns = ("parameter_id", "measured_at", "value")
    metrics = reading.stream(database, [Slice(Metrics)], columns, ordered=True, inputs=inputs)
    write(database, aligned(metrics, orders, rules), [Slice(AlignedWorkOrders)], Write("replace", inputs=inputs))


def _correlate(database: Database, method: Method) -> tuple[pd.DataFrame, pa.Table, pd.DataFrame]:
    """Store the correlations; gives the work orders and what is aligned with them, too."""
    inputs = Inputs()
    workorders = to_frame(reading.read(database, [Slice(Workorders)], inputs=inputs))
    together = reading.read(database, [Slice(AlignedWorkOrders)], inputs=inputs)
    ranked = correlations(
        together,
        method,
        products=workorders["product_id"].unique().tolist(),
        parameters=parameter_ids(database, inputs),
    )
    write(database, ranked, [Slice(ProductCorrelations)], Write("replace", inputs=inputs))
    return workorders, together, ranked

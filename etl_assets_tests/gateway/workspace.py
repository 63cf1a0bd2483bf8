"""A code location for tests: a job that succeeds, one that fails, one that lasts, one with a configuration, one by day."""

import time

import dagster as dg

DAYS = dg.DailyPartitionsDefinition("2024-01-01", end_date="2024-01-04")


@dg.op
def breaks() -> None:
    raise ValueError("cannot read postgresql://etl:hidden@db/etl\nand more that nobody needs")


@dg.op
def lasts() -> None:
    while True:
        time.sleep(0.05)


@dg.op(config_schema={"number": int})
def counts() -> None:
    pass


@dg.job
def failing_job() -> None:
    breaks()


@dg.job
def lasting_job() -> None:
    lasts()


@dg.job
def configured_job() -> None:
    counts()


@dg.asset(partitions_def=DAYS)
def daily() -> int:
    return 1


@dg.asset
def table() -> int:
    return 1


@dg.asset(key=["lab", "configured"], config_schema={"number": int})
def configured(context: dg.AssetExecutionContext) -> int:
    return int(context.op_config["number"])


@dg.asset
def slow_table() -> None:
    while True:
        time.sleep(0.05)


defs = dg.Definitions(
    assets=[daily, table, configured, slow_table],
    jobs=[
        failing_job,
        lasting_job,
        configured_job,
        dg.define_asset_job("daily_job", [daily], description="One day."),
        dg.define_asset_job("table_job", [table]),
        dg.define_asset_job("lab_job", [configured]),
        dg.define_asset_job("slow_job", [slow_table]),
    ],
    executor=dg.in_process_executor,
)

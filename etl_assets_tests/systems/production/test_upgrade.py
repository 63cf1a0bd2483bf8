"""What the revision before left of the production goes over."""

from importlib import import_module

from etl_assets.core.database.connections import Database
from etl_assets_tests.core.slices.aged import age
from etl_assets_tests.systems.production.world import START, Command, Store, readings, small_records

IDS = import_module("etl_assets.systems.production.migrations.platform.0002_products_and_parameters_are_text").IDS


def test_the_position_of_before_is_found_and_the_report_is_the_same(command: Command) -> None:
    metrics, workorders = small_records()
    first = command.report(metrics, workorders)
    command.database = age(command.database)
    again = command.report(metrics, workorders)
    assert "metrics: 0 new records" in command.out
    assert again["products"] == first["products"]
    command.assert_copied()


def with_numbers(store: Store) -> Database:
    """The tables as the revision before had them: products and parameters as numbers."""
    for table, columns in IDS.items():
        for column in columns:
            rule = f"{table}_{column}"
            store.execute(
                f"ALTER TABLE production.{table} DROP CONSTRAINT {rule}_min_length, DROP CONSTRAINT {rule}_max_length,"
                f" ALTER {column} TYPE bigint USING {column}::bigint, ADD CONSTRAINT {rule}_ge CHECK ({column} >= 0)"
            )
    store.execute("UPDATE etl.production_version SET version_num = '0001'")
    return Database(store.database.url)


def test_products_and_parameters_that_were_numbers_are_their_text_and_all_goes_on(command: Command) -> None:
    metrics, workorders = small_records()
    metrics += readings(12, ["1,5", 2.5], start=START + 1)
    first = command.report(metrics, workorders)
    command.database = with_numbers(command)

    again = command.report(metrics, workorders)

    assert again["products"] == first["products"]
    assert "metrics: 0 new records" in command.out
    assert command.column("SELECT DISTINCT parameter_id FROM production.metrics ORDER BY 1") == [
        "0",
        "1",
        "12",
        "2",
        "3",
    ]
    command.assert_copied()
    [entry] = command.column("SELECT id FROM etl.quarantine")
    assert command("quarantine", "replay", entry, "--set", "value=1.5") == 0, command.err
    assert command.column("SELECT value FROM production.metrics WHERE parameter_id = '12' ORDER BY measured_at") == [
        1.5,
        2.5,
    ]

"""What every IO manager has to do, whatever it stores in; a store's test class inherits it."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import dagster as dg
import pandas as pd
import pyarrow as pa
import pytest

from etl_assets.core.contracts import ByPartition, Contract, Fault, Record, Split
from etl_assets.core.dagster.contract_types import loads, quiet, single_run, stored

DAY = datetime(2024, 5, 20, tzinfo=UTC)
SITES = dg.StaticPartitionsDefinition(["north", "south", "x'; DROP TABLE t; --"])
DAYS = dg.DailyPartitionsDefinition(start_date="2024-05-20", end_date="2024-05-24")


def rows(*values: float, site: str = "north", at: datetime = DAY) -> pd.DataFrame:
    """Readings with identities 0, 1, …, a minute apart."""
    return pd.DataFrame(
        {
            "id": range(len(values)),
            "site": site,
            "at": [at + timedelta(minutes=i) for i in range(len(values))],
            "value": list(values),
        }
    )


class IOManagerConformance:
    """Inherited by the test class of each IO manager, which gives contracts that live in its store, and its resources.

    Attributes:
        whole, by_site, by_day, by_both: contracts with columns id, site, at, value (at most 100), partitioned so.
        modes: how a whole table and a partition are stored.
    """

    whole: ClassVar[type[Contract]]
    by_site: ClassVar[type[Contract]]
    by_day: ClassVar[type[Contract]]
    by_both: ClassVar[type[Contract]]

    @pytest.fixture
    def resources(self) -> dict[str, Any]:
        raise NotImplementedError

    def stored_values(self, resources: dict[str, Any], contract: type[Contract]) -> list[float]:
        """All values in the store, sorted."""
        raise NotImplementedError

    def asset(self, contract: type[Contract], value: Any, *, mode: str, partitions: Any = None) -> dg.AssetsDefinition:
        @dg.asset(**stored(contract, mode=mode), partitions_def=partitions)
        def made() -> Any:
            return value() if callable(value) else value

        return made

    def reader(
        self, contract: type[Contract], form: type, seen: list[Any], *columns: str, partitions: Any = None
    ) -> Any:
        wanted = loads(contract, *columns, form=form)._replace(key=dg.AssetKey(contract.table_name()))

        @dg.asset(
            name=f"{contract.table_name()}_reader",
            ins={"given": wanted},
            partitions_def=partitions,
            backfill_policy=single_run(),
        )
        def reader(given: Any) -> None:
            seen.append((type(given), given.read_all() if isinstance(given, pa.RecordBatchReader) else given))

        return reader

    def run(self, assets: Sequence[Any], resources: dict[str, Any], **options: Any) -> dg.ExecuteInProcessResult:
        with quiet():
            return dg.materialize(list(assets), resources=resources, raise_on_error=False, **options)

    @pytest.mark.parametrize("form", [pd.DataFrame, pa.Table, pa.RecordBatchReader])
    def test_what_was_stored_is_loaded_in_each_form(self, resources: dict[str, Any], form: type) -> None:
        seen: list[Any] = []
        made = self.asset(self.whole, rows(1.5, 2.5), mode="replace")
        assert self.run([made, self.reader(self.whole, form, seen)], resources).success
        kind, value = seen[0]
        assert issubclass(kind, form)
        frame = value if isinstance(value, pd.DataFrame) else value.to_pandas()
        assert sorted(frame["value"]) == [1.5, 2.5]
        assert str(frame["at"].dtype) == "datetime64[us, UTC]"

    @pytest.mark.parametrize(
        "given",
        [
            lambda f: f,
            lambda f: pa.Table.from_pandas(f, preserve_index=False),
            lambda f: pa.Table.from_pandas(f, preserve_index=False).to_reader(),
            lambda f: Split(f, []),
        ],
        ids=["frame", "table", "batches", "split"],
    )
    def test_each_form_of_output_is_stored(self, resources: dict[str, Any], given: Any) -> None:
        result = self.run([self.asset(self.whole, lambda: given(rows(3.0, 4.0)), mode="replace")], resources)
        assert result.success
        assert self.stored_values(resources, self.whole) == [3.0, 4.0]

    def test_an_input_asks_only_for_its_columns(self, resources: dict[str, Any]) -> None:
        seen: list[Any] = []
        made = self.asset(self.whole, rows(1.0), mode="replace")
        assert self.run([made, self.reader(self.whole, pd.DataFrame, seen, "value", "id")], resources).success
        assert sorted(seen[0][1].columns) == ["id", "value"]

    def test_a_bad_row_is_in_quarantine_and_the_others_are_loaded(self, resources: dict[str, Any]) -> None:
        result = self.run([self.asset(self.whole, rows(1.0, 101.0, 3.0), mode="replace")], resources)
        assert self.stored_values(resources, self.whole) == [1.0, 3.0]
        metadata = self.metadata(result)[None]
        assert (metadata["received"], metadata["quarantined"]) == (3, 1)
        entry = self.quarantine(resources)[0]
        assert entry["outcome"] == "rejected"
        assert '"column": "value"' in entry["faults"]
        assert "101.0" in entry["raw"]

    def test_records_of_a_split_are_stored_and_counted(self, resources: dict[str, Any]) -> None:
        rejected = Record((Fault("id", "unknown user", 7),), {"id": 7}, "users.csv, line 7")
        flagged = Record((Fault("value", "odd", 1.0),), {"id": 0}, "users.csv, line 1", "flagged")
        result = self.run([self.asset(self.whole, Split(rows(1.0), [rejected, flagged]), mode="replace")], resources)
        metadata = self.metadata(result)[None]
        assert (metadata["received"], metadata["quarantined"], metadata["flagged"]) == (2, 1, 1)
        assert sorted(entry["outcome"] for entry in self.quarantine(resources)) == ["flagged", "rejected"]

    def test_rows_that_were_left_out_as_repetitions_are_counted(self, resources: dict[str, Any]) -> None:
        split = Split(rows(1.0, 2.0), deduplicated=3)
        metadata = self.metadata(self.run([self.asset(self.whole, split, mode="replace")], resources))[None]
        assert (metadata["received"], metadata["inserted"], metadata["deduplicated"]) == (5, 2, 3)

    def test_a_second_run_with_the_same_rows_writes_nothing_and_says_so(self, resources: dict[str, Any]) -> None:
        made = self.asset(self.whole, rows(1.0, 2.0), mode="replace")
        self.run([made], resources)
        metadata = self.metadata(self.run([made], resources))[None]
        assert (metadata["inserted"], metadata["updated"], metadata["deleted"], metadata["unchanged"]) == (0, 0, 0, 2)

    def test_a_partition_is_replaced_and_its_neighbour_is_left_alone(self, resources: dict[str, Any]) -> None:
        for site, values in (("north", (1.0, 2.0)), ("south", (8.0,)), ("north", (3.0,))):
            frame = rows(*values, site=site).assign(id=lambda f, site=site: f["id"] + (100 if site == "south" else 0))
            made = self.asset(self.by_site, frame, mode="partition", partitions=SITES)
            assert self.run([made], resources, partition_key=site).success
        assert self.stored_values(resources, self.by_site) == [3.0, 8.0]

    def test_a_hostile_partition_name_is_just_a_name(self, resources: dict[str, Any]) -> None:
        hostile = "x'; DROP TABLE t; --"
        seen: list[Any] = []
        made = self.asset(self.by_site, rows(5.0, site=hostile), mode="partition", partitions=SITES)
        reader = self.reader(self.by_site, pd.DataFrame, seen, partitions=SITES)
        assert self.run([made, reader], resources, partition_key=hostile).success
        assert list(seen[0][1]["site"]) == [hostile]

    def test_several_partitions_of_one_run_are_split_stored_and_loaded_as_one(self, resources: dict[str, Any]) -> None:
        frame = pd.concat([rows(float(d), at=DAY + timedelta(days=d)).assign(id=d) for d in range(3)])
        seen: list[Any] = []
        made = self.asset(self.by_day, frame, mode="partition", partitions=DAYS)
        tags = {"dagster/asset_partition_range_start": "2024-05-20", "dagster/asset_partition_range_end": "2024-05-22"}
        reader = self.reader(self.by_day, pd.DataFrame, seen, partitions=DAYS)
        result = self.run([made, reader], resources, tags=tags)
        assert result.success
        assert sorted(seen[0][1]["value"]) == [0.0, 1.0, 2.0]
        by_partition = self.metadata(result)
        assert {key: m["inserted"] for key, m in by_partition.items()} == {
            "2024-05-20": 1,
            "2024-05-21": 1,
            "2024-05-22": 1,
        }

    def test_partitions_made_one_after_another_are_each_stored_before_the_next_is_made(
        self, resources: dict[str, Any]
    ) -> None:
        written_before: list[int] = []

        def parts() -> Iterator[tuple[str, pd.DataFrame]]:
            for d in range(3):
                with resources["postgres"].database.connect() as connection:
                    written_before.append(connection.execute("SELECT count(*) FROM etl.ledger").fetchone()[0])
                day = DAY + timedelta(days=d)
                yield f"{day:%Y-%m-%d}", rows(float(d), at=day).assign(id=d)

        made = self.asset(self.by_day, lambda: ByPartition(parts()), mode="partition", partitions=DAYS)
        tags = {"dagster/asset_partition_range_start": "2024-05-20", "dagster/asset_partition_range_end": "2024-05-22"}
        result = self.run([made], resources, tags=tags)
        assert result.success
        assert written_before == [0, 1, 2]
        assert self.stored_values(resources, self.by_day) == [0.0, 1.0, 2.0]
        assert {key: m["inserted"] for key, m in self.metadata(result).items()} == {
            "2024-05-20": 1,
            "2024-05-21": 1,
            "2024-05-22": 1,
        }

    @pytest.mark.parametrize(
        ("days", "said"), [((20, 21, 20), "2024-05-20 came twice"), ((20,), "nothing came for partition 2024-05-21")]
    )
    def test_a_partition_that_came_twice_or_not_at_all_is_named(
        self, resources: dict[str, Any], days: tuple[int, ...], said: str
    ) -> None:
        parts = [(f"2024-05-{d}", rows(1.0, at=DAY.replace(day=d)).assign(id=d)) for d in days]
        made = self.asset(self.by_day, lambda: ByPartition(parts), mode="partition", partitions=DAYS)
        tags = {"dagster/asset_partition_range_start": "2024-05-20", "dagster/asset_partition_range_end": "2024-05-21"}
        result = self.run([made], resources, tags=tags)
        assert not result.success
        assert said in self.failure(result)

    def test_partitions_of_two_dimensions(self, resources: dict[str, Any]) -> None:
        partitions = dg.MultiPartitionsDefinition({"site": SITES, "day": DAYS})
        made = self.asset(self.by_both, rows(1.0, 2.0, site="south"), mode="partition", partitions=partitions)
        key = dg.MultiPartitionKey({"site": "south", "day": "2024-05-20"})
        assert self.run([made], resources, partition_key=key).success
        assert self.stored_values(resources, self.by_both) == [1.0, 2.0]

    def test_a_row_outside_its_partition_is_an_error_and_nothing_is_written(self, resources: dict[str, Any]) -> None:
        made = self.asset(self.by_site, rows(1.0, site="south"), mode="partition", partitions=SITES)
        result = self.run([made], resources, partition_key="north")
        assert not result.success
        assert "outside partition north" in self.failure(result)
        assert self.stored_values(resources, self.by_site) == []

    def test_an_additional_column_fails_before_anything_is_deleted(self, resources: dict[str, Any]) -> None:
        self.run([self.asset(self.whole, rows(1.0), mode="replace")], resources)
        result = self.run([self.asset(self.whole, rows(2.0).assign(extra=1), mode="replace")], resources)
        assert not result.success
        assert "extra" in str([event.event_specific_data for event in result.all_events])
        assert self.stored_values(resources, self.whole) == [1.0]

    def test_a_retyped_column_is_named(self, resources: dict[str, Any]) -> None:
        self.run([self.asset(self.whole, rows(1.0), mode="replace")], resources)
        result = self.run([self.asset(self.whole, rows(2.0).assign(site=[5]), mode="replace")], resources)
        assert "column site is int64" in self.failure(result)
        assert self.stored_values(resources, self.whole) == [1.0]

    def test_a_permanent_failure_is_not_retried(self, resources: dict[str, Any]) -> None:
        attempts = []

        def fail() -> pd.DataFrame:
            attempts.append(1)
            return rows(2.0).assign(site=[5])

        assert not self.run([self.asset(self.whole, fail, mode="replace")], resources).success
        assert len(attempts) == 1

    def test_an_empty_frame_empties_the_table(self, resources: dict[str, Any]) -> None:
        self.run([self.asset(self.whole, rows(1.0), mode="replace")], resources)
        result = self.run([self.asset(self.whole, rows().astype(rows(1.0).dtypes), mode="replace")], resources)
        assert result.success
        assert self.stored_values(resources, self.whole) == []

    def test_the_counts_balance(self, resources: dict[str, Any]) -> None:
        frame = pd.concat([rows(1.0, 2.0, 101.0), rows(9.0)], ignore_index=True)
        self.run([self.asset(self.whole, frame, mode="replace")], resources)
        with resources["postgres"].database.connect() as connection:
            counts = connection.execute(
                "SELECT received, inserted, updated, unchanged, deduplicated, quarantined FROM etl.ledger"
            ).fetchall()
        assert counts == [(4, 2, 0, 0, 1, 1)]
        assert self.stored_values(resources, self.whole) == [2.0, 9.0]

    def test_the_materialisation_tells_where_and_how_much(self, resources: dict[str, Any]) -> None:
        metadata = self.metadata(self.run([self.asset(self.whole, rows(1.0, 2.0), mode="replace")], resources))[None]
        assert metadata["dagster/row_count"] == 2
        assert metadata["bytes"] > 0
        assert self.whole.table_name() in metadata["relation"]
        assert "| 0 | north |" in metadata["preview"]

    def metadata(self, result: dg.ExecuteInProcessResult) -> dict[str | None, dict[str, Any]]:
        """What was reported, by partition."""
        return {
            event.partition: {
                name: value.value for name, value in event.step_materialization_data.materialization.metadata.items()
            }
            for event in result.get_asset_materialization_events()
            if not event.asset_key.to_user_string().endswith("_reader")  # type: ignore[union-attr]
        }

    def failure(self, result: dg.ExecuteInProcessResult) -> str:
        """The text of the failed step."""
        (failed,) = [event for event in result.all_events if event.is_step_failure]
        return str(failed.step_failure_data.error_display_string) + str(failed.step_failure_data.user_failure_data)

    def quarantine(self, resources: dict[str, Any]) -> list[dict[str, Any]]:
        """All entries of the quarantine."""
        from psycopg.rows import dict_row

        with (
            resources["postgres"].database.connect() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            return cursor.execute("SELECT * FROM etl.quarantine").fetchall()

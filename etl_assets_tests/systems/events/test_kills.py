"""What the kill proof looks with: it must not take its own way of looking for a fault of the platform."""

import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets_tests.systems.events.kills import ids_of


def test_a_file_that_is_replaced_while_it_is_looked_at_is_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    versions = [[1, 2], list(range(500))]

    def replace(number: int) -> None:
        pq.write_table(pa.table({"global_event_id": versions[number % 2]}), path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    replace(0)
    writer = threading.Thread(target=lambda: [replace(number) for number in range(300)])
    writer.start()
    seen = []
    while writer.is_alive():
        seen.append(ids_of(path))
    writer.join()
    assert seen
    assert [ids for ids in seen if ids not in versions] == []

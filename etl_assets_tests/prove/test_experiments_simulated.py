"""The simulated files with their faults, in every layout: what is planted is in quarantine, and the rest is in the tables."""

import json
from datetime import date
from pathlib import Path

import pytest

from etl_assets.core.database.connections import Database
from etl_assets.systems import experiments
from etl_assets.systems.experiments.simulator import LAYOUTS, write_files
from etl_assets_tests.systems.experiments.model import Model
from etl_assets_tests.systems.experiments.world import World

AS_OF = date(2023, 12, 31)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_faulty_files_of_each_layout_load_but_for_their_faults_which_are_told_by_line_and_column(
    database: Database, data_dir: Path, tmp_path: Path, layout: str
) -> None:
    world = World(database, tmp_path / "files")
    written = write_files(world.folder, layout=layout, faults=True)
    done = experiments.load(world.folder, as_of=AS_OF, database=database)
    model = Model.of(written, AS_OF)
    assert world.tables() == model.tables
    told = [
        (asset, source, fault["column"]) for asset, source, faults in world.quarantine() for fault in json.loads(faults)
    ]
    assert sorted(told) == sorted(model.quarantine)
    assert len(told) == len(written.faults) == 11
    assert done.quarantined == len({(fault.file, fault.line) for fault in written.faults}) == 10
    assert (done.repeated_compound_ids, done.tables[3].change.inserted) == (
        written.repeated_compound_ids,
        written.pairs,
    )
    assert {entry[0].removeprefix("experiments."): entry[1] for entry in world.ledger()[:4]} == model.received

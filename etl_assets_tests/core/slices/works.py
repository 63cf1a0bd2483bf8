"""What writers and readers of a history do, each as its callers do it."""

import random
from collections.abc import Callable
from typing import Any

from etl_assets.core.database.connections import Database
from etl_assets.core.slices.entries import Entry, Filter, accept, list_entries
from etl_assets.core.slices.files import DamagedFile
from etl_assets.core.slices.inputs import Inputs, standing_inputs
from etl_assets.core.slices.lock import locked
from etl_assets.core.slices.parquet import NothingStored, read_parquet, write_parquet
from etl_assets.core.slices.reading import read
from etl_assets.core.slices.replay import replay
from etl_assets.core.slices.session import Outdated, looked_again
from etl_assets.core.slices.sweeping import sweep
from etl_assets.core.slices.writing import Outcome, Write, write, write_together
from etl_assets.errors import PermanentError, TransientError
from etl_assets_tests.core.slices.model import (
    SITES,
    TABLES,
    Files,
    Intent,
    Place,
    Row,
    Signals,
    as_rows,
    as_table,
    derive,
    slice_of,
)

MODES = {
    "plant.signals": ("partition", "upsert", "replace"),
    "plant.files": ("partition", "snapshot", "replace"),
    "plant.derived": ("partition", "upsert"),
    "plant.derived_files": ("partition", "snapshot"),
}
DERIVED = ("plant.derived", "plant.derived_files")
RETRIES = 4


def answer(look: int, place: Place) -> list[Row]:
    """What a source says at a look: some rows change, one comes and goes, one is given twice, one is wrong and later right."""
    rows: list[Row] = []
    for site in [place[1]] if place[1] else SITES:
        rows += [(f"{site}1", site, float(look % 900), look), (f"{site}2", site, float(look // 3 % 900), look // 3)]
        if look % 2:
            rows.append((f"{site}3", site, None, look))
        if look % 4 == 1:
            rows.insert(0, (f"{site}1", site, 0.5, look))
        if look % 3:
            rows.append((f"{site}9", site, 5000.0, 0))
        elif look % 6 == 0:
            rows.append((f"{site}9", site, 9.0, 0))
    return rows


class Works:
    """What actors do."""

    def __init__(self, history: Any, database: Database, place: Place, mode: int) -> None:
        self.history, self.database, self.place = history, database, place
        self.model, self.root = history.model, history.root
        self.barrier = history.barriers.barrier
        self.counted = history.world.counted
        self.mode, self.number = mode, mode
        self.site = place[1] or "a"
        self.asked: int | None = None

    def of(self, kind: str) -> Callable[[], object]:
        """The work of a kind, repeated as its callers repeat it."""
        work = getattr(self, f"_{kind.replace(' ', '_')}")
        return lambda: self._repeated(work)

    def _repeated(self, work: Callable[[], object]) -> None:
        for attempt in range(RETRIES):
            try:
                looked_again(lambda: self._counted(work))
                return
            except TransientError:
                self.counted["tried again"] += 1
                if attempt == RETRIES - 1:
                    raise
                self.barrier("again")

    def _counted(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Outdated as error:
            self.counted[type(error).__name__] += 1
            raise

    def _write(self, intent: Intent, **how: Any) -> Outcome:
        name = self.history.intend(intent)
        slices = [slice_of(intent.place)]
        contract = TABLES[intent.place[0]]
        data = as_table(contract, intent.rows)
        write_ = Write(intent.mode, run_id=name, batch=intent.batch, **how)
        if contract.config.store == "parquet":
            return write_parquet(self.root, self.database, data, slices, write_)[0]
        return write(self.database, data, slices, write_)[0]

    def ask(self) -> int:
        """Ask the source: no two looks have the same number."""
        self.barrier("ask")
        look = self.history.next_look()
        self.barrier("asked")
        return look

    def _source(self) -> None:
        mode = MODES[self.place[0]][self.mode]
        mode = "replace" if mode == "partition" and not self.place[1] else mode

        with locked(self.database, [slice_of(self.place)]) as lock:
            look = self.asked or self.ask()
            self._write(Intent(self.place, mode, tuple(answer(look, self.place)), look=look), lock=lock)
        self.history.stored(self.place, look)

    def _together(self) -> None:
        """Two slices in one commit: each reader sees both as they were, or as they are."""
        places: list[Place] = [("plant.signals", site) for site in SITES]
        with locked(self.database, [slice_of(place) for place in places]) as lock:
            look = self.ask()
            mode = MODES["plant.signals"][self.mode]
            intents = [Intent(place, mode, tuple(answer(look, place)), look=look) for place in places]
            how = Write(mode, run_id=self.history.intend(*intents), lock=lock)
            write_together(self.database, [(as_table(Signals, one.rows), slice_of(one.place)) for one in intents], how)
        for place in places:
            self.history.stored(place, look)

    def _hand(self) -> None:
        """Rows in hand, as of a person."""
        rows = answer(self.history.next_batch(), self.place)
        mode = MODES[self.place[0]][self.mode]
        mode = "replace" if mode == "partition" and not self.place[1] else mode
        self.barrier("asked")
        self._write(Intent(self.place, mode, tuple(rows)))

    def _derived(self) -> None:
        inputs, jumps = Inputs(), self.history.jumps
        signals = read(self.database, [slice_of(("plant.signals", self.site))], inputs=inputs)
        self.barrier("read")
        try:
            files = read_parquet(self.root, self.database, [slice_of(("plant.files", self.site))], inputs=inputs)
        except NothingStored:
            files = as_table(Files, [])
        except DamagedFile:
            self._require_jump(since=jumps)
            raise TransientError("a version was given up while it was read") from None
        self.barrier("read")
        self._store_derived(as_rows(signals), as_rows(files), inputs)

    def _store_derived(self, signals: list[Row], files: list[Row], inputs: Inputs) -> None:
        table = DERIVED[self.number % 2]
        rows = derive(self.site, signals, files)
        mode = MODES[table][0 if self.number < 2 else -1]
        # An upsert of what was derived leaves rows whose inputs are gone: it is the writer's choice, and not of this model.
        mode = "partition" if mode == "upsert" else mode
        self._write(Intent((table, self.site), mode, tuple(rows), derived=True), inputs=inputs)

    def _chain(self) -> None:
        """Rows in hand are stored, and what follows from them is derived without reading them."""
        batch = self.history.next_batch()
        written = []
        given: dict[str, list[Row]] = {}
        for table in ("plant.signals", "plant.files"):
            # Neither a wrong row nor one that is given twice.
            rows = answer(12 * batch + 3, (table, self.site))
            outcome = self._write(Intent((table, self.site), "partition", tuple(rows)))
            given[table] = rows
            written.append((slice_of((table, self.site)), outcome.content_hash))
            self.barrier("read")
        inputs = standing_inputs(self.database, written)
        self.barrier("read")
        self._store_derived(given["plant.signals"], given["plant.files"], inputs)

    def _entry(self) -> Entry | None:
        table, partition = self.place
        found, _ = list_entries(self.database, Filter(table, partition, "all"))
        return min(found, key=lambda entry: entry.id, default=None)

    def _replay(self) -> None:
        entry = self._entry()
        if entry is None:
            return
        corrected: Row = (entry.raw["id"], entry.raw["site"], 7.0 + self.number, 0)
        name = self.history.intend(Intent(self.place, "replay", (corrected,), replayed=corrected[0]))
        try:
            done = replay(
                self.database,
                self.root,
                entry.id,
                contract=TABLES[self.place[0]],
                corrections={"value": corrected[2]},
                reason=name,
            )
        except PermanentError as error:
            if "is gone" not in f"{error}":
                raise
            return
        assert done.outcome != "rejected", done

    def _accept(self) -> None:
        entry = self._entry()
        if entry is not None:
            name = self.history.intend(Intent(self.place, "accept", accepted=(entry.raw["id"],)))
            accept(self.database, [entry], lambda table: TABLES[table], who="who", reason=name)

    def _append(self) -> None:
        number = 1000 * (self.mode + 1)
        batch = f"batch {self.mode}"
        self._write(
            Intent(
                ("plant.batches", self.site),
                "append",
                ((self.site, number), (self.site, number + 1)),
                batch=f"{batch} {self.site}",
            )
        )

    def _sweep(self) -> None:
        sweep(self.database, self.root, [c for c in TABLES.values() if c.config.store == "parquet"])

    def _read(self) -> None:
        table = self.place[0]
        wanted = [self.place] if self.mode else [(table, site) for site in SITES]
        since, jumps = self.model.seq, self.history.jumps
        try:
            if TABLES[table].config.store == "parquet":
                found = read_parquet(self.root, self.database, [slice_of(place) for place in wanted])
            else:
                found = read(self.database, [slice_of(place) for place in wanted])
        except NothingStored:
            found = as_table(Signals, [])
        except DamagedFile:
            self._require_jump(since=jumps)
            return
        rows = as_rows(found)
        sites = SITES if not self.mode or not self.place[1] else self.place[1:]
        by_site = {(table, site): [row for row in rows if row[1] == site] for site in sites}
        assert self.model.stood(since, by_site), f"a reader saw {by_site}, which never stood since commit {since}"

    def _as_of(self) -> None:
        found = [row for row in self.model.known.values() if row["asset"] == "plant.files" and row["file"]]
        if not found:
            return
        row = random.Random(self.number).choice(found)
        place = (row["asset"], row["partition"])
        try:
            rows = as_rows(read_parquet(self.root, self.database, [slice_of(place)], as_of=row["commit_id"]))
        except PermanentError:
            assert self.history.jumps, f"{row} is not kept"
            return
        assert rows == self.model.file_rows[row["file"]], f"{row['commit_id']} of {place} holds {rows}"

    def _require_jump(self, *, since: int) -> None:
        """A version is deleted a day after it was given up: nobody who reads meets that, unless a clock has jumped."""
        assert self.history.jumps > since, "a reader met a hole"

"""What must stand after each commit, in memory: the plain model that the one commit is held against.

The model is told beforehand what each writer gives (`Intent`), and finds in the ledger which of it was committed. From that alone it knows the rows of all
slices, the counts, the heads, the entries of the quarantine; and compares them with what is there.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

from etl_assets.core.contracts import Contract, column
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.slices.files import ParquetRoot, names_in
from etl_assets.core.slices.slice import Slice

HIGHEST = 1000.0
COUNTS = ("received", "inserted", "updated", "deleted", "unchanged", "deduplicated", "quarantined")
WHOLE = ("replace", "partition", "snapshot")
SITES = ("a", "b")


class Signals(Contract):
    """Signals of sites, in Postgres."""

    id: str = column("Identity")
    site: str = column("Site")
    value: float | None = column("What", le=HIGHEST)
    look: int = column("Number of the look by which the source gave it")

    class Config:
        table = "plant.signals"
        key = ("id",)
        partition_by = "site"
        may_be_empty = True


class Files(Contract):
    """The same, in files."""

    id: str = column("Identity")
    site: str = column("Site")
    value: float | None = column("What", le=HIGHEST)
    look: int = column("Number of the look by which the source gave it")

    class Config:
        table = "plant.files"
        store = "parquet"
        key = ("id",)
        partition_by = "site"
        may_be_empty = True
        versions_kept = 2


class Derived(Contract):
    """Derived from both, in Postgres."""

    id: str = column("Identity")
    site: str = column("Site")
    value: float | None = column("What", le=HIGHEST)
    look: int = column("Number of the look by which the source gave it")

    class Config:
        table = "plant.derived"
        key = ("id",)
        partition_by = "site"
        may_be_empty = True


class DerivedFiles(Contract):
    """Derived from both, in files."""

    id: str = column("Identity")
    site: str = column("Site")
    value: float | None = column("What", le=HIGHEST)
    look: int = column("Number of the look by which the source gave it")

    class Config:
        table = "plant.derived_files"
        store = "parquet"
        key = ("id",)
        partition_by = "site"
        may_be_empty = True


class Batches(Contract):
    """Rows without identity, appended by batch."""

    site: str = column("Site")
    look: int = column("Number of the batch")

    class Config:
        table = "plant.batches"
        partition_by = "site"
        may_be_empty = True


TABLES: Mapping[str, type[Contract]] = {c.config.table: c for c in (Signals, Files, Derived, DerivedFiles, Batches)}
IN_POSTGRES = [name for name, contract in TABLES.items() if contract.config.store == "postgres"]
Row = tuple[Any, ...]
Place = tuple[str, str]


def slice_of(place: Place) -> Slice:
    table, partition = place
    return Slice(TABLES[table], partition, {"site": partition} if partition else {})


def as_rows(table: pa.Table, contract: type[Contract] = Signals) -> list[Row]:
    return list(zip(*(table[name].to_pylist() for name in contract.columns), strict=True))


def as_table(contract: type[Contract], rows: Iterable[Row]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(contract.columns)
    schema = arrow_schema(contract)
    return pa.table([pa.array(values, of.type) for values, of in zip(columns, schema, strict=True)], schema=schema)


def derive(site: str, signals: Iterable[Row], files: Iterable[Row]) -> list[Row]:
    """What is derived of a site: any function of both."""
    found = list(files)
    total = sum(value or 0.0 for _, _, value, _ in found)
    return [
        (f"{i}-d", site, (value or 0.0) + total, look + sum(row[3] for row in found))
        for i, _, value, look in sorted(signals)
    ]


@dataclass(frozen=True)
class Intent:
    """What a writer is about to commit.

    Attributes:
        look: by which its source gave the rows, asked under the lock; None for rows that were in hand.
        derived: whether the rows are derived.
        replayed: id of the row that is replayed, as corrected in `rows`.
        accepted: ids of rows whose entries are closed.
        batch: of what is appended.
    """

    place: Place
    mode: str
    rows: tuple[Row, ...] = ()
    look: int | None = None
    derived: bool = False
    replayed: str | None = None
    accepted: tuple[str, ...] = ()
    batch: str | None = None


@dataclass
class Entry:
    """A rejected row: its state, the commit that met it last, and when that was in the order of commits."""

    status: str
    commit_id: str
    met: int
    correction: Row | None = None


class Version(NamedTuple):
    """What stood after a commit: rows by site of each table, commits by slice."""

    rows: Mapping[Place, tuple[Row, ...]]
    heads: Mapping[Place, str]


@dataclass
class Model:
    """All that was committed in one history.

    Attributes:
        seq: number of commits.
        rows: by table and site, in the order in which they were given.
        versions: what stood, by `seq`.
        checked: by name of a write `seq` when it had checked all that it has to before its COMMIT.
        looks: the last look, by table and site.
    """

    root: ParquetRoot
    seq: int = 0
    intents: dict[str, Sequence[Intent]] = field(default_factory=dict)
    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[Place, list[Row]] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    heads: dict[Place, str] = field(default_factory=dict)
    files: dict[Place, str] = field(default_factory=dict)
    looks: dict[Place, int] = field(default_factory=dict)
    entries: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    batches: set[str] = field(default_factory=set)
    versions: list[Version] = field(default_factory=list)
    states: dict[tuple[Any, ...], tuple[int, list[Row]]] = field(default_factory=dict)
    checked: dict[str, int] = field(default_factory=dict)
    bases: dict[tuple[Place, Place], int] = field(default_factory=dict)
    file_rows: dict[str, list[Row]] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stand()

    def intend(self, *intents: Intent) -> str:
        """Give what will be committed at once a name that the ledger keeps."""
        name = f"write {len(self.intents)}"
        self.intents[name] = intents
        return name

    def standing(self, place: Place) -> list[Row]:
        table, partition = place
        return [row for site in ([partition] if partition else SITES) for row in self.rows.get((table, site), [])]

    def stood(self, since: int, sites: Mapping[Place, list[Row]]) -> bool:
        """Whether these rows stood together at one time since a commit."""
        wanted = {place: tuple(sorted(rows)) for place, rows in sites.items()}
        return any(
            all(version.rows.get(place, ()) == rows for place, rows in wanted.items())
            for version in self.versions[since:]
        )

    def _stand(self) -> None:
        self.versions.append(
            Version({place: tuple(sorted(rows)) for place, rows in self.rows.items()}, dict(self.heads))
        )
        for table in ("plant.signals", "plant.files"):
            for site in SITES:
                key = (table, site, self.heads.get((table, "")), self.heads.get((table, site)))
                self.states.setdefault(key, (self.seq, list(self.rows.get((table, site), []))))

    def observe(self, connection: "psycopg.Connection[Any]") -> None:
        """Take in what was committed since, and compare all that is there with what must be.

        Raises:
            AssertionError: says what is not as it must be.
        """
        there = look(connection)
        new = [row for row in there["ledger"] if row["commit_id"] not in self.known]
        # Of one slice in their order; what is derived after what it is derived from.
        new.sort(key=lambda row: ("derived" in row["asset"], row["generation"]))
        for at, row in enumerate(new):
            if at == 0 or name_of(row) != name_of(new[at - 1]):
                self.seq += 1
            self._take(row)
            if at == len(new) - 1 or name_of(row) != name_of(new[at + 1]):
                self._stand()
        self._compare(there)

    def _take(self, row: dict[str, Any]) -> None:
        """A commit that is new in the ledger."""
        name, place = name_of(row), (row["asset"], row["partition"])
        intent = next((one for one in self.intents[name] if one.place == place), None)
        assert intent is not None, f"{place} is none of what {name} was to write"
        assert row["received"] == sum(row[n] for n in COUNTS[1:] if n != "deleted"), f"counts do not balance: {row}"
        earlier = [r["generation"] for r in self.known.values() if (r["asset"], r["partition"]) == place]
        assert row["generation"] >= max(earlier, default=0), f"{place}: {row['generation']} after {earlier}"
        self.known[row["commit_id"]] = row
        if intent.batch is not None:
            assert intent.batch not in self.batches, f"{intent.batch} was appended twice"
            self.batches.add(intent.batch)
        if intent.look is not None:
            self._take_look(intent)
        if intent.derived:
            self._take_inputs(row, intent, self.checked.get(name))
        counts = self._load(row["commit_id"], intent)
        given = {name: row[name] for name in counts}
        assert given == counts, f"{intent} was counted as {given}, not as {counts}"
        touched = any(counts.get(name) for name in ("inserted", "updated", "deleted"))
        if (
            not intent.accepted
            and counts != SUPERSEDED
            and (touched or place not in self.heads or (row["file"] and row["file"] == f"{row['commit_id']}.parquet"))
        ):
            self.heads[place] = row["commit_id"]
        if row["file"]:
            self.files[place] = row["file"]
            self.file_rows[row["file"]] = list(self.standing(place))

    def _take_look(self, intent: Intent) -> None:
        table, partition = intent.place
        assert intent.look is not None
        for site in [partition] if partition else SITES:
            last = self.looks.get((table, site), 0)
            assert intent.look >= last, (
                f"{table}[{site}]: look {last} was replaced by look {intent.look}, which is older"
            )
            self.looks[table, site] = intent.look

    def _take_inputs(self, row: dict[str, Any], intent: Intent, checked: int | None) -> None:
        """What was derived is a function of commits that stood, and of none older than those before."""
        commits = json.loads(row["inputs"])
        site = intent.place[1]
        found = {}
        for table in ("plant.signals", "plant.files"):
            of = commits.get(table, {})
            state = self.states.get((table, site, of.get(""), of.get(site)))
            assert state is not None, f"{intent.place} is derived of commits that never stood together: {commits}"
            stood = None if checked is None else self.versions[checked].heads
            if stood is not None:
                now = {partition: stood[table, partition] for partition in ("", site) if (table, partition) in stood}
                assert of == now, f"{intent.place} is derived of {of} of {table}, when {now} stood"
            last = self.bases.get((intent.place, (table, site)), 0)
            assert state[0] >= last, f"{intent.place} is derived of older inputs than before: {commits}"
            self.bases[intent.place, (table, site)] = state[0]
            found[table] = state[1]
        expected = derive(site, found["plant.signals"], found["plant.files"])
        assert sorted(intent.rows) == sorted(expected), f"{intent.place} is not what its inputs {commits} make it"

    def _load(self, commit_id: str, intent: Intent) -> dict[str, int]:
        """Let the rows of an intent stand; gives the counts."""
        table, partition = intent.place
        if intent.accepted:
            for identity in intent.accepted:
                entry = self.entries[table, partition, identity]
                entry.status = "accepted" if entry.status == "open" else entry.status
            return {}
        if intent.replayed:
            return self._replay(intent)
        if TABLES[table] is Batches:
            self.rows.setdefault((table, partition), []).extend(intent.rows)
            return {"received": len(intent.rows), "inserted": len(intent.rows)}
        good, rejected = self._judged(commit_id, intent)
        last = {row[0]: row for row in good}
        # Of equal keys the last, at its place.
        rows = [row for at, row in enumerate(good) if all(other[0] != row[0] for other in good[at + 1 :])]
        before = self.standing(intent.place)
        counts = self._put(intent, before, rows)
        if intent.mode in WHOLE:
            self._settle(commit_id, intent)
        else:
            self._supersede(table, last)
        counts["deduplicated"] = len(good) - len(last)
        return {**counts, "received": len(intent.rows), "quarantined": rejected}

    def _judged(self, commit_id: str, intent: Intent) -> tuple[list[Row], int]:
        """Rows to be loaded, corrected ones last, and how many go to quarantine."""
        good, corrected, rejected = [], [], 0
        for row in intent.rows:
            if row[2] is None or row[2] <= HIGHEST:
                good.append(row)
                continue
            entry = self.entries.get((*intent.place, row[0]))
            if entry and entry.correction:
                corrected.append(entry.correction)
                continue
            rejected += 1
            if entry is None:
                self.entries[(*intent.place, row[0])] = Entry("open", commit_id, self.seq)
                continue
            entry.commit_id, entry.met = commit_id, self.seq
            entry.status = "open" if entry.status in ("gone", "superseded") else entry.status
        return good + corrected, rejected

    def _put(self, intent: Intent, before: list[Row], rows: list[Row]) -> dict[str, int]:
        table, partition = intent.place
        old, new = {row[0]: row for row in before}, {row[0]: row for row in rows}
        sites = [partition] if partition else SITES
        after = [*{**old, **new}.values()] if intent.mode == "upsert" else rows
        for site in sites:
            self.rows[table, site] = [row for row in after if row[1] == site]
        for row in rows:
            if old.get(row[0]) != row:
                self.written[f"{table} {row[0]}"] = self.seq
        if TABLES[table].config.store == "parquet":
            if intent.mode != "snapshot" and intent.place in self.heads and before == rows:
                return {"inserted": 0, "updated": 0, "deleted": 0, "unchanged": len(rows)}
            deleted = 0 if intent.mode == "snapshot" else len(before)
            return {"inserted": len(rows), "updated": 0, "deleted": deleted, "unchanged": 0}
        return {
            "inserted": len(new.keys() - old.keys()),
            "updated": sum(old[key] != row for key, row in new.items() if key in old),
            "deleted": 0 if intent.mode == "upsert" else len(old.keys() - new.keys()),
            "unchanged": sum(old[key] == row for key, row in new.items() if key in old),
        }

    def _settle(self, commit_id: str, intent: Intent) -> None:
        """The entries of a slice of which all was replaced."""
        given = {row[0] for row in intent.rows if row[2] is not None and row[2] > HIGHEST}
        for (table, partition, identity), entry in self.entries.items():
            if (table, partition) == intent.place:
                if identity not in given:
                    entry.correction = None
                if entry.status == "open" and entry.commit_id != commit_id:
                    entry.status = "gone"
                elif entry.status == "replayed" and entry.commit_id == commit_id:
                    entry.status = "open"

    def _supersede(self, table: str, merged: Iterable[str]) -> None:
        """The entries of keys of which later records have come."""
        for (of, _, identity), entry in self.entries.items():
            if of == table and identity in merged and entry.status in ("open", "accepted"):
                entry.status = "superseded"

    def _replay(self, intent: Intent) -> dict[str, int]:
        table, partition = intent.place
        (row,) = intent.rows
        entry = self.entries[table, partition, row[0]]
        assert entry.status in ("open", "accepted"), f"an entry that is {entry.status} was replayed: {intent}"
        there = {other[0]: other for other in self.standing((table, ""))}
        in_files = TABLES[table].config.store == "parquet"
        if row[0] in there and (in_files or self.written[f"{table} {row[0]}"] >= entry.met):
            entry.status = "superseded"
            return SUPERSEDED
        entry.status, entry.correction = "replayed", row
        of = self.rows.setdefault((table, row[1]), [])
        self.rows[table, row[1]] = [*(other for other in of if other[0] != row[0]), row]
        change = "unchanged" if there.get(row[0]) == row else "updated" if row[0] in there else "inserted"
        if change != "unchanged":
            self.written[f"{table} {row[0]}"] = self.seq
        return {name: int(name in ("received", change)) for name in COUNTS}

    def _compare(self, there: dict[str, Any]) -> None:
        for table in IN_POSTGRES:
            rows: dict[Place, list[Row]] = {(table, site): [] for site in SITES}
            for row in there[table]:
                rows[table, row["site"]].append(tuple(row[name] for name in TABLES[table].columns))
            for place, found in rows.items():
                expected = sorted(self.rows.get(place, []))
                assert sorted(found) == expected, f"{place} holds {sorted(found)}, not {expected}"
        for head in there["heads"]:
            place = (head["asset"], head["partition"])
            assert head["commit_id"] == self.heads.get(place), (
                f"{place}: another commit stands than {self.heads.get(place)}"
            )
        missing = self.heads.keys() - {(head["asset"], head["partition"]) for head in there["heads"]}
        assert not missing, f"{missing} have no head"
        entries = {(e["asset"], e["partition"], json.loads(e["raw"])["id"]): e["status"] for e in there["quarantine"]}
        expected_entries = {key: entry.status for key, entry in self.entries.items()}
        assert entries == expected_entries, f"the entries are {entries}, not {expected_entries}"
        open_ = {
            (c["asset"], c["partition"], json.loads(c["raw"])["id"]) for c in there["corrections"] if not c["closed_at"]
        }
        expected_open = {key for key, entry in self.entries.items() if entry.correction}
        assert open_ == expected_open, f"corrections of {open_} are applied, not of {expected_open}"
        self._compare_files(there)

    def _compare_files(self, there: dict[str, Any]) -> None:
        """Each file that the ledger names is there, each head's is named by the ledger, and holds its rows."""
        filesystem, _ = self.root.filesystem()
        named: dict[Place, set[str]] = {}
        for row in there["ledger"]:
            if row["file"]:
                named.setdefault((row["asset"], row["partition"]), set()).add(row["file"])
        for head in there["heads"]:
            place = (head["asset"], head["partition"])
            assert head["file"] is None or head["file"] in named[place], (
                f"{place}: no ledger row names the file of its head"
            )
        for place, files in named.items():
            gone = files - set(names_in(filesystem, self.root.folder(slice_of(place))))
            assert not gone, f"{place}: {gone} are named by the ledger and not there"
            for file in files:
                path = Path(f"{self.root.folder(slice_of(place))}/{file}")
                if self.read.get(file) != path.stat().st_mtime_ns:
                    self.read[file] = path.stat().st_mtime_ns
                    found = as_rows(pq.read_table(path, partitioning=None))
                    assert found == self.file_rows[file], f"{place}: {file} holds {found}, not {self.file_rows[file]}"


def name_of(row: Mapping[str, Any]) -> str:
    """The name of what a ledger row is of."""
    return str(row["run_id"] if row["run_id"] != "script" else row["remark"].split(" (")[0])


SUPERSEDED = {name: int(name in ("received", "deduplicated")) for name in COUNTS}
LOOK = "SELECT json_build_object({})".format(
    ", ".join(
        f"'{name}', (SELECT coalesce(json_agg(t), '[]') FROM {table} AS t)"
        for name, table in [
            *((name, f"etl.{name}") for name in ("ledger", "heads", "quarantine", "corrections")),
            *((table, table) for table in IN_POSTGRES),
        ]
    )
)


def look(connection: "psycopg.Connection[Any]") -> dict[str, Any]:
    """All that the database has, in one snapshot."""
    row = connection.execute(LOOK).fetchone()
    assert row is not None
    return row[0]

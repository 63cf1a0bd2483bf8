"""The source of the experiments: three CSV files of any size, in the layouts and with the faults that are met.

Everything follows from the seed. Users sign up over two years until the middle of January 2024, so that some sign up after
2023-12-31; one in ten never runs an experiment. An experiment has one to five compounds, some of them named twice.
"""

import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

USERS, EXPERIMENTS, COMPOUNDS = "users.csv", "user_experiments.csv", "compounds.csv"
COLUMNS: Mapping[str, tuple[str, ...]] = {
    USERS: ("user_id", "name", "email", "signup_date"),
    EXPERIMENTS: ("experiment_id", "user_id", "experiment_compound_ids", "experiment_run_time"),
    COMPOUNDS: ("compound_id", "compound_name", "compound_structure"),
}
FIRST_SIGNUP, LAST_SIGNUP = np.datetime64("2022-01-15"), np.datetime64("2024-01-15")
# fmt: off
FIRST_NAMES = (
    "Alice", "Bob", "Carol", "Dave", "Eve", "Frank", "Grace", "Heidi", "Iván", "Judy", "Zoë", "Mallory", "Niaj",
    "Olivia", "Peggy", "Rupert", "Sybil", "Trent",
)
LAST_NAMES = (
    "Adams", "Baker", "Castro", "Díaz", "Evans", "Fischer", "Garcia", "Hughes", "Ito", "Jensen", "Kowalski",
    "López", "Müller", "Novak", "Okafor", "Sato",
)
# fmt: on
MOST_COMPOUNDS = 5
WITHOUT_EXPERIMENT = 0.1  # of the users
NAMED_TWICE = 0.02  # of the lists
_AT_ONCE = 250_000


# Layouts: the same data, written in other ways


class Style(NamedTuple):
    """How a line is written: what stands between two cells, at its end, and before its first cell."""

    between: str
    after: str = "\n"
    before: str = ""


# What a program writes that took the TAB of `comma-tab-lf` for a part of the cell.
QUOTED = Style('","\t', '"\n', '"')


@dataclass(frozen=True)
class Layout:
    """How files are written.

    Attributes:
        styles: of the lines, one after another.
        mark: the file begins with a byte-order mark.
        blank_line: users.csv begins with a blank line.
        ended: the last line has an end like all others.
    """

    styles: tuple[Style, ...]
    mark: bool = False
    blank_line: bool = False
    ended: bool = True

    def style(self, line: int) -> Style:
        """The style of a line; the first is 1."""
        return self.styles[(line - 1) % len(self.styles)]

    def lines(self, columns: Sequence[pa.StringArray], *, first: int) -> pa.StringArray:
        """The text of each row with its end.

        Args:
            columns: the cells; none has a separator, a quote or a line break in it.
            first: the line that the first row stands in.
        """
        places = pa.array((first - 1 + np.arange(len(columns[0]))) % len(self.styles))
        between, after, before = (pa.array(texts).take(places) for texts in zip(*self.styles, strict=True))
        parts: list[Any] = [before]
        for column in columns:
            parts += [column, between]
        return pc.binary_join_element_wise(*parts[:-1], after, "")


LAYOUTS: Mapping[str, Layout] = {
    # As the real files are.
    "comma-tab-lf": Layout((Style(",\t"),), blank_line=True, ended=False),
    "comma-lf": Layout((Style(","),)),
    "comma-crlf": Layout((Style(",", "\r\n"),)),
    "tab-lf": Layout((Style("\t"),)),
    "bom-crlf": Layout((Style(",", "\r\n"),), mark=True, blank_line=True),
    "quoted-tab": Layout((QUOTED,)),
    # All of them in one file, and cells and lines with spaces at their ends.
    "mixed": Layout((Style(",\t"), Style(","), Style("\t", "\r\n"), QUOTED, Style(" , ", " \t\n")), blank_line=True),
}


# Files


@dataclass(frozen=True)
class Planted:
    """A fault that is in a file: in which line (the first is 1; blank ones count) and column, and what it is.

    Kinds are those of `_bad_rows`.
    """

    file: str
    line: int
    column: str
    kind: str


@dataclass(frozen=True)
class Written:
    """The files and what is to be found in them.

    Attributes:
        users, experiments, compounds: the files.
        pairs: of an experiment and a compound that its list names, each once, over the rows without a fault.
        repeated_compound_ids: ids that a list names again, over the same rows.
        faults: every fault; a row with two of them is there twice.
    """

    users: Path
    experiments: Path
    compounds: Path
    pairs: int
    repeated_compound_ids: int
    faults: tuple[Planted, ...]


# Cells of a row with faults, and what is wrong by column.
_Bad = tuple[tuple[str, ...], Mapping[str, str]]


def write_files(
    folder: Path,
    *,
    users: int = 200,
    experiments: int = 2_000,
    compounds: int = 40,
    seed: int = 20231231,
    layout: str = "comma-tab-lf",
    faults: bool = False,
) -> Written:
    """Write users.csv, user_experiments.csv and compounds.csv, in constant memory.

    Each is written in a folder beside it and takes its place when all three are complete: nobody reads half a file,
    though for a moment some of the three are still the ones before. Ids count from 1, one row each.

    Args:
        folder: made if it is not there; files of these names in it are replaced.
        layout: one of `LAYOUTS`.
        faults: one row for each kind of fault, and one with two, beside the rows asked for: each behind one of the first rows.

    Raises:
        ValueError: for an unknown layout, or numbers that do not go together.
        OSError: if the folder cannot be written to.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"there is no layout {layout!r}: known are {', '.join(LAYOUTS)}")
    if min(users, experiments, compounds) < 0 or (experiments and not (users and compounds)):
        raise ValueError("no number is below 0, and experiments need at least one user and one compound")
    if faults and not experiments:
        raise ValueError("among the faults are repeated keys, which need at least one experiment")
    lists: Counter[str] = Counter()
    contents = {
        USERS: _users(users, np.random.default_rng([seed, 1])),
        EXPERIMENTS: _experiments(experiments, users, compounds, np.random.default_rng([seed, 2]), lists),
        COMPOUNDS: _compounds(compounds, np.random.default_rng([seed, 3])),
    }
    bad = _bad_rows(users, experiments, compounds) if faults else {}
    folder.mkdir(parents=True, exist_ok=True)
    planted: list[Planted] = []
    with tempfile.TemporaryDirectory(prefix=".experiments.", dir=folder) as unfinished:
        for name, blocks in contents.items():
            planted += _write(Path(unfinished) / name, LAYOUTS[layout], blocks, bad.get(name, ()))
        for name in contents:
            (Path(unfinished) / name).replace(folder / name)
    paths = {name: folder / name for name in contents}
    return Written(
        paths[USERS], paths[EXPERIMENTS], paths[COMPOUNDS], lists["pairs"], lists["repeated"], tuple(planted)
    )


def _write(
    path: Path, layout: Layout, blocks: Iterator[Sequence[pa.StringArray]], bad: Sequence[_Bad]
) -> list[Planted]:
    """Write the header and all rows, one bad row behind each of the first good ones, and tell where these are."""
    lines = 0
    planted: list[Planted] = []
    with path.open("wb") as file:

        def write(columns: Sequence[pa.StringArray]) -> None:
            nonlocal lines
            written = layout.lines(columns, first=lines + 1)
            if len(written):
                # The text of an Arrow array of strings is one stretch of memory.
                _, offsets, text = written.buffers()
                file.write(memoryview(text)[: np.frombuffer(offsets, np.int32)[len(written)]])
            lines += len(written)

        def row(cells: Sequence[str]) -> None:
            write([pa.array([cell]) for cell in cells])

        file.write(b"\xef\xbb\xbf" * layout.mark)
        if layout.blank_line and path.name == USERS:
            file.write(layout.style(1).after.encode())
            lines += 1
        row(COLUMNS[path.name])
        for columns in blocks:
            for place, (cells, faults) in enumerate(bad):
                write([column.slice(place, 1) for column in columns])
                row(cells)
                planted += [Planted(path.name, lines, column, kind) for column, kind in faults.items()]
            write([column.slice(len(bad)) for column in columns])
            bad = ()
        if not layout.ended:
            file.truncate(file.tell() - len(layout.style(lines).after))
    return planted


def _bad_rows(users: int, experiments: int, compounds: int) -> Mapping[str, Sequence[_Bad]]:
    """A row for each kind of fault; ids that no other row has, but where the id is the fault."""
    user, compound = str(users + 1000), str(compounds + 1000)
    rows: Sequence[tuple[str, str, str, Mapping[str, str]]] = (
        ("1", "1:3", "10", {"experiment_compound_ids": "other separator"}),
        (user, "1", "10", {"user_id": "unknown user"}),
        ("1", f"1;{compound}", "10", {"experiment_compound_ids": "unknown compound"}),
        ("1", "1", "-10", {"experiment_run_time": "negative run time"}),
        ("1", "1", "ten", {"experiment_run_time": "run time is no number"}),
        (user, "1", "-0.5", {"user_id": "unknown user", "experiment_run_time": "negative run time"}),
    )
    return {
        USERS: (
            ((str(users + 1), "Walter", "walter@example.com", "2023-02-30"), {"signup_date": "no date"}),
            (("1", "Somebody Else", "else@example.com", "2023-01-01"), {"user_id": "repeated key"}),
        ),
        COMPOUNDS: ((("1", "Another Compound", "H2O"), {"compound_id": "repeated key"}),),
        EXPERIMENTS: (
            *(((str(experiments + 1 + at), *cells), faults) for at, (*cells, faults) in enumerate(rows)),
            (("1", "1", "1", "1000000"), {"experiment_id": "repeated key"}),
        ),
    }


def _ids(number: int) -> Iterator[npt.NDArray[np.int64]]:
    """The ids from 1, some at a time."""
    for begin in range(1, number + 1, _AT_ONCE):
        yield np.arange(begin, min(begin + _AT_ONCE, number + 1))


def _text(values: npt.NDArray[Any]) -> pa.StringArray:
    return pa.array(values).cast(pa.string())


def _users(number: int, rng: np.random.Generator) -> Iterator[Sequence[pa.StringArray]]:
    people = [(first, last) for first in FIRST_NAMES for last in LAST_NAMES]
    names = pa.array([f"{first} {last}" for first, last in people])
    addresses = pa.array([_plain(f"{first}.{last}".lower()) for first, last in people])
    for ids in _ids(number):
        user_id, who = _text(ids), pa.array(rng.integers(0, len(people), len(ids)))
        email = pc.binary_join_element_wise(addresses.take(who), user_id, "example.com", "@")
        email = pc.replace_substring(email, "@", ".", max_replacements=1)
        signup = rng.integers(FIRST_SIGNUP.astype(int), LAST_SIGNUP.astype(int) + 1, len(ids))
        yield [user_id, names.take(who), email, _text(signup.astype("datetime64[D]"))]


def _plain(text: str) -> str:
    """Without the marks over letters."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _compounds(number: int, rng: np.random.Generator) -> Iterator[Sequence[pa.StringArray]]:
    def atoms(symbol: str, fewest: int, most: int, rows: int) -> pa.StringArray:
        texts = ["" if n == 0 else symbol if n == 1 else f"{symbol}{n}" for n in range(most + 1)]
        return pa.array(texts).take(pa.array(rng.integers(fewest, most + 1, rows)))

    for ids in _ids(number):
        kinds = (("C", 6, 30), ("H", 6, 50), ("N", 0, 4), ("O", 0, 6))
        formula = pc.binary_join_element_wise(*(atoms(*kind, len(ids)) for kind in kinds), "")
        yield [_text(ids), pa.array([f"Compound {_letters(id_)}" for id_ in ids.tolist()]), formula]


def _letters(number: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    letters = ""
    while number:
        number, letter = divmod(number - 1, 26)
        letters = chr(ord("A") + letter) + letters
    return letters


def _experiments(
    number: int, users: int, compounds: int, rng: np.random.Generator, lists: Counter[str]
) -> Iterator[Sequence[pa.StringArray]]:
    active = 1 + rng.permutation(users)[: max(round(users * (1 - WITHOUT_EXPERIMENT)), 1)]
    names = _text(np.arange(compounds + 1))
    for ids in _ids(number):
        # Some users and some compounds are met more often than others.
        user = active[(rng.random(len(ids)) ** 1.5 * len(active)).astype(np.int64)]
        length = rng.integers(1, MOST_COMPOUNDS + 1, len(ids))
        listed = 1 + (rng.random((len(ids), MOST_COMPOUNDS)) ** 1.5 * compounds).astype(np.int64)
        twice = np.flatnonzero((length > 1) & (rng.random(len(ids)) < NAMED_TWICE))
        listed[twice, length[twice] - 1] = listed[twice, 0]
        used = np.arange(MOST_COMPOUNDS) < length[:, None]
        ordered = np.sort(np.where(used, listed, 0), axis=1)
        pairs = int((np.diff(ordered, axis=1, prepend=0) > 0).sum())
        lists.update(pairs=pairs, repeated=int(used.sum()) - pairs)
        offsets = pa.array(np.append(0, np.cumsum(length)), pa.int32())
        texts = pc.binary_join(pa.ListArray.from_arrays(offsets, names.take(pa.array(listed[used]))), ";")
        run_time = np.round(rng.gamma(3.0, 10.0, len(ids)), 1)
        yield [_text(ids), _text(user), texts, _text(run_time)]

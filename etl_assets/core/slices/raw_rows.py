"""How raw rows of a table, as their source sent them, are read once more: after a correction, at a replay and at each load."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts import Contract, Split
from etl_assets.core.contracts.validation import split, split_arrow, to_frame
from etl_assets.core.registry import owner_of
from etl_assets.errors import ConfigurationError

if TYPE_CHECKING:
    from etl_assets.core.slices.commit import Part
    from etl_assets.core.slices.entries import Entry

# Makes rows of a contract from raw rows whose fields have other names; gets the rows that they will stand beside.
RawReader = Callable[[Sequence[Mapping[str, Any]], pd.DataFrame], Split[pd.DataFrame]]


@dataclass(frozen=True)
class Replay:
    """How rows of a table are replayed.

    Attributes:
        read_raw: makes a row of the table of the raw record; None where the raw record is the row.
        reload: why a row is not replayed but its source loaded again, with `{entry}` for the entry; None where it is replayed.
        fixed: fields that cannot be corrected, with the reason.
        cells: flagged entries are of rows that are stored without the cells at fault: `read_raw` gives such a row its key, and a replay puts
            it in its place.
        sequence: column by which of two records of a key the later one counts; None where the one that was written later does.
        beside: what is written in the same transaction.
    """

    read_raw: RawReader | None = None
    reload: str | None = None
    fixed: Mapping[str, str] = field(default_factory=dict)
    cells: bool = False
    sequence: str | None = None
    beside: "Callable[[Entry], Sequence[Part]]" = lambda _: ()

    def takes(self, outcome: str) -> bool:
        """Whether entries of an outcome can be replayed."""
        return outcome == "rejected" or (self.cells and outcome == "flagged")

    def require(self, entry: "Entry", corrections: Mapping[str, object]) -> None:
        """Refuse what the next load of its source would take away again, and a correction of what is fixed.

        Raises:
            ConfigurationError: says what to do instead.
        """
        if self.reload is not None:
            raise ConfigurationError(f"{entry.id} {self.reload.format(entry=entry)}")
        for name, reason in self.fixed.items():
            if name in corrections:
                raise ConfigurationError(f"{entry.id} {reason.format(entry=entry)}")


def replay_of(table: str) -> Replay:
    """How rows of a table are replayed, by its system."""
    owner = owner_of(table)
    known: Mapping[str, Replay] = owner.part("replay", "REPLAYS", {}) if owner else {}
    return known.get(table, Replay())


def judged(
    contract: type[Contract], raw: Sequence[Mapping[str, Any]], beside: pa.Table, *, source: str
) -> Split[pa.Table]:
    """Raw rows as rows of a contract, by the way in which its system reads them.

    Args:
        beside: the rows that they will stand with.
    """
    read = replay_of(contract.config.table).read_raw
    if read is None:
        columns = {name: pd.Series([row.get(name) for row in raw], dtype=object) for name in contract.columns}
        form = split(contract, pd.DataFrame(columns), raw=raw, source=source)
    else:
        form = read(raw, to_frame(beside))
    # Who reads raw rows judges their form; the contract has the last word.
    by_contract = split_arrow(contract, form.valid, source=source)
    return Split(by_contract.valid, [*form.records, *by_contract.records])

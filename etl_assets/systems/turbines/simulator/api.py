"""The turbines' source as a simulator: an API over a database of 1-minute signals.

`fill` fills the database, `planted` says which faults its rows have; what a server may do wrong with them are the quirks and
the faults of the simulator. This module knows no HTTP; the routes are in `turbines_app`.
"""

from collections.abc import Generator, Iterable, Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa
from psycopg import sql

from etl_assets.simulators.faults import Faults
from etl_assets.systems.turbines.simulator.answers import Late, Quirks, arrow_stream, json_text
from etl_assets.systems.turbines.simulator.app import turbines_app
from etl_assets.systems.turbines.simulator.data import Planted, planted
from etl_assets.systems.turbines.simulator.source import Source, fill

__all__ = ["Planted", "Quirks", "TurbinesSimulator", "fill", "planted"]


class TurbinesSimulator:
    """The API over a source database; `app` serves it, the methods steer it, also while it is served.

    Args:
        database_url: of the source database, filled by `fill`; it is not opened before the first request.
        turbines: those that the database was filled with; none: the source has one and does not know `turbine=`.
        seed: gives the faults; the same seed, the same sequence.

    Attributes:
        quirks: what the API does other than promised.
    """

    def __init__(self, database_url: str, *, turbines: Sequence[str] = (), seed: int = 0) -> None:
        self.turbines = tuple(turbines)
        self.faults = Faults(seed=seed)
        self._source = Source(database_url)
        self.reset()
        self.app = turbines_app(self)

    def reset(self) -> None:
        """Back to the beginning: no faults, no quirks, nothing held back."""
        self.faults.clear()
        self.quirks = Quirks()

    def close(self) -> None:
        """Closes the idle connections to the database; what is asked for later opens others."""
        self._source.close()

    def hold(self, begin: datetime, end: datetime, *, turbine: str = "") -> None:
        """Holds the minutes of [begin, end), aware times, back until `release`."""
        self.quirks = self.quirks.model_copy(
            update={"late": [*self.quirks.late, Late(begin=begin, end=end, turbine=turbine)]}
        )

    def release(self) -> None:
        """Late minutes are there from now on."""
        self.quirks = self.quirks.model_copy(update={"late": []})

    # What the API serves.

    def answer(
        self, *, start: datetime, end: datetime, columns: Iterable[str], turbine: str, arrow: bool
    ) -> Generator[bytes, None, None]:
        """The rows of one turbine in [start, end), in pieces as they come from the database.

        Close the iterator if it is not read to its end: it holds a connection.

        Args:
            columns: known ones, each once.
            arrow: an Arrow IPC stream instead of JSON.
        """
        quirks = self.quirks
        query = _query(start=start, end=end, columns=list(columns), turbine=turbine, quirks=quirks)
        with self._source.batches(query) as reader:
            said = (quirks.applied(batch) for batch in reader)
            schema = quirks.applied(pa.RecordBatch.from_pylist([], schema=reader.schema)).schema
            yield from arrow_stream(schema, said) if arrow else json_text(said)

    def row(self, row_id: int) -> dict[str, Any] | None:
        """A row with all its columns, None if there is none; quirks do not touch it."""
        query = sql.SQL("SELECT * FROM public.data WHERE id = {}").format(row_id)
        with self._source.batches(query) as reader:
            found = reader.read_all().to_pylist()
        for row in found:
            if not self.turbines:
                del row["turbine"]
        return found[0] if found else None


def _query(*, start: datetime, end: datetime, columns: list[str], turbine: str, quirks: Quirks) -> sql.Composable:
    """Without an order: the rows of an interval come in that of the table, and none of them waits for a sort."""
    wanted = sql.SQL(", ").join(map(sql.Identifier, ["timestamp", *columns]))
    last = sql.SQL("<=" if quirks.include_end else "<")
    query = sql.SQL("SELECT {} FROM public.data WHERE turbine = {} AND timestamp >= {} AND timestamp {} {}").format(
        wanted, turbine, start, last, end
    )
    for begin, until in quirks.missing(turbine):
        query += sql.SQL(" AND NOT (timestamp >= {} AND timestamp < {})").format(begin, until)
    return query

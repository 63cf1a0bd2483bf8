"""Each event once: of several files that have an event, which one it is stored with. Pure functions over Arrow tables."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shared:
    """The events of some intervals, as they are to be stored.

    Attributes:
        rows: no event twice, and none that is stored with an interval beside these.
        given_up: whether an event is stored with one of these intervals, and none of them has it any more.
    """

    rows: pa.Table
    given_up: bool


def stored_once(rows: pa.Table, held: pa.Table, intervals: Sequence[datetime], *, had: pa.ChunkedArray) -> Shared:
    """Decide which of the rows are stored.

    An event stays with the interval that it is stored with as long as that still has it (`had`): another file does not change
    it. One that is nowhere stored, or that its interval gives up, goes to the first of these that has it.

    Args:
        rows: the events of these intervals, in each at most once; `global_event_id` and `file_interval` are among the columns.
        held: `global_event_id` and `file_interval` of what is stored: all of these intervals, and of others the events in `rows`.
        intervals: aware.
        had: the ids of all events that these intervals have, also of those that are not among the rows. What a file that is as
            it was has, and another rule leaves out, is not given up: the rule would leave it out of another file too.

    Returns:
        Rows in the order that they had.
    """
    ids, at = rows["global_event_id"], rows["file_interval"]
    holder = held["file_interval"].take(pc.index_in(ids, value_set=held["global_event_id"]))
    batch = pa.array(intervals, at.type)
    own = _true(pc.equal(holder, at))
    elsewhere = _true(pc.and_(holder.is_valid(), pc.invert(pc.is_in(holder, value_set=batch))))
    by_event = np.lexsort((~own, ids.to_numpy()))
    _, first = np.unique(ids.to_numpy()[by_event], return_index=True)
    kept = np.sort(by_event[first])
    kept = kept[~elsewhere[kept]]
    ours = pc.is_in(held["file_interval"], value_set=batch)
    given_up = pc.any(pc.and_(ours, pc.invert(pc.is_in(held["global_event_id"], value_set=had)))).as_py() is True
    return Shared(rows if len(kept) == rows.num_rows else rows.take(pa.array(kept)), given_up)


def _true(which: pa.ChunkedArray) -> NDArray[np.bool_]:
    return pc.fill_null(which, False).to_numpy()

"""How rows of the turbines system are replayed: elements of an answer, whole or for the cell that could not be read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pyarrow as pa

from etl_assets.core.contracts import Split
from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.core.contracts.validation import to_frame
from etl_assets.core.slices.raw_rows import Replay
from etl_assets.systems.turbines.answers import exact_page
from etl_assets.systems.turbines.cells import POSITION, Question
from etl_assets.systems.turbines.contracts import SIGNALS, RawTurbineSignals
from etl_assets.systems.turbines.settings import TurbinesSettings
from etl_assets.systems.turbines.transform import DAY, SEPARATOR, midnight, raw_rows

EVER = (datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC))


def corrected_minutes(raw: Sequence[Mapping[str, Any]], day: pd.DataFrame) -> Split[pd.DataFrame]:
    """Elements that were in quarantine, as rows of their day.

    One that a row of the day lacks cells of takes its place, any other follows the rows of its turbine.

    Args:
        raw: the elements, corrected, with their turbine where it has a name.
        day: the rows of the day, `RawTurbineSignals`.
    """
    found = [_corrected(element, day) for element in raw]
    rows = pa.concat_tables([arrow_schema(RawTurbineSignals).empty_table(), *(one.valid for one in found)])
    return Split(to_frame(rows), [record for one in found for record in one.records])


def _corrected(element: Mapping[str, Any], day: pd.DataFrame) -> Split[pa.Table]:
    turbine = str(element.get("turbine", ""))
    question = _question(element, day)
    minutes = exact_page(json.dumps([element]).encode(), question).minutes
    columns = question.columns
    if minutes.records or not minutes.table.num_rows:
        records = [replace(record, outcome="rejected") for record in minutes.records]
        return Split(arrow_schema(RawTurbineSignals).empty_table(), records)
    row = raw_rows(minutes.table, turbine=turbine, columns=columns)
    position = _place(row.to_pylist()[0], day, columns)
    return Split(row.set_column(row.column_names.index(POSITION), row.schema.field(POSITION), pa.array([position])))


def _question(element: Mapping[str, Any], day: pd.DataFrame) -> Question:
    """How the element is read: as the answer of the day was."""
    settings = TurbinesSettings.load()
    if len(day):
        columns = tuple(day["columns_asked"].iloc[0].split(SEPARATOR))
        begin = midnight(day["timestamp"].iloc[0].date())
        start, end = begin, begin + DAY
    else:
        columns, (start, end) = tuple(name for name in SIGNALS if name in element), EVER
    spelling = {name: SIGNALS[name].spelling for name in columns if SIGNALS[name].spelling in element}
    return Question(
        columns,
        start,
        end,
        settings.turbines_zone,
        "the corrected row",
        late=settings.late,
        spelling=spelling,
    )


def _place(row: Mapping[str, Any], day: pd.DataFrame, columns: Sequence[str]) -> int:
    """The position of the row of the day that lacks cells of this one and has no others; or else behind all of its turbine."""
    of_turbine = day[day["turbine"] == row["turbine"]]
    of_instant = of_turbine[of_turbine["timestamp"] == row["timestamp"]]
    for other in of_instant.to_dict("records"):
        if all(pd.isna(other[name]) or other[name] == row[name] for name in columns):
            return int(other[POSITION])
    return int(of_turbine[POSITION].max()) + 1 if len(of_turbine) else 0


REPLAYS = {RawTurbineSignals.config.table: Replay(corrected_minutes, cells=True)}

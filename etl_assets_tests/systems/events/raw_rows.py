"""Rows of raw events: made up, one by one, and those of the file in the shared data, read without the code under test."""

import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etl_assets.core.contracts.arrow import arrow_schema
from etl_assets.systems.events.contracts import RawEvents
from etl_assets.systems.events.format import RAW_COLUMNS

INTERVAL = datetime(2019, 1, 21, 22, tzinfo=UTC)
SHARED_FILE = Path(__file__).parents[4] / "shared/data/events/20190121220000.export.CSV.zip"
needs_shared_file = pytest.mark.skipif(not SHARED_FILE.exists(), reason="the shared data are not here")

PARSERS: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "text": str,
    "date": lambda text: datetime.strptime(text, "%Y%m%d").date(),
    "timestamp": lambda text: datetime.strptime(text, "%Y%m%d%H%M%S").replace(tzinfo=UTC),
}


def event(**values: Any) -> dict[str, Any]:
    """An event in Lincoln, Nebraska, with other values where they are given; what is not looked at here is missing."""
    lincoln = {
        "file_interval": INTERVAL,
        "global_event_id": 1,
        "sql_date": date(2019, 1, 21),
        "event_code": "043",
        "event_base_code": "043",
        "event_root_code": "04",
        "action_geo_type": 3,
        "action_geo_full_name": "Lincoln, Nebraska, United States",
        "action_geo_country_code": "US",
        "action_geo_lat": 40.8,
        "action_geo_long": -96.667,
        "date_added": INTERVAL,
        "source_url": "https://example.com/report",
    }
    return {**dict.fromkeys(RawEvents.columns), **lincoln, **values}


def raw_table(*events: Mapping[str, Any]) -> pa.Table:
    """Events as a table in the contract of raw events."""
    return pa.Table.from_pylist(list(events), schema=arrow_schema(RawEvents))


def shared_table() -> pa.Table:
    """The rows of the file in the shared data: fields between tabs, nothing for a blank one."""
    with zipfile.ZipFile(SHARED_FILE) as archive:
        lines = archive.read(archive.namelist()[0]).decode().removesuffix("\n").split("\n")
    fields = zip(*(line.split("\t") for line in lines), strict=True)
    columns = {
        name: [PARSERS[kind](cell) if cell else None for cell in cells]
        for (name, kind), cells in zip(RAW_COLUMNS.items(), fields, strict=True)
    }
    return pa.table({"file_interval": [INTERVAL] * len(lines), **columns}, schema=arrow_schema(RawEvents))

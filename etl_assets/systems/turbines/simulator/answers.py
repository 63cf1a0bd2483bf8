"""What the simulated turbines answer: record batches as they are or with a server's quirks, as JSON or Arrow IPC text.

A batch becomes text column by column, without an object per row. Nothing is held longer than a batch.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

_MINUTE_US = 60_000_000
_SEED = 0


class Late(BaseModel):
    """Minutes that the source does not have yet: [begin, end) of one turbine."""

    model_config = ConfigDict(extra="forbid")

    begin: AwareDatetime
    end: AwareDatetime
    turbine: str = Field(default="", description="empty for the only one of a source that names none")


class Quirks(BaseModel):
    """What `GET /data` does other than promised; by default nothing."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True)

    include_end: bool = Field(default=False, description="the row at the end is in the answer")
    shuffled: bool = Field(default=False, description="rows come in any order, within some tens of thousands")
    repeat_every: int = Field(
        default=0, ge=0, description="each so-many-th minute since 1970 comes twice; 0: none does"
    )
    repeat_differs: bool = Field(default=False, description="the earlier of the two is wrong, not the same")
    late: list[Late] = Field(default_factory=list, description="minutes that come only once they are released")
    extra_column: str = Field(default="", description="a column with a text in each row that nobody asked for")
    renamed: dict[str, str] = Field(default_factory=dict, description="column → its name in the answer")
    numbers_as_text: bool = Field(default=False, description='"8.1" for 8.1')
    nan: bool = Field(
        default=False, description="NaN where a value is NULL, in JSON as the token that JSON does not have"
    )

    def missing(self, turbine: str) -> list[tuple[datetime, datetime]]:
        """The late minutes of one turbine, as naive times in UTC."""
        return [(_naive(late.begin), _naive(late.end)) for late in self.late if late.turbine == turbine]

    def applied(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """A batch as this server answers with it."""
        if self.shuffled:
            batch = batch.take(pa.array(np.random.default_rng(_SEED).permutation(batch.num_rows)))
        # After it: of two rows of a minute the later one is right in any order.
        if self.repeat_every:
            batch = self._repeated(batch)
        columns = {name: self._written(batch[name]) for name in batch.schema.names}
        if self.extra_column:
            columns[self.extra_column] = pa.repeat(pa.scalar("ok"), batch.num_rows)
        return pa.RecordBatch.from_pydict({self.renamed.get(name, name): values for name, values in columns.items()})

    def _repeated(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        minutes = batch["timestamp"].cast(pa.int64()).to_numpy() // _MINUTE_US
        taken = np.repeat(np.arange(len(minutes)), 1 + (minutes % self.repeat_every == 0))
        batch = batch.take(pa.array(taken))
        if not self.repeat_differs:
            return batch
        wrong = pa.array(np.append(taken[1:] == taken[:-1], False)[: len(taken)])
        columns = [pc.if_else(wrong, pc.add(pc.multiply(values, 0.5), 1.0), values) for values in batch.columns[1:]]
        return pa.RecordBatch.from_arrays([batch["timestamp"], *columns], schema=batch.schema)

    def _written(self, values: pa.Array) -> pa.Array:
        if pa.types.is_timestamp(values.type):
            return values
        if self.nan:
            values = pc.fill_null(values, float("nan"))
        return _numbers(values) if self.numbers_as_text else values


def _naive(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(tzinfo=None)


def json_text(batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """A JSON array of objects, in parts: one for each batch, and the end."""
    between = b"["
    for batch in batches:
        if batch.num_rows:
            yield between + _objects(batch)
            between = b","
    yield b"]" if between == b"," else b"[]"


def arrow_stream(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> Iterator[bytes]:
    """An Arrow IPC stream, in parts: the schema and the first batch, the other batches, the end-of-stream marker."""
    sink = BytesIO()

    def written() -> bytes:
        part = sink.getvalue()
        sink.seek(0)
        sink.truncate()
        return part

    with pa.ipc.new_stream(pa.PythonFile(sink, "w"), schema) as stream:
        for batch in batches:
            stream.write_batch(batch)
            yield written()
    yield written()


def _objects(batch: pa.RecordBatch) -> memoryview:
    """The rows as JSON objects with commas between them."""
    parts: list[object] = []
    before = "{"
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        quote = '"' if pa.types.is_timestamp(column.type) else ""
        parts += [f"{before}{json.dumps(name)}:{quote}", _token(column)]
        before = f"{quote},"
    parts.append(before.replace(",", "},"))
    rows = pc.binary_join_element_wise(*parts, "", null_handling="replace", null_replacement="null")
    _, offsets, text = rows.buffers()
    # The text of an Arrow array of strings is one stretch of memory; the last row's comma is left out.
    return memoryview(text)[: np.frombuffer(offsets, np.int32)[len(rows)] - 1]


def _token(column: pa.Array) -> pa.Array:
    if pa.types.is_timestamp(column.type):
        # Whole seconds have 19 characters, with a blank between date and time.
        return pc.binary_replace_slice(column.cast(pa.timestamp("s")).cast(pa.string()), 10, 11, "T")
    if pa.types.is_string(column.type):
        return pc.binary_join_element_wise('"', column, '"', "")
    return _numbers(column)


def _numbers(column: pa.Array) -> pa.Array:
    """Numbers as text, the shortest that reads back as the same."""
    text = column.cast(pa.string())
    if pc.any(pc.is_nan(column)).as_py():
        text = pc.replace_substring(text, "nan", "NaN")
    return text

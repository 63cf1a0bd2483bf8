"""Files that a person gives, judged as a whole before anything of them is relayed."""

from pathlib import Path

from etl_assets.core.contracts import Record
from etl_assets.core.slices.acceptance import shortened
from etl_assets.systems.production.contracts import Stream
from etl_assets.systems.production.simulator.app import Cursor, ServedStream
from etl_assets.systems.production.simulator.files import FileRejected, RecordFile, inspect
from etl_assets.systems.production.transform import parsed

AT_ONCE = 1_000


def require_loadable(path: Path, stream: Stream) -> None:
    """Read a file, in constant memory, as far as one of its records can be a row of the stream's table.

    Raises:
        FileRejected: if none can; says what is wrong with the first. And as `inspect`.
    """
    inspect(path, stream.fields)
    cursor = Cursor(ServedStream(RecordFile(path)), after=0, follow=False)
    first_rejected: Record | None = None
    place = 0
    try:
        while (read := cursor.lines(AT_ONCE))[0]:
            judged = parsed(stream, read[1], first=place + 1)
            if judged.valid.num_rows:
                return
            first_rejected = first_rejected or judged.records[0]
            place += read[0]
    finally:
        cursor.close()
    if first_rejected is not None:
        raise FileRejected(f"{path}: {_why(first_rejected, place, stream)}; nothing was changed")


def _why(record: Record, count: int, stream: Stream) -> str:
    """Why a file is not taken of whose records this one is the first, and none can be loaded."""
    names = {column: field for field, column in stream.fields.items()}
    if all(isinstance(record.raw.get(column), list) for column in names):
        fields = ", ".join(f'"{name}": …' for name in stream.fields)
        return f"has columns where records are expected: write records, {{{fields}}}, in an array or each on a line"
    fault = record.faults[0]
    which = (
        f"none of its {count:,} records can be loaded; the first" if count > 1 else "its only record cannot be loaded"
    )
    return f"{which}: {names.get(fault.column, fault.column)} {shortened(fault.raw)}: {fault.rule}"

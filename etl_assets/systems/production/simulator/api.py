"""The production system as a simulator: readings of machine parameters and work orders, as two streams of numbered records.

By default both are generated, with planted effects (`production_data`); over files it is the API that serves them. This
module knows no HTTP; the routes are in `production_app`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from etl_assets.errors import ConfigurationError
from etl_assets.simulators.faults import Faults
from etl_assets.systems.production.simulator.app import production_app
from etl_assets.systems.production.simulator.data import VERSION, generated
from etl_assets.systems.production.simulator.files import RecordFile, digest
from etl_assets.systems.production.simulator.streams import Changes, ServedStream

STREAMS = ("metrics", "workorders")


class ProductionSimulator:
    """The two streams; `app` serves them, the methods steer them, also while they are served.

    Args:
        metrics_file: JSON array or NDJSON of readings; None: generated.
        workorders_file: the same for work orders; both are given or none.
        seed: gives the generated data and the faults; the same seed, the same everything.
        source: identity of what is streamed; None: the seed with the version of the generator, or a digest of the files.

    Attributes:
        source: that identity. A consumer that resumes compares it.

    Raises:
        ConfigurationError: if only one file is given, one cannot be read (`FileRefused`), or the source cannot be said
            in a header.
    """

    def __init__(
        self,
        metrics_file: Path | None = None,
        workorders_file: Path | None = None,
        *,
        seed: int = 0,
        source: str | None = None,
    ) -> None:
        if (metrics_file is None) != (workorders_file is None):
            raise ConfigurationError(
                "files for one stream and generated data for the other do not belong together: give both"
                " PRODUCTION_METRICS_FILE and PRODUCTION_WORKORDERS_FILE, or none"
            )
        if source is not None and not (source.isascii() and source.isprintable() and source == source.strip()):
            raise ConfigurationError(f"the source {source!r} cannot be sent: take printable ASCII characters")
        self.seed = seed
        self.faults = Faults(seed=seed)
        self._files = {"metrics": metrics_file, "workorders": workorders_file} if metrics_file else {}
        if source is None:
            paths = [path for path in (metrics_file, workorders_file) if path]
            source = f"files:{digest(*paths)}" if paths else f"simulated:{seed}-v{VERSION}"
        self.source = source
        self.reset()
        self.app = production_app(self)

    def reset(self) -> None:
        """Back to the beginning: nothing appended or changed, no faults."""
        self.faults.clear()
        data = {} if self._files else generated(self.seed)
        self._streams = {
            name: ServedStream(name, RecordFile(path) if (path := self._files.get(name)) else data[name])
            for name in STREAMS
        }

    def stream(self, name: str) -> ServedStream:
        """One of the two.

        Raises:
            ValueError: if there is no such stream.
        """
        if name not in self._streams:
            raise ValueError(f"there is no stream {name[:100]!r}: known are {', '.join(STREAMS)}")
        return self._streams[name]

    # Steering, for tests and by `/_control`.

    def append(self, name: str, records: Iterable[Any]) -> None:
        """Adds records to the end of a stream, seen at once by those who follow; text may be other than JSON.

        A file is never written to: what is appended comes behind the records that it has now.
        """
        self.stream(name).append(records)

    def skip(self, name: str, first: int, last: int) -> None:
        """Leaves a hole in the sequences of a stream."""
        self.stream(name).changes.holes.append((first, last))

    def repeat(self, name: str, first: int, last: int) -> None:
        """Serves some lines once more right behind the last of them, as an overlap does."""
        self.stream(name).changes.repeats.append((first, last))

    def poison(self, name: str, sequence: int, line: str) -> None:
        """Serves this text in place of a line."""
        self.stream(name).changes.lines[sequence] = line

    def unchanged(self) -> None:
        """Serves everything as it is again."""
        for stream in self._streams.values():
            stream.changes = Changes()

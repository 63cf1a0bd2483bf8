"""The two streams of the production API as Python calls; what a failure means is the client's to say."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import Limits
from etl_assets.core.sources.http.stream import ByteStream, StreamClient
from etl_assets.systems.production.settings import ProductionSettings

_NAME = "production"
SOURCE_HEADER = "X-Stream-Source"


@dataclass(frozen=True)
class Records:
    """An open stream: what it is read from ("" if the API does not say), and its NDJSON in chunks of any size."""

    source: str
    chunks: ByteStream

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)


class ProductionApi:
    """The streaming API; safe to use from several threads.

    Args:
        base_url: where the API is.
        limits: time-outs of each request; deadline, attempts and delays are those of whoever reads without progress.

    Raises:
        ConfigurationError: if the base URL cannot be right.
    """

    def __init__(self, base_url: str, *, limits: Limits | None = None) -> None:
        without_credentials(_NAME, base_url)
        self._base_url = base_url
        self.limits = limits or Limits()

    @classmethod
    def from_settings(cls, settings: ProductionSettings, *, limits: Limits | None = None) -> "ProductionApi":
        """The API that the settings name.

        Raises:
            ConfigurationError: if its URL is not set.
        """
        return cls(settings.required("production_api_url"), limits=limits)

    @contextmanager
    def records(self, stream: str, *, after: int, follow: bool) -> Iterator[Records]:
        """The records of a stream above a sequence, while the context is open.

        Args:
            stream: its name.
            after: sequence of the last record that is not wanted; 0 for all.
            follow: wait for further records at the end, with an empty line at least every second.

        Raises:
            StreamInterrupted, ApiRefused: as the client classifies; 416 if there are fewer than `after` records.
        """
        params = {"after": after, **({"follow": "true"} if follow else {})}
        with (
            StreamClient(_NAME, self._base_url, url_variable="PRODUCTION_API_URL", limits=self.limits) as client,
            client.get_stream(f"/{stream}", params=params, accept="application/x-ndjson") as chunks,
        ):
            yield Records(chunks.headers.get(SOURCE_HEADER, "").strip(), chunks)

"""A client for answers that are read as they come: no deadline for the whole, no retries; whoever reads knows where to go on.

Connection, redirects, classification and redaction are those of `ApiClient`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Call, Failed, malformed
from etl_assets.core.sources.http.outcomes import Action, MalformedAnswer, refuse_page

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

CHUNK_BYTES = 256 * 1024
_SUCCESS = 200


class StreamInterrupted(ApiUnavailable):
    """The stream was not opened, or broke; it may go on later, not before `retry_after_s` if the server says so."""

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, status=status, attempts=1)
        self.retry_after_s = retry_after_s


class ByteStream:
    """An answer: its headers, and its body in chunks of any size as they arrive, to be iterated over a single time.

    Iterating raises StreamInterrupted when the connection breaks, or is silent for longer than the read time-out.
    """

    def __init__(self, headers: Mapping[str, str], chunks: Iterator[bytes]) -> None:
        self.headers = headers
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks


class StreamClient(ApiClient):
    """An `ApiClient` that reads streams; one at a time."""

    @contextmanager
    def get_stream(self, path: str, *, params: Mapping[str, Any], accept: str) -> Iterator[ByteStream]:
        """The answer of one request, while the context is open; its deadline holds until the headers are there.

        Args:
            path: below the base URL.
            params: the query.
            accept: the media type asked for.

        Raises:
            StreamInterrupted: no answer, or one that may be better later.
            ApiRefused: the API refuses, or redirects to another host.
        """
        # Compression would hold back lines until a block of them is full.
        headers = {"Accept": accept, "Accept-Encoding": "identity"}
        asked = self._summary("GET", f"{path}?{urlencode(params)}")
        call = Call("GET", self._url(path), asked, params=params, headers=headers)
        self._ends_at = self._read_until = self._clock() + self._limits.deadline_s
        response = self._classified(call, lambda: self._opened(call))
        with response:
            yield ByteStream(response.headers, self._chunks(call, response))

    def _opened(self, call: Call) -> "requests.Response":
        response = self._answer(call)
        if response.status_code != _SUCCESS:
            with response:
                raise self._refusal(response)
        return response

    def _chunks(self, call: Call, response: "requests.Response") -> Iterator[bytes]:
        begun = False

        def read() -> bytes:
            # Silence is that of the body: what only frames or compresses it does not count.
            self._read_until = self._clock() + self._limits.read_timeout_s
            chunk: bytes = response.raw.read1(CHUNK_BYTES, decode_content=True)
            try:
                if not begun:
                    refuse_page(chunk)
            except MalformedAnswer as error:
                raise malformed(_SUCCESS, error) from None
            return chunk

        while chunk := self._classified(call, read):
            begun = begun or bool(chunk.strip())
            yield chunk

    def _classified(self, call: Call, action: Callable[[], T]) -> T:
        try:
            return self._failing(action)
        except Failed as error:
            failure = error
        message = self._redact(f"{self._name} API, {call.summary}: {failure.what}: {self._advice(failure)}")
        if failure.rule.action is Action.RETRY:
            raise StreamInterrupted(message, status=failure.status, retry_after_s=failure.wait_s)
        raise ApiRefused(message, status=failure.status, attempts=1)

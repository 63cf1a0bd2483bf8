"""The connection under `ApiClient`: a session that keeps a deadline at every read, and what its exceptions mean.

The read time-out of requests counts from byte to byte, so a server that sends one byte a second, in the headers, the
chunk sizes or the body, holds a client for hours. Here each read from the socket waits at most for what remains of the
deadline. Kept apart from `client` because importing the HTTP library costs a tenth of a second.
"""

import http.client
import io
import re
import ssl
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from etl_assets.core.sources.http.outcomes import Action, Rule

_CHUNK_BYTES = 64 * 1024
_LENGTH = re.compile("[0-9]{1,18}")
_LOOPBACK = ("127.0.0.1", "localhost", "::1")

_REACH = "check that {address} is right and that {base_url} can be reached from here"
_NETWORK = "try again later; if it lasts, look at the network and at {base_url}"
_TLS = "check the certificate of {base_url}; for a private authority set REQUESTS_CA_BUNDLE"
_URL = "correct {address} ({base_url}) and the path"

# The first row whose type is in the exception's chain of causes decides, so the special comes before the general.
FAILURE_RULES: tuple[tuple[type[BaseException], str, Rule], ...] = (
    (ssl.SSLCertVerificationError, "the certificate is not trusted", Rule(Action.FAIL, False, _TLS)),
    (ssl.SSLEOFError, "the TLS connection broke off", Rule(Action.RETRY, True, _NETWORK)),
    (ssl.SSLZeroReturnError, "the TLS connection was closed", Rule(Action.RETRY, True, _NETWORK)),
    (ssl.SSLError, "the TLS handshake failed", Rule(Action.FAIL, False, _TLS)),
    (urllib3.exceptions.SSLError, "the TLS handshake failed", Rule(Action.FAIL, False, _TLS)),
    (urllib3.exceptions.NameResolutionError, "the host's name was not found", Rule(Action.RETRY, False, _REACH)),
    (urllib3.exceptions.NewConnectionError, "no connection was accepted", Rule(Action.RETRY, False, _REACH)),
    (urllib3.exceptions.ConnectTimeoutError, "the connection timed out", Rule(Action.RETRY, False, _REACH)),
    (urllib3.exceptions.ReadTimeoutError, "the answer did not come in time", Rule(Action.RETRY, True, _NETWORK)),
    (TimeoutError, "the answer did not come in time", Rule(Action.RETRY, True, _NETWORK)),
    (urllib3.exceptions.DecodeError, "the body is not compressed as declared", Rule(Action.RETRY, True, _NETWORK)),
    (http.client.IncompleteRead, "the body broke off before its end", Rule(Action.RETRY, True, _NETWORK)),
    (ConnectionError, "the connection was reset", Rule(Action.RETRY, True, _NETWORK)),
    (http.client.HTTPException, "the answer was not HTTP", Rule(Action.RETRY, True, _NETWORK)),
    (requests.exceptions.InvalidURL, "the URL is invalid", Rule(Action.FAIL, False, _URL)),
    (requests.exceptions.MissingSchema, "the URL is invalid", Rule(Action.FAIL, False, _URL)),
    (requests.exceptions.InvalidSchema, "the URL is invalid", Rule(Action.FAIL, False, _URL)),
    (urllib3.exceptions.LocationValueError, "the URL is invalid", Rule(Action.FAIL, False, _URL)),
    (requests.exceptions.InvalidHeader, "a header is invalid", Rule(Action.FAIL, False, "correct the headers given")),
    (OSError, "the connection failed", Rule(Action.RETRY, True, _NETWORK)),
    (requests.exceptions.RequestException, "the connection failed", Rule(Action.RETRY, True, _NETWORK)),
    (urllib3.exceptions.HTTPError, "the connection failed", Rule(Action.RETRY, True, _NETWORK)),
)
_OTHER = Rule(Action.RETRY, True, "if it lasts, check that {base_url} is the API; else it is a mistake in this code")


def rule_for_failure(error: BaseException) -> tuple[str, Rule]:
    """What happened, without the exception's own text (it may quote headers and URLs), and the rule.

    What no row has was raised by a library, or a parser, that does not expect what the server sent; nobody can list
    all of that, so it is told by its type and its place.
    """
    chain = list(_causes(error))
    for kind, text, rule in FAILURE_RULES:
        if any(isinstance(cause, kind) for cause in chain):
            return text, rule
    *_, last = traceback.extract_tb(error.__traceback__)
    place = f"{Path(last.filename).name}, line {last.lineno}"
    return f"the answer could not be read ({type(error).__name__} in {place})", _OTHER


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception and everything wrapped in it, which the HTTP library puts into args, `reason` and the cause.

    The context is left out: it may be an unrelated exception that the caller is handling.
    """
    pending, seen = [error], set()
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        linked = (current.__cause__, getattr(current, "reason", None), *current.args)
        pending.extend(cause for cause in linked if isinstance(cause, BaseException))


class _BoundedReads(io.RawIOBase):
    """A socket's reading side in which no wait goes beyond the deadline."""

    def __init__(self, raw: Any, sock: Any, remaining_s: Callable[[], float]) -> None:
        self._raw = raw
        self._socket = sock
        self._remaining_s = remaining_s

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        remaining = self._remaining_s()
        if remaining <= 0:
            raise TimeoutError("the deadline is reached")
        timeout = self._socket.gettimeout()
        self._socket.settimeout(remaining if timeout is None else min(timeout, remaining))
        try:
            count: int | None = self._raw.readinto(buffer)
            return count
        finally:
            # After a failed read the socket may be closed already.
            if self._socket.fileno() >= 0:
                self._socket.settimeout(timeout)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _BoundedAnswer(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, remaining_s: Callable[[], float], **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._is_post = kwargs.get("method") == "POST"
        self._end_is_known = True
        # The file object that http.client made keeps the socket open until the body is read, so it is kept inside.
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_BoundedReads(raw, sock, remaining_s))

    def begin(self) -> None:
        """Reads the status and the headers.

        A POST has succeeded with its status line: headers that do not arrive behind one are none, and so is the body.
        """
        try:
            super().begin()
        except Exception:
            if not self._is_post or not isinstance(self.version, int) or self.status // 100 != 2:
                raise
            self.headers = self.msg = http.client.HTTPMessage()
            self.chunked, self.length, self.will_close = False, 0, True
        codings = [value.strip().lower() for value in self.headers.get_all("Transfer-Encoding", [])]
        lengths = {value.strip() for text in self.headers.get_all("Content-Length", []) for value in text.split(",")}
        self._end_is_known = codings == ["chunked"] or (
            not codings and len(lengths) <= 1 and all(map(_LENGTH.fullmatch, lengths))
        )
        if not self._end_is_known:
            # The library above would refuse the whole answer for some of them, also where the status alone matters.
            del self.headers["Content-Length"]

    def read1(self, n: int = -1) -> bytes:
        """A part of the body; of one of which nobody knows where it ends, none: cut off anywhere it would count as whole."""
        if not self._end_is_known:
            raise http.client.HTTPException("the headers do not say where the body ends")
        return super().read1(n)

    def _read_next_chunk_size(self) -> int:
        # The standard library takes a negative one too, and then reads whatever there is.
        size: int = super()._read_next_chunk_size()  # type: ignore[misc]
        if size < 0:
            raise http.client.HTTPException("a negative chunk size")
        return size


class BoundedAdapter(HTTPAdapter):
    """Connections of which no read waits longer than `remaining_s()`; no retries of its own."""

    def __init__(self, remaining_s: Callable[[], float]) -> None:
        answer = staticmethod(partial(_BoundedAnswer, remaining_s=remaining_s))
        plain = type("BoundedConnection", (HTTPConnection,), {"response_class": answer})
        secure = type("BoundedTlsConnection", (HTTPSConnection,), {"response_class": answer})
        self._pools = {
            "http": type("BoundedPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("BoundedTlsPool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
        }
        super().__init__(pool_connections=2, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager


def basic_authorization(user: str, password: str) -> str:
    """The value of an Authorization header for a user name and a password."""
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None: even told not to follow, requests would read a redirect's body without a limit; the client follows."""
        return None


def open_session(
    base_url: str, *, headers: dict[str, str], credentials: dict[str, str], remaining_s: Callable[[], float]
) -> requests.Session:
    """A session for one API; proxies and certificate bundles come from the environment as usual.

    A server on this machine is never behind a proxy.
    """
    session = _Session()
    session.trust_env = urlsplit(base_url).hostname not in _LOOPBACK
    session.headers.update(headers)

    def authorized(request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(credentials)
        return request

    # Being there keeps requests from looking for credentials in a `.netrc`.
    session.auth = authorized
    adapter = BoundedAdapter(remaining_s)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def read_body(response: requests.Response, body: bytearray, *, max_bytes: int) -> None:
    """Appends the body as it arrives, to its end or until there is more than `max_bytes`.

    They are counted decompressed: a small body can unfold to gigabytes.
    """
    while len(body) <= max_bytes and (chunk := response.raw.read1(_CHUNK_BYTES, decode_content=True)):
        body += chunk

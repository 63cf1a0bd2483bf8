"""A client for JSON APIs that fail: retries what may succeed, refuses at once what will not, keeps a deadline.

What each answer means is a table in `outcomes`, what each exception means is one in `transport`. This module
does the calls. It knows no API in particular, and it does not serialise: a payload goes out byte by byte as given.
"""

import logging
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import unquote, urlencode

from pydantic import SecretStr

from etl_assets.core.sources.http.address import checked_key, target_of_key, without_credentials
from etl_assets.core.sources.http.outcomes import (
    FORM_RULE,
    MALFORMED_RULE,
    TOO_LONG_RULE,
    Action,
    MalformedAnswer,
    OtherForm,
    Redactor,
    Rule,
    parse_array,
    parse_json,
    retry_after_s,
    rule_for_status,
    server_message,
)
from etl_assets.core.sources.http.pages import MOST_PAGES, Pages
from etl_assets.errors import PermanentError, PlatformError, TransientError

if TYPE_CHECKING:
    import requests
    from tenacity import RetryCallState

Answer = TypeVar("Answer")

_log = logging.getLogger(__name__)

MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
# 203 is a 200 that a proxy has touched. A 206 is a part of the answer, so it is not one.
_GET_SUCCESSES = (200, 203)
_ERROR_BODY_BYTES = 64 * 1024


class _CallFailure(Exception):
    def __init__(
        self, message: str, *, status: int | None = None, attempts: int = 0, outcome_unknown: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.attempts = attempts
        self.outcome_unknown = outcome_unknown


class ApiUnavailable(_CallFailure, TransientError):
    """The API did not give a usable answer within the attempts and the deadline.

    `status` is that of the last answer (None without one), `attempts` counts the requests sent, and `outcome_unknown`
    says that at least one of them may have taken effect although no success was seen.
    """


class ApiRefused(_CallFailure, PermanentError):
    """The API refused the request for good; attributes as in `ApiUnavailable`."""


class ConflictError(ApiRefused):
    """The API answered 409: what that means (already delivered, or something else in its place) the caller knows."""


@dataclass(frozen=True)
class ApiResponse:
    """A success: its status, its text without secrets, and how many requests it took."""

    status: int
    text: str
    attempts: int


@dataclass(frozen=True)
class Limits:
    """How long and how often a client tries; the deadline holds for a whole call with its retries.

    Looking up a host's name is the one thing that the deadline cannot interrupt.
    """

    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    deadline_s: float = 120.0
    max_attempts: int = 8
    base_delay_s: float = 0.2
    max_delay_s: float = 30.0
    max_body_bytes: int = 256 * 1024 * 1024


@dataclass
class Call:
    """One call with its retries; for the clients in this package."""

    method: str
    url: str
    summary: str
    params: Mapping[str, Any] | None = None
    body: bytes | None = None
    headers: Mapping[str, str] | None = None
    attempts: int = 0
    outcome_unknown: bool = False


class Failed(Exception):
    """One attempt did not succeed; the rule says what follows from it. It stays within the clients."""

    def __init__(self, what: str, rule: Rule, *, status: int | None = None, wait_s: float | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.rule = rule
        self.status = status
        self.wait_s = wait_s


class ApiClient:
    """Calls to one JSON API over one session.

    Use it as a context manager, and in one thread: the session and the deadline of the running call are its state.

    Args:
        name: of the API, for messages.
        base_url: where the API is; a user name and password in it become an `Authorization` header.
        headers: sent with each request.
        secret_header: name and value of the header that carries the key.
        url_variable: the environment variable of the base URL, for messages that say what to correct.
        secret_variable: the environment variable of the key, for the message of a 401 or 403.
        limits: time-outs, deadline, attempts, delays.
        sleep, clock, rng: for tests.

    Raises:
        ConfigurationError: if the base URL or the key cannot be right.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        url_variable: str = "the base URL",
        secret_header: tuple[str, SecretStr] | None = None,
        secret_variable: str = "",
        limits: Limits = Limits(),
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        from etl_assets.core.sources.http import transport

        self._transport = transport
        self._name = name
        self._limits = limits
        self._sleep = sleep
        self._clock = clock
        self._random = rng or random.Random()
        self._ends_at = self._read_until = clock()
        self.base_url, user, password = without_credentials(name, base_url)
        credentials, secrets = {}, [password, unquote(password)]
        if user or password:
            credentials["Authorization"] = transport.basic_authorization(unquote(user), unquote(password))
            secrets.append(credentials["Authorization"].removeprefix("Basic "))
        if secret_header is not None:
            credentials[secret_header[0]] = checked_key(secret_header[1], name, secret_variable)
            secrets.append(credentials[secret_header[0]])
        self._url_variable = url_variable
        self._secret_variable = secret_variable if secret_header else ""
        self._has_user = bool(user or password)
        self._redact = Redactor(secrets)
        self._session = transport.open_session(
            self.base_url,
            headers={"Accept": "application/json", "User-Agent": "etl-assets", **(headers or {})},
            credentials=credentials,
            remaining_s=lambda: self._read_until - self._clock(),
        )

    def __repr__(self) -> str:
        return f"ApiClient({self._name!r}, {self.base_url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def get_json(self, path: str, *, params: Mapping[str, Any] | None = None) -> Any:
        """The JSON document at a path; `path`, `params` and what is raised as in `get_parsed`."""
        return self.get_parsed(path, lambda _, body: parse_json(body), params=params)

    def get_array(self, path: str, *, params: Mapping[str, Any] | None = None) -> list[Any]:
        """The elements of the JSON array at a path, of all its pages; the rest as in `get_pages`.

        Raises:
            ApiRefused: also for what is no array; says what came instead.
        """
        return list(chain.from_iterable(self.get_pages(path, lambda _, body: parse_array(body), params=params)))

    def get_parsed(
        self,
        path: str,
        parse: Callable[[str, bytes], Answer],
        *,
        params: Mapping[str, Any] | None = None,
        accept: str | None = None,
    ) -> Answer:
        """What `parse` makes of the whole body at a path, which is refused where it is one page of several; as `get_pages`."""
        (answer,) = self.get_pages(path, parse, params=params, accept=accept, most=1)
        return answer

    def get_pages(
        self,
        path: str,
        parse: Callable[[str, bytes], Answer],
        *,
        params: Mapping[str, Any] | None = None,
        accept: str | None = None,
        most: int = MOST_PAGES,
    ) -> list[Answer]:
        """What `parse` makes of each page of the answer at a path: all of them, or none.

        The next page is where the `Link` with `rel="next"` of the one before leads, on the same origin.

        Args:
            path: below the base URL; what is put into it from outside must be quoted already.
            parse: gets the declared content type ("" without one) and the body; raises MalformedAnswer for one that
                may be right at another attempt.
            params: the query of the first page.
            accept: the media types accepted; by default JSON.
            most: how many pages there may be.

        Raises:
            ApiUnavailable: no usable answer within the limits, which hold for all pages together but for the attempts; a 200 that is
                malformed counts as none.
            ApiRefused: the API refuses, or redirects to another host; the pages lead to another origin, do not end, or are not all
                rows by their `Content-Range`.
        """
        query = f"?{urlencode(params, doseq=True)}" if params else ""
        headers = {"Accept": accept} if accept else None
        summary, ends_at = self._summary("GET", path + query), self._clock() + self._limits.deadline_s
        call, pages, answers = Call("GET", self._url(path), summary, params=params, headers=headers), Pages(most), []
        while True:
            answer, there = self._with_retries(call, partial(self._page, parse=parse, pages=pages), ends_at=ends_at)
            answers.append(answer)
            if there is None:
                return answers
            call = Call("GET", there, f"{summary}, page {len(answers) + 1}", headers=headers)

    def post_json(self, path: str, body: bytes, *, headers: Mapping[str, str] | None = None) -> ApiResponse:
        """Sends a payload, the same bytes and headers at each attempt.

        A success is its status line: with a status of 2xx the call is done, and the text is what one read time-out brings
        of the body, which may break off or be anything. An attempt without a status may have taken effect and is repeated
        all the same: give an `Idempotency-Key`.

        Raises:
            ApiUnavailable: no usable answer within the limits.
            ConflictError: the API answered 409.
            ApiRefused: the API refuses, or redirects (a payload is never sent elsewhere).
        """
        sent = {"Content-Type": "application/json", **(headers or {})}
        call = Call("POST", self._url(path), self._summary("POST", path), body=body, headers=sent)
        return self._with_retries(call, self._acknowledgement)

    def _url(self, path: str) -> str:
        return f"{self.base_url}/{path.lstrip('/')}"

    def _summary(self, method: str, path: str) -> str:
        return self._redact.shorten(f"{method} /{path.lstrip('/')}")

    def _with_retries(
        self, call: Call, read: "Callable[[Call, requests.Response], Answer]", *, ends_at: float | None = None
    ) -> "Answer":
        from tenacity import Retrying, retry_if_exception

        started = self._clock()
        self._ends_at = started + self._limits.deadline_s if ends_at is None else ends_at
        retrying = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Failed) and error.rule.action is Action.RETRY),
            wait=self._pause_s,
            stop=self._is_over,
            before_sleep=lambda state: self._log_retry(call, state),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            answer: Answer = retrying(self._attempt, call, read)
            return answer
        except Failed as error:
            failure = error
        # Raised outside of the handler: what the HTTP library raised can quote headers, so it must not hang on to this.
        raise self._explained(call, failure, elapsed_s=self._clock() - started) from None

    def _attempt(self, call: Call, read: "Callable[[Call, requests.Response], Answer]") -> "Answer":
        self._read_until = self._ends_at
        call.attempts += 1

        def attempt() -> "Answer":
            with self._answer(call) as response:
                try:
                    return read(call, response)
                except MalformedAnswer as error:
                    failed = malformed(response.status_code, error)
                    failed.what = self._redact.shorten(failed.what)
                    raise failed from None

        try:
            return self._failing(attempt)
        except Failed as failure:
            call.outcome_unknown |= call.method == "POST" and failure.rule.may_have_applied
            raise

    def _failing(self, action: "Callable[[], Answer]") -> "Answer":
        """What an action that reads what the server sends gives; what it raises is a Failed, or a failure of the platform.

        Nobody can list what the libraries and parsers below raise at what a server can send, so that nothing is let
        through. Raised outside of the handler: the exception can quote headers, so it must not hang on to this.
        """
        try:
            return action()
        except Failed as error:
            failure = error
        except PlatformError:
            raise
        except Exception as error:
            failure = Failed(*self._transport.rule_for_failure(error))
        raise failure from None

    def _answer(self, call: Call) -> "requests.Response":
        """The answer with its body not yet read, after redirects to the same place."""
        url, params = call.url, call.params
        for _ in range(MAX_REDIRECTS + 1):
            response = self._send(call, url, params)
            location = response.headers.get("Location")
            if call.method != "GET" or response.status_code not in _REDIRECTS or not location:
                return response
            response.close()
            target, params = target_of_key(url, location), None
            if target is None:
                what = f"answered {response.status_code} with a redirect to another host or protocol"
                raise self._failed_status(response.status_code, what=what)
            url = target
        raise self._failed_status(response.status_code, what=f"redirected more than {MAX_REDIRECTS} times")

    def _send(self, call: Call, url: str, params: Mapping[str, Any] | None) -> "requests.Response":
        import requests

        remaining = max(self._ends_at - self._clock(), 0.001)
        request = requests.Request(call.method, url, params=params, data=call.body, headers=call.headers)
        settings = self._session.merge_environment_settings(url, {}, True, None, None)
        return self._session.send(
            self._session.prepare_request(request),
            allow_redirects=False,
            timeout=(min(self._limits.connect_timeout_s, remaining), min(self._limits.read_timeout_s, remaining)),
            **settings,
        )

    def _page(
        self, _: Call, response: "requests.Response", *, parse: Callable[[str, bytes], Answer], pages: Pages
    ) -> tuple[Answer, str | None]:
        """What a page is parsed to, and where the next one is."""
        if response.status_code not in _GET_SUCCESSES:
            raise self._refusal(response)
        body, left = bytearray(), self._limits.max_body_bytes - pages.length
        self._transport.read_body(response, body, max_bytes=left)
        if len(body) > left:
            what = f"the body is longer than {self._limits.max_body_bytes} bytes"
            raise Failed(what, TOO_LONG_RULE, status=response.status_code)
        whole = bytes(body)
        answer = parse(response.headers.get("Content-Type", ""), whole)
        return answer, pages.after(response, whole)

    def _acknowledgement(self, call: Call, response: "requests.Response") -> ApiResponse:
        if response.status_code // 100 != 2:
            raise self._refusal(response)
        body = self._beginning(response, max_bytes=self._limits.max_body_bytes)
        return ApiResponse(response.status_code, self._redact(body.decode("utf-8", "replace")), call.attempts)

    def _refusal(self, response: "requests.Response") -> Failed:
        """The failure that an answer without success is."""
        message = self._redact.shorten(server_message(self._beginning(response, max_bytes=_ERROR_BODY_BYTES)))
        what = f"answered {response.status_code}" + (f" (“{message}”)" if message else "")
        return self._failed_status(response.status_code, what=what, wait_s=retry_after_s(response.headers))

    def _beginning(self, response: "requests.Response", *, max_bytes: int) -> bytes:
        """What comes of the body of an answer whose status has decided: it is worth no more than one read time-out."""
        self._read_until = min(self._ends_at, self._clock() + self._limits.read_timeout_s)
        body = bytearray()
        with suppress(Failed):
            self._failing(lambda: self._transport.read_body(response, body, max_bytes=max_bytes))
        return bytes(body[:max_bytes])

    def _failed_status(self, status: int, *, what: str, wait_s: float | None = None) -> Failed:
        return Failed(what, rule_for_status(status), status=status, wait_s=wait_s)

    def _pause_s(self, state: "RetryCallState") -> float:
        """Full jitter, so that clients that failed together do not come back together; never earlier than the server allows."""
        ceiling = min(self._limits.max_delay_s, self._limits.base_delay_s * 2.0 ** (state.attempt_number - 1))
        return max(self._random.uniform(0.0, ceiling), _failure_of(state).wait_s or 0.0)

    def _is_over(self, state: "RetryCallState") -> bool:
        return state.attempt_number >= self._limits.max_attempts or state.upcoming_sleep >= self._remaining_s()

    def _remaining_s(self) -> float:
        return self._ends_at - self._clock()

    def _log_retry(self, call: Call, state: "RetryCallState") -> None:
        _log.warning(
            "%s API, %s: %s; attempt %d of %d, again in %.2f s",
            self._name,
            call.summary,
            _failure_of(state).what,
            call.attempts,
            self._limits.max_attempts,
            state.upcoming_sleep,
        )

    def _advice(self, failure: Failed) -> str:
        return failure.rule.advice(
            key=self._secret_variable, user=self._has_user, base_url=self.base_url, address=self._url_variable
        )

    def _explained(self, call: Call, failure: Failed, *, elapsed_s: float) -> _CallFailure:
        what, hint = failure.what, self._advice(failure)
        if call.outcome_unknown:
            hint += "; it is not known whether the server has taken the payload"
        kind: type[_CallFailure] = ConflictError if failure.status == 409 else ApiRefused
        if failure.rule.action is Action.RETRY:
            kind = ApiUnavailable
            left = max(self._remaining_s(), 0.0)
            if failure.wait_s is not None and failure.wait_s >= left:
                what += f" and asks to wait {failure.wait_s:.0f} s, longer than the {left:.1f} s left of the deadline"
            times = "once" if call.attempts == 1 else f"{call.attempts} times"
            what = f"tried {times} in {elapsed_s:.1f} s (deadline {self._limits.deadline_s:g} s), at last: {what}"
        return kind(
            self._redact(f"{self._name} API, {call.summary}: {what}: {hint}"),
            status=failure.status,
            attempts=call.attempts,
            outcome_unknown=call.outcome_unknown,
        )


def malformed(status: int, error: MalformedAnswer) -> Failed:
    """The failure that a success with an unusable body is."""
    rule = FORM_RULE if isinstance(error, OtherForm) else MALFORMED_RULE
    return Failed(f"answered {status} with {error}", rule, status=status)


def _failure_of(state: "RetryCallState") -> Failed:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Failed)
    return error

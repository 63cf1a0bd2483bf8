"""What is around every call: access, the limits of a body, the id of the request, its metrics, and problems as answers."""

import asyncio
import logging
import time
import traceback
import uuid
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_assets.gateway import monitoring
from etl_assets.gateway.problems import Problem, no_json, problem_response, unexpected, unfit, unreadable
from etl_assets.gateway.security import require_access

REQUEST_ID = "X-Request-Id"
MAX_BODY_BYTES = 64 * 1024
# From the end of the head on; a sender that drips must not hold its connection for ever.
BODY_DEADLINE_S = 10.0

log = logging.getLogger(__name__)

too_long = partial(Problem, 413, "Content Too Large", f"the body is longer than {MAX_BODY_BYTES} bytes: send less")


def too_slow() -> Problem:
    """A body that does not come to its end."""
    return Problem(
        408,
        "Request Timeout",
        f"the body was not there within {BODY_DEADLINE_S:g} s: send it faster, or the right Content-Length",
        {"Connection": "close"},
    )


def new_request_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


class Envelope:
    """ASGI middleware around the app: whatever comes of a request, it has an id, an answer, and is counted."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[Route], token: SecretStr | None) -> None:
        self._app = app
        self._routes = routes
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Judge a request by its headers and its body, hand it on, and answer for what goes wrong."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id, began, status = new_request_id(), time.perf_counter(), 0
        scope.setdefault("state", {})["request_id"] = request_id

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (REQUEST_ID.lower().encode(), request_id.encode())]
            await send(message)

        async def refuse(problem: Problem) -> None:
            await problem_response(Request(scope), problem)(scope, receive, sending)

        try:
            headers = Headers(scope=scope)
            require_access(headers, scope["path"], self._token)
            body = await _whole_body(headers, receive)
            await self._app(scope, _replayed(body, receive), sending)
        except Problem as problem:
            await refuse(problem)
        except Exception as error:
            # The text of an exception may quote what must not be seen; where it was raised is what finds the cause.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "request %s: unexpected %s at %s:%s", request_id, type(error).__name__, frame.filename, frame.lineno
            )
            if not status:
                await refuse(unexpected())
        finally:
            template = next((route.path for route in _at(scope["path"], self._routes)), None)
            seconds = time.perf_counter() - began
            monitoring.count_request(route=template, method=scope["method"], status=status, seconds=seconds)


async def _whole_body(headers: Headers, receive: Receive) -> list[Message]:
    """The messages of the body, all of them; none where no body is announced.

    What is refused is not read: the server discards it for as long as it waits for the next request.

    Raises:
        Problem: if it is too long or too slow.
    """
    announced = headers.get("content-length", "")
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_long()
    messages: list[Message] = []
    length, more = 0, bool(announced) or "transfer-encoding" in headers
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            while more:
                messages.append(message := await receive())
                length, more = length + len(message.get("body", b"")), message.get("more_body", False)
                if length > MAX_BODY_BYTES:
                    raise too_long()
    except TimeoutError:
        raise too_slow() from None
    return messages


def _replayed(messages: Iterable[Message], receive: Receive) -> Receive:
    """A `receive` that gives these messages first."""
    pending = iter(messages)

    async def replaying() -> Message:
        message = next(pending, None)
        return await receive() if message is None else message

    return replaying


def add_handlers(app: FastAPI, *, routes: Sequence[Route]) -> None:
    """Have the app answer with problems whatever its routes raise and whatever it cannot route."""

    @app.exception_handler(Problem)
    async def of_problem(request: Request, problem: Problem) -> JSONResponse:
        return problem_response(request, problem)

    @app.exception_handler(RequestValidationError)
    async def of_validation(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = error.errors()
        if any(_of_whole_body(fault) for fault in faults) and "json" not in request.headers.get("content-type", ""):
            return problem_response(request, no_json())
        return problem_response(request, unfit(*map(_where_and_why, faults)))

    @app.exception_handler(HTTPException)
    async def of_http(request: Request, error: HTTPException) -> JSONResponse:
        title = HTTPStatus(error.status_code).phrase
        details = {
            400: unreadable().detail,
            404: "there is nothing at this path: see /docs for the calls that there are",
            405: f"this path does not answer {request.method}: see Allow",
        }
        headers = dict(error.headers or {})
        if error.status_code == 405:
            # The framework names the methods of the first route of a path only.
            methods = {method for route in _at(request.url.path, routes) for method in route.methods or ()}
            headers["Allow"] = ", ".join(sorted(methods))
        detail = details.get(error.status_code, title)
        return problem_response(request, Problem(error.status_code, title, detail, headers))


def _of_whole_body(fault: Mapping[str, Any]) -> bool:
    return bool(fault["type"] == "model_attributes_type" and fault["loc"] == ("body",))


def _where_and_why(fault: Mapping[str, Any]) -> tuple[str, str]:
    if fault["type"] == "json_invalid":
        return "body", f"no JSON at character {fault['loc'][-1]}: {fault['ctx']['error']}"
    if _of_whole_body(fault):
        return "body", "a JSON object is expected"
    return ".".join(map(str, fault["loc"])), fault["msg"].removeprefix("Value error, ")


def _at(path: str, routes: Sequence[Route]) -> list[Route]:
    return [route for route in routes if route.path_regex.match(path)]

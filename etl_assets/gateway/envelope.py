"""What is around every answer: its id, its count, and a problem where the code has failed."""

import logging
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_assets.gateway import metrics
from etl_assets.gateway.problems import Problem, no_json, problem_response, unexpected, unfit, unreadable

REQUEST_ID = "X-Request-Id"

log = logging.getLogger(__name__)


def new_request_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


class Envelope:
    """ASGI middleware, the outermost one: gives the request its id, counts it, and answers for code that raised."""

    def __init__(self, app: ASGIApp, *, routes: Sequence[Route]) -> None:
        self._app = app
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request on; whatever comes of it, it has an answer and is counted."""
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

        try:
            await self._app(scope, receive, sending)
        except Exception as error:
            # The text of an exception may quote what must not be seen; where it was raised is what finds the cause.
            frame = traceback.extract_tb(error.__traceback__)[-1]
            log.error(
                "request %s: unexpected %s at %s:%s", request_id, type(error).__name__, frame.filename, frame.lineno
            )
            if not status:
                await problem_response(Request(scope), unexpected())(scope, receive, sending)
        finally:
            seconds = time.perf_counter() - began
            metrics.request(route=self._template(scope["path"]), method=scope["method"], status=status, seconds=seconds)

    def _template(self, path: str) -> str | None:
        return next((route.path for route in _at(path, self._routes)), None)


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

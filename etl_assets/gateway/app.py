"""The gateway's app: the routers of all systems, what is around every call, and the OpenAPI document that describes it.

Around every call are access, the limits of a body, the id of the request, its metrics, and problems as answers.
"""

import asyncio
import functools
import logging
import time
import traceback
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from etl_assets.core import registry
from etl_assets.gateway import docs_page, monitoring, runs
from etl_assets.gateway.access import OPEN_PATHS, cross_site, host_not_allowed, require_access, token_of, unauthorized
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import (
    Problem,
    ProblemDocument,
    documented,
    no_json,
    problem_response,
    unexpected,
    unfit,
    unreadable,
)
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings

DESCRIPTION = """
Starts runs of the platform's jobs, follows them, and serves what they made. It computes nothing itself: Dagster runs, Postgres keeps.

Whatever goes wrong is answered with problem details (RFC 9457), which say what happened and what to do; the calls of the
original exercises (`/trigger-etl`, `/check/…`, `/start-etl-job`, `/status`) answer in fixed words. Every answer has an `X-Request-Id`, which the gateway's log has too.
Wherever 503 is documented, the same request may succeed later.
"""
TAGS = [
    {"name": "runs", "description": "Runs of any job: start, list, follow, cancel"},
    {"name": "health", "description": "For those who run the gateway"},
]
BEARER = "bearer"
REQUEST_ID = "X-Request-Id"
MAX_BODY_BYTES = 64 * 1024
# From the end of the head on; a sender that drips must not hold its connection for ever.
BODY_DEADLINE_S = 10.0

log = logging.getLogger(__name__)

too_long = partial(Problem, 413, "Content Too Large", f"the body is longer than {MAX_BODY_BYTES} bytes: send less")


def too_slow() -> Problem:
    """A body that does not come to its end."""
    detail = f"the body was not there within {BODY_DEADLINE_S:g} s: send it faster, or the right Content-Length"
    return Problem(408, "Request Timeout", detail, {"Connection": "close"})


def new_request_id() -> str:
    """An id that no other request has."""
    return uuid.uuid4().hex


def create_app(
    settings: Settings,
    *,
    orchestrator: Orchestrator,
    store: Store,
) -> FastAPI:
    """Make the app; nothing is opened before the first request.

    Args:
        settings: the token among them.
        orchestrator: what its calls start runs with.
        store: where its calls read.

    Raises:
        ConfigurationError: if the token cannot be sent in a header.
    """
    token = token_of(settings)
    routers = [router for system in registry.systems() if (router := system.part("routes", "router"))]
    systems = [{"name": str(tag), "description": f"The {tag} system"} for each in routers for tag in each.tags]
    app = FastAPI(
        title="etl-assets gateway",
        description=DESCRIPTION,
        version=version("etl-assets"),
        openapi_tags=[*systems, *TAGS],
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.settings, app.state.orchestrator, app.state.store = settings, orchestrator, store
    app.state.stopping = False
    mounted = (*routers, runs.router, monitoring.router, docs_page.router)
    routes = [route for each in (app.router, *mounted) for route in each.routes if isinstance(route, Route)]
    for router in mounted:
        app.include_router(router)
    add_handlers(app, routes=routes)
    app.add_middleware(Envelope, routes=routes, token=token)
    app.openapi = functools.cache(functools.partial(_openapi, app, secured=token is not None))  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    """The document, with what is around all routes: problems, the token, the id of the request."""
    document = FastAPI.openapi(app)
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["ProblemDocument"] = problem
    if secured:
        components["securitySchemes"] = {
            BEARER: {"type": "http", "scheme": "bearer", "description": "The value of ETL_GATEWAY_TOKEN"}
        }
    for path, item in document["paths"].items():
        for operation in item.values():
            _complete(operation, protected=secured and path not in OPEN_PATHS, secured=secured)
    return document


def _complete(operation: dict[str, Any], *, protected: bool, secured: bool) -> None:
    """Add to an operation what every operation has."""
    has_body = "requestBody" in operation
    if protected:
        operation["security"] = [{BEARER: []}]
    problems = [too_slow(), too_long(), unexpected()]
    problems += [unreadable(), no_json()] if has_body else []
    problems += [unauthorized()] if protected else []
    problems += [] if secured else [host_not_allowed(), cross_site()]
    responses = operation["responses"]
    for status, response in documented(*problems).items():
        responses.setdefault(str(status), response)
    for response in responses.values():
        described = {"description": "Id of this request, also in the gateway's log", "schema": {"type": "string"}}
        response["headers"] = {**response.get("headers", {}), REQUEST_ID: described}
    operation["responses"] = dict(sorted(responses.items()))


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
            require_access(Headers(scope=scope), scope["path"], self._token)
            await self._app(scope, await _read(Request(scope, receive)), sending)
        except Problem as problem:
            await refuse(problem)
        except ClientDisconnect:
            pass
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


async def _read(request: Request) -> Receive:
    """A `receive` that gives the whole body at once.

    What is refused is not read: the server discards it for as long as it waits for the next request.

    Raises:
        Problem: if it is too long or too slow.
    """
    announced, body = request.headers.get("content-length", ""), b""
    if announced.isdigit() and int(announced) > MAX_BODY_BYTES:
        raise too_long()
    try:
        async with asyncio.timeout(BODY_DEADLINE_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_long()
    except TimeoutError:
        raise too_slow() from None
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        return next(messages, None) or await request.receive()

    return receive


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

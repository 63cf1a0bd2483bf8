"""The gateway's app: the routers of all systems, what is around them, and the OpenAPI document that describes it."""

import functools
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import Route

from etl_assets.core import registry
from etl_assets.gateway import health, runs
from etl_assets.gateway.envelope import REQUEST_ID, Envelope, add_handlers
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import ProblemDocument, documented, no_json, unexpected, unreadable
from etl_assets.gateway.security import (
    OPEN_PATHS,
    Guard,
    foreign_name,
    foreign_page,
    token_of,
    too_long,
    too_slow,
    unauthorized,
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


def create_app(settings: Settings, *, orchestrator: Orchestrator, store: Store) -> FastAPI:
    """Make the app; nothing is opened before the first request.

    Raises:
        ConfigurationError: if the token cannot be sent in a header.
    """
    token = token_of(settings)
    app = FastAPI(
        title="etl-assets gateway",
        description=DESCRIPTION,
        version=version("etl-assets"),
        openapi_tags=[*({"name": s.name, "description": s.summary} for s in registry.systems()), *TAGS],
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.settings, app.state.orchestrator, app.state.store = settings, orchestrator, store
    app.state.stopping = False
    of_systems = [router for system in registry.systems() if (router := system.part("routes", "router"))]
    routers = (*of_systems, runs.router, health.router)
    routes = [route for each in (app, *routers) for route in each.routes if isinstance(route, Route)]
    for router in routers:
        app.include_router(router)
    add_handlers(app, routes=routes)
    # The last one added is the outermost.
    app.add_middleware(Guard, token=token)
    app.add_middleware(Envelope, routes=routes)
    app.openapi = functools.cache(functools.partial(_openapi, app, secured=token is not None))  # type: ignore[method-assign]
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _openapi(app: FastAPI, *, secured: bool) -> dict[str, Any]:
    """The document, with what is around all routes: problems, the token, the id of the request."""
    document = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        tags=app.openapi_tags,
        routes=app.routes,
    )
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
    problems += [] if secured else [foreign_name(), foreign_page()]
    responses = operation["responses"]
    for status, response in documented(*problems).items():
        responses.setdefault(str(status), response)
    for response in responses.values():
        described = {"description": "Id of this request, also in the gateway's log", "schema": {"type": "string"}}
        response["headers"] = {**response.get("headers", {}), REQUEST_ID: described}
    operation["responses"] = dict(sorted(responses.items()))

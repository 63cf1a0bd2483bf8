"""The gateway's app: the routers of all systems, what is around them, and the OpenAPI document that describes it."""

import functools
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.routing import Route

from etl_assets.core import registry
from etl_assets.gateway import monitoring, runs
from etl_assets.gateway.middleware import REQUEST_ID, Envelope, add_handlers, too_long, too_slow
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import ProblemDocument, documented, no_json, unexpected, unreadable
from etl_assets.gateway.security import OPEN_PATHS, cross_site, host_not_allowed, token_of, unauthorized
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


def routers_of_systems() -> Sequence[APIRouter]:
    """The routers of the systems, each with the system's name as its tag."""
    found = (system.part("routes", "router") for system in registry.systems())
    return [router for router in found if router]


def create_app(
    settings: Settings,
    *,
    orchestrator: Orchestrator,
    store: Store,
    routers: Sequence[APIRouter] | None = None,
) -> FastAPI:
    """Make the app; nothing is opened before the first request.

    Args:
        settings: the token among them.
        orchestrator: what its calls start runs with.
        store: where its calls read.
        routers: of the systems; None for those of all that there are.

    Raises:
        ConfigurationError: if the token cannot be sent in a header.
    """
    token = token_of(settings)
    of_systems = routers_of_systems() if routers is None else routers
    systems = [{"name": str(tag), "description": f"The {tag} system"} for each in of_systems for tag in each.tags]
    app = FastAPI(
        title="etl-assets gateway",
        description=DESCRIPTION,
        version=version("etl-assets"),
        openapi_tags=[*systems, *TAGS],
        redirect_slashes=False,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        generate_unique_id_function=_operation_id,
    )
    app.state.settings, app.state.orchestrator, app.state.store = settings, orchestrator, store
    app.state.stopping = False
    mounted = (*of_systems, runs.router, monitoring.router)
    routes = [route for each in (app.router, *mounted) for route in each.routes if isinstance(route, Route)]
    for router in mounted:
        app.include_router(router)
    add_handlers(app, routes=routes)
    app.add_middleware(Envelope, routes=routes, token=token)
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
    problems += [] if secured else [host_not_allowed(), cross_site()]
    responses = operation["responses"]
    for status, response in documented(*problems).items():
        responses.setdefault(str(status), response)
    for response in responses.values():
        described = {"description": "Id of this request, also in the gateway's log", "schema": {"type": "string"}}
        response["headers"] = {**response.get("headers", {}), REQUEST_ID: described}
    operation["responses"] = dict(sorted(responses.items()))

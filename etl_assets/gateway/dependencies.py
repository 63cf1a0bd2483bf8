"""What the routers ask for: Dagster and the database, as the app was made with them."""

from typing import Annotated, get_origin

from fastapi import Depends, Request

from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.problems import unfit
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings

# Of what is unknown in a request, so much is named.
LONGEST_NAME, MOST_NAMES = 100, 20


def _orchestrator(request: Request) -> Orchestrator:
    orchestrator: Orchestrator = request.app.state.orchestrator
    return orchestrator


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def only_known_parameters(request: Request) -> None:
    """Refuse what is asked by a name that the call does not have, or twice: a misspelt `as_of` must not give another day.

    Raises:
        Problem: 422, with the names that there are, or those that are given twice.
    """
    parameters = request.scope["route"].dependant.query_params
    known = [parameter.alias for parameter in parameters]
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        reason = f"there is no such parameter: {', '.join(known) or 'none'} can be given"
        raise unfit(*((f"query.{name[:LONGEST_NAME]}", reason) for name in unknown[:MOST_NAMES]))
    single = [each.alias for each in parameters if get_origin(each.field_info.annotation) is not list]
    twice = [name for name in single if len(request.query_params.getlist(name)) > 1]
    if twice:
        raise unfit(*((f"query.{name}", "is given more than once: give it once") for name in twice))


Dagster = Annotated[Orchestrator, Depends(_orchestrator)]
Data = Annotated[Store, Depends(_store)]
Configured = Annotated[Settings, Depends(_settings)]

"""What the routers ask for: Dagster and the database, as the app was made with them."""

from typing import Annotated

from fastapi import Depends, Request

from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings


def _orchestrator(request: Request) -> Orchestrator:
    orchestrator: Orchestrator = request.app.state.orchestrator
    return orchestrator


def _store(request: Request) -> Store:
    store: Store = request.app.state.store
    return store


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


Dagster = Annotated[Orchestrator, Depends(_orchestrator)]
Data = Annotated[Store, Depends(_store)]
Configured = Annotated[Settings, Depends(_settings)]

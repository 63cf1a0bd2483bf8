"""Gateways on real ports before a Dagster in memory."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import requests

from etl_assets.core.database.connections import Database
from etl_assets.gateway.app import create_app
from etl_assets.gateway.orchestrator import Orchestrator
from etl_assets.gateway.store import Store
from etl_assets.settings import Settings
from etl_assets.simulators.server import serve
from etl_assets_tests.gateway.dagster_api import DagsterApi

TOKEN = "correct-horse-battery-staple"
# Far longer than the gateway's own: a busy machine must not decide; the deadline has tests of its own.
DAGSTER_TIMEOUT_S = 6.0
NOWHERE = "postgresql://nobody:hidden@127.0.0.1:1/none"


@dataclass
class Client:
    """HTTP calls to one gateway.

    Attributes:
        url: of the gateway.
        dagster: that it uses.
        app: for what cannot be seen from outside.
    """

    url: str
    dagster: DagsterApi
    app: Any

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        # A connection each: one that was kept over a pause may be closed by the server just when it is used again.
        return requests.request(method, self.url + path, timeout=30, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.call("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        return self.call("POST", path, **options)


@contextmanager
def gateway(dagster: DagsterApi, url: str, *, database: str = NOWHERE, **settings: Any) -> Iterator[Client]:
    """A gateway before the Dagster at this URL."""
    orchestrator = Orchestrator(url, timeout_s=DAGSTER_TIMEOUT_S)
    app = create_app(Settings(**settings), orchestrator=orchestrator, store=Store(Database(database)))
    with serve(app) as served:
        yield Client(served, dagster, app)


@pytest.fixture(scope="session")
def _dagster_served() -> Iterator[tuple[DagsterApi, str]]:
    dagster = DagsterApi()
    with serve(dagster.app) as url:
        yield dagster, url


@pytest.fixture(scope="session")
def _gateway_served(_dagster_served: tuple[DagsterApi, str]) -> Iterator[Client]:
    with gateway(*_dagster_served) as client:
        yield client


@pytest.fixture(scope="session")
def _guarded_served(_dagster_served: tuple[DagsterApi, str]) -> Iterator[Client]:
    with gateway(*_dagster_served, etl_gateway_token=TOKEN) as client:
        yield client


@pytest.fixture
def dagster_api(_dagster_served: tuple[DagsterApi, str]) -> DagsterApi:
    """A Dagster in memory, as new."""
    _dagster_served[0].reset()
    return _dagster_served[0]


@pytest.fixture
def gateway_client(dagster_api: DagsterApi, _gateway_served: Client) -> Client:
    """A gateway without a token and without a database, before `dagster_api`."""
    return _gateway_served


@pytest.fixture
def guarded_client(dagster_api: DagsterApi, _guarded_served: Client) -> Client:
    """The same with the token TOKEN."""
    return _guarded_served


@pytest.fixture
def gateway_with(dagster_api: DagsterApi, _dagster_served: tuple[DagsterApi, str]) -> Iterator[Callable[..., Client]]:
    """Makes a gateway before `dagster_api` with these settings; `database` is the URL of one."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(gateway(*_dagster_served, **settings))


@pytest.fixture
def orchestrator(dagster_api: DagsterApi, _dagster_served: tuple[DagsterApi, str]) -> Orchestrator:
    """An orchestrator before `dagster_api`."""
    return Orchestrator(f"{_dagster_served[1]}/graphql", timeout_s=DAGSTER_TIMEOUT_S)

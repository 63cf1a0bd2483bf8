"""The gateway under a fuzzer that reads its OpenAPI document: every answer is in the document, and none is a failure of the code."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from etl_assets.core.database.connections import Database
from etl_assets_tests.gateway.conftest import (
    TOKEN,
    Client,
    _dagster_served,
    dagster_api,
    gateway_with,
)
from etl_assets_tests.gateway.dagster_api import location, workspace
from etl_assets_tests.gateway.down import refusing

__all__ = ["_dagster_served", "dagster_api", "gateway_with"]

# Longer than the deadline of the gateway by far, also on a busy machine, and shorter than drivers wait by themselves.
TIMEOUT_S = 8.0
OPERATIONS = 17
EXAMPLES = 50
SEED = 20231231
# Judged here: the calls of the exercise say with 500 that tables are missing, and 503 says that the database is.
JUDGED_HERE = "not_a_server_error"
# A name that fits its description need not be that of a job, a partition or a run.
NOT_PROMISED = "positive_data_acceptance"


@dataclass
class Tally:
    """What came of a run of the fuzzer.

    Attributes:
        operations: those that were called.
        statuses: how often each was answered.
        failures: what is not as the document says, as sentences.
    """

    operations: set[str] = field(default_factory=set)
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        return self.statuses.total()

    @property
    def of_server(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


def fuzzed(client: Client, *, allowed_5xx: Callable[[Any], bool], token: str | None = None) -> Tally:
    """Call every operation with what its description allows and with what it does not."""
    import schemathesis
    from schemathesis.config import SchemathesisConfig
    from schemathesis.engine import Status, events, from_schema

    config = SchemathesisConfig.from_dict(
        {
            "seed": SEED,
            "base-url": client.url,
            "headers": {"Authorization": f"Bearer {token}"} if token else {},
            "request-timeout": TIMEOUT_S,
            "cache": {"enabled": False},
            "continue-on-failure": True,
            "checks": {JUDGED_HERE: {"enabled": False}, NOT_PROMISED: {"enabled": False}},
            "generation": {"max-examples": EXAMPLES},
            "warnings": False,
        }
    )
    schema = schemathesis.openapi.from_url(f"{client.url}/openapi.json", config=config)
    tally = Tally()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            tally.failures.append(str(event.info if isinstance(event, events.NonFatalError) else event.exception))
        if not isinstance(event, events.ScenarioFinished):
            continue
        recorder = event.recorder
        tally.operations |= {node.value.operation.label for node in recorder.cases.values()}
        for interaction in recorder.interactions.values():
            response = interaction.response
            where = f"{interaction.request.method} {interaction.request.uri}"
            if response is None:
                tally.failures.append(f"{where}: no answer within {TIMEOUT_S} s")
                continue
            tally.statuses[response.status_code] += 1
            if response.status_code >= 500 and not allowed_5xx(response):
                tally.failures.append(f"{where}: {response.status_code} {response.text}")
        for checks in recorder.checks.values():
            for check in checks:
                if check.status is Status.FAILURE and check.failure_info is not None:
                    tally.failures.append(
                        f"{event.label}: {check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    )
    return tally


def says_that_something_is_missing(response: Any) -> bool:
    return bool(response.status_code == 500 and response.json().keys() == {"message"})


def says_that_the_database_is_down(response: Any) -> bool:
    if response.status_code != 503:
        return False
    answer = response.json()
    return bool(answer.get("title") == "Database unavailable" or answer.get("database", {}).get("ready") is False)


@pytest.fixture(scope="module")
def tallies() -> Iterator[dict[str, Tally]]:
    """By the state of the gateway; all together, in one line, at the end."""
    tallies: dict[str, Tally] = {}
    yield tallies
    every = tallies.values()
    cases = ", ".join(f"{tally.cases} {state}" for state, tally in tallies.items())
    print(
        f"\ngateway fuzz: {OPERATIONS} operations, {sum(tally.cases for tally in every)} cases ({cases}),"
        f" {sum(tally.of_server for tally in every)} documented 5xx,"
        f" {sum(len(tally.failures) for tally in every)} outside the schema"
    )


@pytest.mark.long
@pytest.mark.parametrize("state", ["open", "guarded", "guarded, without the token", "without a database"])
def test_every_answer_is_in_the_document(
    gateway_with: Callable[..., Client],
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tallies: dict[str, Tally],
    state: str,
) -> None:
    monkeypatch.chdir(tmp_path)  # where the fuzzer would leave a folder
    settings: dict[str, Any] = {"etl_gateway_token": TOKEN} if state.startswith("guarded") else {}
    with refusing(database) as down:
        reached = down if state == "without a database" else database
        client = gateway_with(database=reached.url, etl_trigger_interval_s=0, **settings)
        client.app.state.stopping = True  # nobody waits for a run
        client.dagster.answers["workspaceOrError"] = workspace(
            location("experiments_job", "events_job", "table_job", partitioned=("experiments_job", "events_job"))
        )
        now = datetime.now(UTC)
        client.dagster.days = ("2023-12-31", f"{now - timedelta(days=1):%Y-%m-%d}", f"{now:%Y-%m-%d}")
        tally = fuzzed(
            client,
            allowed_5xx=says_that_the_database_is_down if reached is down else says_that_something_is_missing,
            token=TOKEN if state == "guarded" else None,
        )
    tallies[state] = tally
    assert tally.failures == []
    assert len(tally.operations) == OPERATIONS and tally.cases > OPERATIONS * 20

"""Dagster's GraphQL API: what it is asked, one call within a time limit, and what an answer is that was not hoped for.

The queries name every member of an answer's union that the API has today (dagster-graphql 1.13).
"""

import asyncio
import contextlib
import functools
import json
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anyio

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Limits
from etl_assets.core.sources.http.outcomes import MalformedAnswer
from etl_assets.core.sources.nesting import bounded_nesting
from etl_assets.gateway.deadlines import stretched
from etl_assets.gateway.problems import Problem
from etl_assets.redaction import public_urls

RETRY_AFTER_S = 5
MAX_MESSAGE_CHARS = 500
ENDPOINT = "graphql"

RUN = "fragment run on Run { runId jobName status creationTime startTime endTime tags { key value } }"
LOCATIONS = """query { workspaceOrError { __typename ... on PythonError { message }
  ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message }
    ... on RepositoryLocation { repositories { name jobs { name description } partitionSets { pipelineName } } }
  } } }
} }"""
PARTITION = """query($job: PipelineSelector!, $partition: String!) { pipelineOrError(params: $job) { __typename
  ... on Error { message }
  ... on Pipeline { partitionKeysOrError { partitionKeys } partition(partitionName: $partition) {
    runConfigOrError { __typename ... on PythonError { message } ... on PartitionRunConfig { yaml } }
    tagsOrError { __typename ... on PythonError { message } ... on PartitionTags { results { key value } } }
  } }
} }"""
ASSETS = "query($job: PipelineSelector!) { assetNodes(pipeline: $job) { assetKey { path } jobNames opNames } }"
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on Error { message }
  ... on RunConfigValidationInvalid { errors { message path } }
  ... on LaunchRunSuccess { run { ...run } }
} }"""
RUNS = """query($filter: RunsFilter!, $limit: Int!, $after: String) {
  runsOrError(filter: $filter, limit: $limit, cursor: $after) { __typename ... on Error { message }
    ... on Runs { results { ...run assetSelection { path } } }
  }
}"""
ONE_RUN = """query($run: ID!) { runOrError(runId: $run) { __typename ... on Error { message }
  ... on Run { ...run }
} }"""
STEPS = """query($run: ID!) { runOrError(runId: $run) { __typename ... on Error { message }
  ... on Run { stepStats { stepKey status startTime endTime } }
} }"""
EVENTS = """query($run: ID!, $after: String, $limit: Int!) {
  logsForRun(runId: $run, afterCursor: $after, limit: $limit) { __typename ... on Error { message }
    ... on EventConnection { cursor hasMore events { __typename
      ... on ExecutionStepFailureEvent { stepKey message error { message errorChain { error { message } } } }
      ... on RunFailureEvent { message error { message errorChain { error { message } } } }
    } }
  }
}"""
CANCEL = """mutation($run: String!, $policy: TerminateRunPolicy!) {
  terminateRun(runId: $run, terminatePolicy: $policy) { __typename
    ... on Error { message }
    ... on TerminateRunFailure { message run { status } }
  }
}"""

log = logging.getLogger(__name__)


class OrchestratorDown(Problem):
    """Dagster does not do what was requested, for a reason that the caller cannot change.

    Args:
        what: what happened.
        advice: what to do.
        retry_after_s: when the same request may succeed; None if somebody must change something first.
        outcome_unknown: whether a mutation may have taken effect all the same.
    """

    def __init__(
        self,
        what: str = "Dagster does not answer",
        *,
        advice: str = "try again later; the log of the gateway says more",
        retry_after_s: int | None = RETRY_AFTER_S,
        outcome_unknown: bool = True,
    ) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        super().__init__(503, "Dagster unavailable", f"{what}: {advice}", headers)
        self.outcome_unknown = outcome_unknown


class StillLoading(OrchestratorDown):
    """Dagster is starting, or a code location is being loaded."""

    def __init__(self) -> None:
        super().__init__("Dagster is still loading the code location", advice="try again in a moment", retry_after_s=2)


class Graphql:
    """One GraphQL API; every call has a connection of its own.

    Args:
        url: with or without `/graphql` at its end; user and password in it are sent as they should be.
        timeout_s: of a call, and of what is within `in_time`, unless it says otherwise; on a quiet machine.
        starting: whether a Dagster that does not answer is still starting.

    Attributes:
        base_url: of Dagster's UI, without credentials.

    Raises:
        ConfigurationError: if the URL cannot be right.
    """

    def __init__(self, url: str, *, timeout_s: float, starting: Callable[[], bool]) -> None:
        self._url = url.strip().rstrip("/").removesuffix(f"/{ENDPOINT}")
        self.base_url, _, _ = without_credentials("Dagster", self._url)
        self._timeout_s = timeout_s
        self._starting = starting

    @contextlib.asynccontextmanager
    async def in_time(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Bounds what is within.

        Raises:
            OrchestratorDown: if the time is over.
        """
        try:
            async with asyncio.timeout(stretched(timeout_s or self._timeout_s)):
                yield
        except TimeoutError:
            raise StillLoading if self._starting() else OrchestratorDown("Dagster did not answer in time") from None

    async def __call__(self, query: str, *, timeout_s: float | None = None, **variables: Any) -> Any:
        """What is answered to a query, which is not repeated: its one root field.

        Raises:
            OrchestratorDown: if there is no answer, no whole one, or one with errors; the log says more.
        """
        post = functools.partial(
            self._post, {"query": query, "variables": variables}, stretched(timeout_s or self._timeout_s)
        )
        try:
            return await anyio.to_thread.run_sync(post, abandon_on_cancel=True)
        except (ApiUnavailable, ApiRefused, MalformedAnswer) as error:
            if self._starting():
                raise StillLoading from None
            log.warning("%s", error)
            # A refusal with a status is an answer of the API: it has judged the request and done nothing.
            raise OrchestratorDown(outcome_unknown=getattr(error, "outcome_unknown", True)) from error

    def _post(self, document: Mapping[str, Any], timeout_s: float) -> Any:
        limits = Limits(connect_timeout_s=timeout_s, read_timeout_s=timeout_s, deadline_s=timeout_s, max_attempts=1)
        with ApiClient("Dagster", self._url, limits=limits) as client:
            text = client.post_json(ENDPOINT, json.dumps(document).encode()).text
        try:
            with bounded_nesting():
                answer = json.loads(text)
        except ValueError:
            raise MalformedAnswer("the answer is no JSON: is DAGSTER_GRAPHQL_URL right?") from None
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict) or len(data) != 1 or answer.get("errors"):
            raise MalformedAnswer("the answer has errors or no data: is it Dagster 1.13?")
        return next(iter(data.values()))


def expected(answer: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """The answer, if it is the member of its union that was hoped for.

    Raises:
        OrchestratorDown: if it is another one; its message is logged, on one line.
    """
    received = answer["__typename"]
    if received == kind:
        return answer
    log.warning("Dagster answered with %s: %s", received, first_line(answer.get("message") or ""))
    if received == "UnauthorizedError":
        advice = "start its webserver without --read-only"
        raise OrchestratorDown("Dagster lets the gateway change nothing", advice=advice, retry_after_s=None)
    raise OrchestratorDown(f"Dagster failed ({received})")


def first_line(text: str) -> str:
    """The first line of a message, shortened, and its URLs without what may be secret in them."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = public_urls(line)
    return line if len(line) <= MAX_MESSAGE_CHARS else f"{line[: MAX_MESSAGE_CHARS - 1]}…"

"""Questions to Dagster's GraphQL API, and one call of it over HTTP.

The queries name every member of an answer's union that the API has today (dagster-graphql 1.13): what each means for the
caller is decided in `orchestrator`.
"""

import json
from collections.abc import Mapping
from typing import Any

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Limits
from etl_assets.errors import PlatformError

ENDPOINT = "graphql"

RUN = """
fragment run on Run { runId jobName status creationTime startTime endTime tags { key value } }
"""
LOCATIONS = """
query { workspaceOrError { __typename
  ... on PythonError { message }
  ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename
    ... on PythonError { message }
    ... on RepositoryLocation { repositories { name jobs { name description } partitionSets { pipelineName } } }
  } } }
} }
"""
PARTITION_KEYS = """
query($job: PipelineSelector!) { pipelineOrError(params: $job) { __typename
  ... on Error { message }
  ... on Pipeline { partitionKeysOrError { partitionKeys } }
} }
"""
PARTITION = """
query($job: PipelineSelector!, $partition: String!) { pipelineOrError(params: $job) { __typename
  ... on Error { message }
  ... on Pipeline { partition(partitionName: $partition) {
    runConfigOrError { __typename ... on PythonError { message } ... on PartitionRunConfig { yaml } }
    tagsOrError { __typename ... on PythonError { message } ... on PartitionTags { results { key value } } }
  } }
} }
"""
ASSETS = """
query($job: PipelineSelector!) { assetNodes(pipeline: $job) { assetKey { path } jobNames } }
"""
LAUNCH = (
    RUN
    + """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) { __typename
  ... on Error { message }
  ... on RunConfigValidationInvalid { errors { message path } }
  ... on LaunchRunSuccess { run { ...run } }
} }
"""
)
RUNS = (
    RUN
    + """
query($filter: RunsFilter!, $limit: Int!, $after: String) {
  runsOrError(filter: $filter, limit: $limit, cursor: $after) { __typename
    ... on Error { message }
    ... on Runs { results { ...run assetSelection { path } } }
  }
}
"""
)
ONE_RUN = (
    RUN
    + """
query($run: ID!) { runOrError(runId: $run) { __typename
  ... on Error { message }
  ... on Run { ...run }
} }
"""
)
STEPS = """
query($run: ID!) { runOrError(runId: $run) { __typename
  ... on Error { message }
  ... on Run { stepStats { stepKey status startTime endTime } }
} }
"""
EVENTS = """
query($run: ID!, $after: String, $limit: Int!) { logsForRun(runId: $run, afterCursor: $after, limit: $limit) { __typename
  ... on Error { message }
  ... on EventConnection { cursor hasMore events { __typename
    ... on ExecutionStepFailureEvent { stepKey message error { message errorChain { error { message } } } }
    ... on RunFailureEvent { message error { message errorChain { error { message } } } }
  } }
} }
"""
CANCEL = """
mutation($run: String!, $policy: TerminateRunPolicy!) { terminateRun(runId: $run, terminatePolicy: $policy) { __typename
  ... on Error { message }
  ... on TerminateRunFailure { message run { status } }
} }
"""


class GraphqlFailed(PlatformError):
    """Dagster gave no usable answer.

    Attributes:
        outcome_unknown: whether a mutation may have taken effect all the same.
    """

    def __init__(self, message: str, *, outcome_unknown: bool) -> None:
        super().__init__(message)
        self.outcome_unknown = outcome_unknown


class Graphql:
    """One GraphQL API; every call has a connection of its own, so it may be used from several threads.

    Args:
        url: with or without `/graphql` at its end; user and password in it are sent as they should be.

    Raises:
        ConfigurationError: if the URL cannot be right.
    """

    def __init__(self, url: str) -> None:
        self._url = url.strip().rstrip("/").removesuffix(f"/{ENDPOINT}")
        self.base_url, _, _ = without_credentials("Dagster", self._url)

    def ask(self, query: str, variables: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Ask once and give the `data` of the answer; blocks for at most `timeout_s`.

        Raises:
            GraphqlFailed: if there is no answer, no whole one, or one with errors; the message is for the log.
        """
        body = json.dumps({"query": query, "variables": dict(variables)}).encode()
        limits = Limits(connect_timeout_s=timeout_s, read_timeout_s=timeout_s, deadline_s=timeout_s, max_attempts=1)
        try:
            with ApiClient("Dagster", self._url, limits=limits) as client:
                text = client.post_json(ENDPOINT, body).text
        except (ApiUnavailable, ApiRefused) as error:
            # A refusal with a status is an answer of the API: it has judged the request and done nothing.
            raise GraphqlFailed(str(error), outcome_unknown=error.outcome_unknown) from None
        return _data(text)


def _data(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        raise GraphqlFailed("the answer is no JSON: is DAGSTER_GRAPHQL_URL right?", outcome_unknown=True) from None
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, dict) or answer.get("errors"):
        raise GraphqlFailed("the answer has errors or no data: is it Dagster 1.13?", outcome_unknown=True)
    return data

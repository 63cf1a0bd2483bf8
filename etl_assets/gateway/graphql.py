"""Dagster's GraphQL API: what it is asked, one call over HTTP, and what its answers mean.

The queries name every member of an answer's union that the API has today (dagster-graphql 1.13).
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Limits
from etl_assets.errors import PlatformError
from etl_assets.gateway.documents import ENDED, FailureDocument, Job, Run, StepDocument
from etl_assets.gateway.problems import Problem

RETRY_AFTER_S = 5
PARTITION_TAG = "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
MAX_MESSAGE_CHARS = 500
MAX_EXAMPLES = 20
FORCE = "if its process is gone, cancel it with ?force=true"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")

log = logging.getLogger(__name__)

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
query($job: PipelineSelector!) { assetNodes(pipeline: $job) { assetKey { path } jobNames opNames } }
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


class OrchestratorDown(Problem):
    """Dagster does not do what was requested, for a reason that the caller cannot change.

    Args:
        what: what happened.
        advice: what to do.
        retry_after_s: when the same request may succeed; None if somebody must change something first.
    """

    def __init__(
        self,
        what: str = "Dagster does not answer",
        *,
        advice: str = "try again later; the log of the gateway says more",
        retry_after_s: int | None = RETRY_AFTER_S,
    ) -> None:
        headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        super().__init__(503, "Dagster unavailable", f"{what}: {advice}", headers)


class StillLoading(OrchestratorDown):
    """Dagster is starting, or a code location is being loaded."""

    def __init__(self) -> None:
        super().__init__("Dagster is still loading the code location", advice="try again in a moment", retry_after_s=2)


class LaunchRefused(Problem):
    """A run cannot be started as requested; the detail says what to change."""

    def __init__(self, detail: str, *, errors: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(422, "Run refused", detail, errors=errors)


class UnknownJob(LaunchRefused):
    """There is no job of that name; the detail names those that there are."""


class CancelRefused(Problem):
    """A run cannot be cancelled, because it has ended or is being cancelled already."""

    def __init__(self, detail: str) -> None:
        super().__init__(409, "Run not cancelled", detail)


class CancelPolicy(StrEnum):
    """How a run is made to end, as GraphQL's TerminateRunPolicy."""

    ASK = "SAFE_TERMINATE"
    MARK = "MARK_AS_CANCELED_IMMEDIATELY"


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

    def call(self, query: str, variables: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a query, not repeated, and give the `data` of its answer; blocks for at most `timeout_s`.

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
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise GraphqlFailed("the answer is no JSON: is DAGSTER_GRAPHQL_URL right?", outcome_unknown=True) from None
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict) or answer.get("errors"):
            raise GraphqlFailed("the answer has errors or no data: is it Dagster 1.13?", outcome_unknown=True)
        return data


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
        raise OrchestratorDown(
            "Dagster lets the gateway change nothing",
            advice="start its webserver without --read-only",
            retry_after_s=None,
        )
    raise OrchestratorDown(f"Dagster failed ({received})")


def launched_run(job: str, answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the run that was started.

    Raises:
        LaunchRefused: if the run configuration does not fit, or the job has just gone.
        OrchestratorDown: for all that is no fault of the caller's.
    """
    kind = answer["__typename"]
    if kind == "RunConfigValidationInvalid":
        errors = [(".".join(("body.run_config", *fault["path"])), fault["message"]) for fault in answer["errors"]]
        raise LaunchRefused(f"{job} does not take this run configuration: see errors", errors=errors)
    if kind == "PipelineNotFoundError":
        raise UnknownJob(f"there is no job {job!r} any more: GET /v1/jobs lists those that there are")
    run: Mapping[str, Any] = expected(answer, "LaunchRunSuccess")["run"]
    return run


def cancel_refused(failure: Mapping[str, Any], policy: CancelPolicy) -> CancelRefused:
    """Why a run was not made to end, with what there is left to do."""
    reason = first_line(failure["message"])
    if policy is CancelPolicy.ASK and failure["run"]["status"] not in ENDED:
        return CancelRefused(f"{reason.removesuffix('.')}: {FORCE}")
    return CancelRefused(reason)


def jobs_of(locations: Iterable[Mapping[str, Any]]) -> list[Job]:
    """The jobs in the loaded ones of these locations, by name; without those that Dagster made itself."""
    jobs = [
        Job(
            name=job["name"],
            description=job["description"],
            partitioned=job["name"] in {each["pipelineName"] for each in repository["partitionSets"]},
            location=location["name"],
            repository=repository["name"],
        )
        for location in locations
        for repository in (location["locationOrLoadError"] or {}).get("repositories", ())
        for job in repository["jobs"]
        if not job["name"].startswith("__")
    ]
    return sorted(jobs, key=lambda job: (job.name, job.location))


def run_of(found: Mapping[str, Any], *, ui_url: str) -> Run:
    """A run, from the fields of the fragment `run`; `ui_url` is that of Dagster's UI."""
    tags = as_mapping(found["tags"])
    partition = tags.get(PARTITION_TAG)
    if partition is None and RANGE_TAGS[0] in tags:
        partition = "...".join(tags.get(name, "") for name in RANGE_TAGS)
    return Run(
        run_id=found["runId"],
        job=found["jobName"],
        partition=partition,
        status=found["status"],
        created_at=found["creationTime"],
        started_at=found["startTime"],
        ended_at=found["endTime"],
        url=f"{ui_url}/runs/{found['runId']}",
        tags=tags,
    )


def step_of(stats: Mapping[str, Any]) -> StepDocument:
    """A step, from its statistics."""
    return StepDocument(
        key=stats["stepKey"], status=stats["status"], started_at=stats["startTime"], ended_at=stats["endTime"]
    )


def failure_of(event: Mapping[str, Any]) -> FailureDocument | None:
    """What an event says of a failure; None if it is about something else.

    The last error of the chain is the one that was raised in the step: those before it are Dagster's wrapping.
    """
    if event["__typename"] not in ("ExecutionStepFailureEvent", "RunFailureEvent"):
        return None
    error = event["error"] or {"message": event["message"], "errorChain": []}
    message = error["errorChain"][-1]["error"]["message"] if error["errorChain"] else error["message"]
    return FailureDocument(step=event.get("stepKey"), message=first_line(message))


def with_op_names(run_config: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """A run configuration whose ops are named as those of the job are.

    Asset keys have the name of their system (`experiments/users`, whose op is `experiments__users`); where a configuration
    names an op by its asset's name alone (`users`), and one asset of the job has that name, it means that asset's op.

    Args:
        run_config: as a caller gives it.
        nodes: the assets of the job, with `assetKey` and `opNames`.
    """
    ops = run_config.get("ops")
    if not isinstance(ops, Mapping):
        return dict(run_config)
    by_asset: dict[str, set[str]] = {}
    for node in nodes:
        by_asset.setdefault(node["assetKey"]["path"][-1], set()).update(node["opNames"])
    of_job = set().union(*by_asset.values())
    named = {}
    for name, config in ops.items():
        meant = by_asset.get(name, set())
        known = name in of_job or len(meant) != 1 or meant & ops.keys()
        named[name if known else next(iter(meant))] = config
    return {**run_config, "ops": named}


def first_line(text: str) -> str:
    """The first line of a message, shortened, and without user and password of a URL in it."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    line = _CREDENTIALS.sub("***", line)
    return line if len(line) <= MAX_MESSAGE_CHARS else f"{line[: MAX_MESSAGE_CHARS - 1]}…"


def as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as GraphQL takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def as_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as GraphQL gives them."""
    return {tag["key"]: tag["value"] for tag in tags}


def examples_of(keys: Sequence[str]) -> str:
    """What partitions there are: all of a few, the ends of many."""
    if not keys:
        return "there are none yet"
    if len(keys) <= MAX_EXAMPLES:
        return f"there are {', '.join(keys)}"
    return f"there are {len(keys)}, from {keys[0]} to {keys[-1]}"

"""Dagster as the gateway sees it: jobs, runs, and whether it is up, over GraphQL and within a time limit.

Every member of an answer's union has a stated outcome here: what the caller can put right is a `LaunchRefused` (422) or
`CancelRefused` (409), all else is `OrchestratorDown` (503), whose cause is in the log. No stack trace goes out. The queries
name every member of an answer's union that the API has today (dagster-graphql 1.13).
"""

import asyncio
import contextlib
import functools
import json
import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

import anyio

from etl_assets.core.sources.http.address import without_credentials
from etl_assets.core.sources.http.client import ApiClient, ApiRefused, ApiUnavailable, Limits
from etl_assets.core.sources.http.outcomes import MalformedAnswer
from etl_assets.gateway.documents import ENDED, UNFINISHED, FailureDocument, Job, Run, StepDocument
from etl_assets.gateway.problems import Problem

TIMEOUT_S = 1.5
# A launch is sent only after Dagster has just answered; it writes a run and starts a process.
LAUNCH_TIMEOUT_S = 8.0
RETRY_AFTER_S = 5
PAGE = 500
EVENT_PAGE = 1000
# A run whose process was killed without a word stays STARTED where nothing watches it. None lasts this long: it is the
# max_runtime_seconds of docker/dagster.yaml, after which Dagster itself gives a run up.
LONGEST_RUN_S = 21600
LAUNCH_TAG, PARTITION_TAG = "etl/launch", "dagster/partition"
RANGE_TAGS = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
MAX_MESSAGE_CHARS = 500
MAX_EXAMPLES = 20
ENDPOINT = "graphql"
FORCE = "if its process is gone, cancel it with ?force=true"
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")

RUN = "fragment run on Run { runId jobName status creationTime startTime endTime tags { key value } }"
LOCATIONS = """query { workspaceOrError { __typename ... on PythonError { message }
  ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message }
    ... on RepositoryLocation { repositories { name jobs { name description } partitionSets { pipelineName } } }
  } } }
} }"""
PARTITION_KEYS = """query($job: PipelineSelector!) { pipelineOrError(params: $job) { __typename ... on Error { message }
  ... on Pipeline { partitionKeysOrError { partitionKeys } }
} }"""
PARTITION = """query($job: PipelineSelector!, $partition: String!) { pipelineOrError(params: $job) { __typename
  ... on Error { message }
  ... on Pipeline { partition(partitionName: $partition) {
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


class Orchestrator:
    """One Dagster; every call has a connection of its own.

    Args:
        url: of its GraphQL API, with or without `/graphql` at its end; user and password in it are sent as they should be.
        timeout_s: within which each method answers or raises OrchestratorDown; a launch may take longer after Dagster
            has answered.
        starting: whether a Dagster that does not answer is still starting.

    Attributes:
        ui_url: of Dagster's UI, without credentials.

    Raises:
        ConfigurationError: if the URL cannot be right.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        launch_timeout_s: float = LAUNCH_TIMEOUT_S,
        starting: Callable[[], bool] = lambda: False,
    ) -> None:
        self._url = url.strip().rstrip("/").removesuffix(f"/{ENDPOINT}")
        self.ui_url, _, _ = without_credentials("Dagster", self._url)
        self._timeout_s = timeout_s
        self._launch_timeout_s = launch_timeout_s
        self._starting = starting

    async def loading(self) -> bool:
        """Whether Dagster is starting or loads a code location, so that jobs may be missing.

        Raises:
            OrchestratorDown: if it does not answer and is not starting.
        """
        try:
            async with self._in_time():
                return any(entry["loadStatus"] == "LOADING" for entry in await self._locations())
        except StillLoading:
            return True

    async def jobs(self) -> list[Job]:
        """The jobs that can be started, by name; those of a location that cannot be loaded are missing."""
        async with self._in_time():
            return _jobs_of(await self._locations())

    async def unfinished(self, job: str) -> list[Run]:
        """The runs that have not ended and are of this job, or materialise an asset of it, like an ad-hoc one.

        Those that were created more than `LONGEST_RUN_S` ago are taken for lost.

        Raises:
            UnknownJob, OrchestratorDown
        """
        async with self._in_time():
            nodes = await self._assets(await self._find(job))
            keys = {tuple(node["assetKey"]["path"]) for node in nodes}
            related = {job}.union(*(node["jobNames"] for node in nodes))
            return [run for name in sorted(related) async for run in self._touching(name, keys, whole=name == job)]

    async def launch(
        self,
        job: str,
        *,
        partition: str | None = None,
        tags: Mapping[str, str] | None = None,
        run_config: Mapping[str, Any] | None = None,
    ) -> Run:
        """Start a run; exactly one is started, or none, unless OrchestratorDown says that this is not known.

        Args:
            partition: needed where the job is partitioned.
            run_config: None means that of the partition, or none; an op of an asset may be named by its asset's name alone.

        Raises:
            LaunchRefused: unknown job, missing or unknown partition, run configuration that does not fit.
            OrchestratorDown
        """
        async with self._in_time():
            found = await self._find(job)
            config, partition_tags = await self._partition(found, partition)
            if run_config is not None:
                # Only what names ops can name them by their old names.
                config = _with_op_names(run_config, await self._assets(found) if "ops" in run_config else ())
        # By this tag the run is found again when the answer to its launch is lost.
        sent = {**(tags or {}), **partition_tags, LAUNCH_TAG: uuid.uuid4().hex}
        selector = {"jobName": job, **{k: v for k, v in found.selector.items() if k != "pipelineName"}}
        metadata = {"tags": _as_tags(sent)}
        params = {"selector": selector, "runConfigData": config, "executionMetadata": metadata}
        try:
            answer = (await self._mutated(f"{LAUNCH} {RUN}", params=params))["launchRun"]
        except OrchestratorDown as error:
            if not error.outcome_unknown:
                raise
            return await self._launched_after_all(sent[LAUNCH_TAG])
        if answer.get("__typename") == "RunConfigValidationInvalid":
            errors = [(".".join(("body.run_config", *fault["path"])), fault["message"]) for fault in answer["errors"]]
            raise LaunchRefused(f"{job} does not take this run configuration: see errors", errors=errors)
        if answer.get("__typename") == "PipelineNotFoundError":
            raise UnknownJob(f"there is no job {job!r} any more: GET /v1/jobs lists those that there are")
        return self._run_of(_expected(answer, "LaunchRunSuccess")["run"])

    async def run(self, run_id: str) -> Run | None:
        """A run, or None if there is none of this id."""
        found = await self._of_run(f"{ONE_RUN} {RUN}", run_id)
        return self._run_of(found) if found else None

    async def steps(self, run_id: str) -> list[StepDocument]:
        """The steps of a run that have begun, in the order in which they did; none if there is no such run."""
        found = await self._of_run(STEPS, run_id)
        steps = [
            StepDocument(key=of["stepKey"], status=of["status"], started_at=of["startTime"], ended_at=of["endTime"])
            for of in (found["stepStats"] if found else ())
        ]
        return sorted(steps, key=lambda step: (step.started_at is None, step.started_at, step.key))

    async def failures(self, run_id: str) -> list[FailureDocument]:
        """Why a run failed, by step; what failed only because of a step is left out."""
        async with self._in_time():
            failures = [failure async for event in self._events(run_id) if (failure := _failure_of(event))]
            return [failure for failure in failures if failure.step] or failures

    async def runs(
        self,
        job: str | None = None,
        *,
        statuses: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        limit: int = 50,
        after: str | None = None,
    ) -> list[Run]:
        """Runs, newest first; `after` is the id of the last run of the page before."""
        wanted = {"pipelineName": job, "statuses": list(statuses) or None, "tags": _as_tags(tags or {}) or None}
        async with self._in_time():
            return [self._run_of(found) for found in await self._page(wanted, limit=limit, after=after)]

    async def cancel(self, run_id: str, *, policy: CancelPolicy = CancelPolicy.ASK) -> bool:
        """Have a run end; False if there is no such run.

        Raises:
            CancelRefused: if it has ended, or, with ASK, is being cancelled or cannot be reached.
            OrchestratorDown
        """
        try:
            answer = (await self._mutated(CANCEL, run=run_id, policy=policy))["terminateRun"]
        except OrchestratorDown:
            # Dagster fails as a whole where the server that held the process of the run is gone.
            run = await self.run(run_id)
            if run is None or run.ended or policy is not CancelPolicy.ASK:
                raise
            raise CancelRefused(f"Dagster could not reach the process of run {run_id}: {FORCE}") from None
        if answer["__typename"] == "RunNotFoundError":
            return False
        if answer["__typename"] == "TerminateRunFailure":
            reason = first_line(answer["message"])
            if policy is CancelPolicy.ASK and answer["run"]["status"] not in ENDED:
                reason = f"{reason.removesuffix('.')}: {FORCE}"
            raise CancelRefused(reason)
        _expected(answer, "TerminateRunSuccess")
        return True

    # Calls

    @contextlib.asynccontextmanager
    async def _in_time(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                yield
        except TimeoutError:
            raise StillLoading if self._starting() else OrchestratorDown("Dagster did not answer in time") from None

    async def _mutated(self, mutation: str, **variables: Any) -> dict[str, Any]:
        async with self._in_time(self._launch_timeout_s):
            return await self._query(mutation, timeout_s=self._launch_timeout_s, **variables)

    async def _query(self, query: str, *, timeout_s: float | None = None, **variables: Any) -> dict[str, Any]:
        """The `data` of the answer to a query, which is not repeated."""
        call = functools.partial(self._post, {"query": query, "variables": variables}, timeout_s or self._timeout_s)
        try:
            return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)
        except (ApiUnavailable, ApiRefused, MalformedAnswer) as error:
            if self._starting():
                raise StillLoading from None
            log.warning("%s", error)
            # A refusal with a status is an answer of the API: it has judged the request and done nothing.
            raise OrchestratorDown(outcome_unknown=getattr(error, "outcome_unknown", True)) from error

    def _post(self, document: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """One call; blocks for at most `timeout_s`.

        Raises:
            ApiUnavailable, ApiRefused, MalformedAnswer: if there is no whole answer, or one with errors; for the log.
        """
        limits = Limits(connect_timeout_s=timeout_s, read_timeout_s=timeout_s, deadline_s=timeout_s, max_attempts=1)
        with ApiClient("Dagster", self._url, limits=limits) as client:
            text = client.post_json(ENDPOINT, json.dumps(document).encode()).text
        try:
            answer = json.loads(text)
        except (ValueError, RecursionError):
            raise MalformedAnswer("the answer is no JSON: is DAGSTER_GRAPHQL_URL right?") from None
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, dict) or answer.get("errors"):
            raise MalformedAnswer("the answer has errors or no data: is it Dagster 1.13?")
        return data

    async def _of_run(self, query: str, run_id: str) -> Mapping[str, Any] | None:
        async with self._in_time():
            found = (await self._query(query, run=run_id))["runOrError"]
        return None if found["__typename"] == "RunNotFoundError" else _expected(found, "Run")

    async def _assets(self, job: Job) -> list[dict[str, Any]]:
        nodes: list[dict[str, Any]] = (await self._query(ASSETS, job=job.selector))["assetNodes"]
        return nodes

    async def _locations(self) -> list[dict[str, Any]]:
        workspace = (await self._query(LOCATIONS))["workspaceOrError"]
        entries: list[dict[str, Any]] = _expected(workspace, "Workspace")["locationEntries"]
        return entries

    async def _find(self, name: str) -> Job:
        locations = await self._locations()
        jobs = _jobs_of(locations)
        found = [job for job in jobs if job.name == name]
        if len(found) == 1:
            return found[0]
        if found:
            places = ", ".join(job.location for job in found)
            raise LaunchRefused(f"several code locations have a job {name!r} ({places}): rename it in all but one")
        if any(entry["loadStatus"] == "LOADING" for entry in locations):
            raise StillLoading
        for entry in locations:
            broken = entry["locationOrLoadError"] or {}
            if broken.get("__typename") == "PythonError":
                log.error("code location %s cannot be loaded: %s", entry["name"], first_line(broken["message"]))
                raise OrchestratorDown(f"the code location {entry['name']} cannot be loaded")
        known = ", ".join(job.name for job in jobs) or "none"
        raise UnknownJob(f"there is no job {name!r}: the jobs are {known}", errors=[("body.job", "unknown job")])

    async def _partition(self, job: Job, partition: str | None) -> tuple[Any, dict[str, str]]:
        """Run configuration and tags for a partition: Dagster itself launches also what does not exist."""
        if not job.partitioned:
            if partition is not None:
                raise LaunchRefused(f"{job.name} has no partitions: leave `partition` out")
            return {}, {}
        answer = (await self._query(PARTITION_KEYS, job=job.selector))["pipelineOrError"]
        keys = _expected(answer, "Pipeline")["partitionKeysOrError"]["partitionKeys"]
        if partition is None:
            raise LaunchRefused(f"{job.name} is partitioned: name a `partition`; {_examples_of(keys)}")
        if partition not in keys:
            unknown = f"{job.name} has no partition {partition!r}; {_examples_of(keys)}"
            raise LaunchRefused(unknown, errors=[("body.partition", "unknown")])
        answer = (await self._query(PARTITION, job=job.selector, partition=partition))["pipelineOrError"]
        found = _expected(answer, "Pipeline")["partition"]
        tags = _expected(found["tagsOrError"], "PartitionTags")["results"]
        return _expected(found["runConfigOrError"], "PartitionRunConfig")["yaml"], _as_mapping(tags)

    async def _launched_after_all(self, launch: str) -> Run:
        """The run of a launch whose answer was lost."""
        with contextlib.suppress(OrchestratorDown):
            for run in await self.runs(tags={LAUNCH_TAG: launch}, limit=1):
                return run
        raise OrchestratorDown("Dagster did not say whether it has started the run", advice="look in GET /v1/runs")

    async def _touching(self, job: str, keys: set[tuple[str, ...]], *, whole: bool) -> AsyncIterator[Run]:
        """Unfinished runs of a job that touch these assets; all of its runs if it is the job itself (`whole`)."""
        wanted = {"pipelineName": job, "statuses": list(UNFINISHED), "createdAfter": time.time() - LONGEST_RUN_S}
        after = None
        while page := await self._page(wanted, limit=PAGE, after=after):
            for found in page:
                selected = found["assetSelection"]
                if whole or selected is None or keys & {tuple(key["path"]) for key in selected}:
                    yield self._run_of(found)
            if len(page) < PAGE:
                return
            after = page[-1]["runId"]

    async def _page(self, wanted: Mapping[str, Any], *, limit: int, after: str | None) -> list[dict[str, Any]]:
        given = {name: value for name, value in wanted.items() if value is not None}
        answer = (await self._query(f"{RUNS} {RUN}", filter=given, limit=limit, after=after))["runsOrError"]
        results: list[dict[str, Any]] = _expected(answer, "Runs")["results"]
        return results

    async def _events(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        after, more = None, True
        while more:
            answer = (await self._query(EVENTS, run=run_id, after=after, limit=EVENT_PAGE))["logsForRun"]
            page = _expected(answer, "EventConnection")
            for event in page["events"]:
                yield event
            after, more = page["cursor"], page["hasMore"]

    def _run_of(self, found: Mapping[str, Any]) -> Run:
        """A run, from the fields of the fragment `run`."""
        tags = _as_mapping(found["tags"])
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
            url=f"{self.ui_url}/runs/{found['runId']}",
            tags=tags,
        )


def _expected(answer: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
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


def _jobs_of(locations: Iterable[Mapping[str, Any]]) -> list[Job]:
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


def _failure_of(event: Mapping[str, Any]) -> FailureDocument | None:
    """What an event says of a failure; None if it is about something else.

    The last error of the chain is the one that was raised in the step: those before it are Dagster's wrapping.
    """
    if event["__typename"] not in ("ExecutionStepFailureEvent", "RunFailureEvent"):
        return None
    error = event["error"] or {"message": event["message"], "errorChain": []}
    message = error["errorChain"][-1]["error"]["message"] if error["errorChain"] else error["message"]
    return FailureDocument(step=event.get("stepKey"), message=first_line(message))


def _with_op_names(run_config: Mapping[str, Any], nodes: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
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


def _as_tags(tags: Mapping[str, str]) -> list[dict[str, str]]:
    """Tags as GraphQL takes them."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def _as_mapping(tags: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as GraphQL gives them."""
    return {tag["key"]: tag["value"] for tag in tags}


def _examples_of(keys: Sequence[str]) -> str:
    """What partitions there are: all of a few, the ends of many."""
    if not keys:
        return "there are none yet"
    if len(keys) <= MAX_EXAMPLES:
        return f"there are {', '.join(keys)}"
    return f"there are {len(keys)}, from {keys[0]} to {keys[-1]}"

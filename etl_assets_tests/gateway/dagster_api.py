"""A GraphQL API like Dagster's, in memory, that can be told to answer otherwise."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request, Response

JOBS = ("daily_job", "table_job")
DAYS: tuple[str, ...] = ("2024-01-01", "2024-01-02", "2024-01-03")
FIELDS = (
    "workspaceOrError",
    "pipelineOrError",
    "assetNodes",
    "launchRun",
    "runsOrError",
    "runOrError",
    "logsForRun",
    "terminateRun",
)
Answer = dict[str, Any]


def location(*jobs: str, name: str = "here", status: str = "LOADED", partitioned: tuple[str, ...] = ()) -> Answer:
    """A code location with these jobs."""
    listed = [{"name": job, "description": f"Runs {job}."} for job in ("__ASSET_JOB", *jobs)]
    repository = {
        "name": "__repository__",
        "jobs": listed,
        "partitionSets": [{"pipelineName": job} for job in partitioned],
    }
    loaded = {"__typename": "RepositoryLocation", "repositories": [repository]}
    return {"name": name, "loadStatus": status, "locationOrLoadError": loaded}


def workspace(*locations: Answer) -> Answer:
    return {"__typename": "Workspace", "locationEntries": list(locations)}


class DagsterApi:
    """The API; `app` serves it.

    Attributes:
        runs: newest last, as GraphQL gives them.
        answers: by root field, what is answered instead: a value, or a function of the variables.
        asked: the root fields of all questions.
        days: the partitions of jobs that have some.
        raw: a body, and its status, to answer everything with.
        gone: ids of runs whose process cannot be reached.
        lost: root fields whose answer never comes although the question has its effect.
    """

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.post("/graphql")(self._serve)
        self.reset()

    def reset(self) -> None:
        self.runs: list[Answer] = []
        self.answers: dict[str, Answer | Callable[[Answer], Any]] = {}
        self.asked: list[str] = []
        self.days = DAYS
        self.raw: tuple[int, bytes] | None = None
        self.gone: set[str] = set()
        self.lost: set[str] = set()

    def add(
        self, job: str, status: str = "STARTED", *, assets: list[str] | None = None, age_s: float = 0, **tags: str
    ) -> str:
        """Add a run that was created some time ago, and give its id."""
        run_id = str(uuid.uuid4())
        self.runs.append(
            {
                "__typename": "Run",
                "runId": run_id,
                "jobName": job,
                "status": status,
                "creationTime": time.time() - age_s,
                "startTime": None,
                "endTime": None,
                "tags": [{"key": key, "value": value} for key, value in tags.items()],
                "assetSelection": None if assets is None else [{"path": [asset]} for asset in assets],
                "stepStats": [],
            }
        )
        return run_id

    async def _serve(self, request: Request) -> Response:
        question = await request.json()
        field = next(field for field in FIELDS if field in question["query"])
        self.asked.append(field)
        if self.raw is not None:
            return Response(self.raw[1], self.raw[0], media_type="application/json")
        told = self.answers.get(field, getattr(self, f"_{field}"))
        answer = told(question["variables"]) if callable(told) else told
        if field in self.lost:
            request.scope["state"]["transport"].abort()
        return Response(json.dumps({"data": {field: answer}}), media_type="application/json")

    def _workspaceOrError(self, asked: Answer) -> Answer:
        return workspace(location(*JOBS, partitioned=("daily_job",)))

    def _pipelineOrError(self, asked: Answer) -> Answer:
        tags = [{"key": "dagster/partition", "value": asked.get("partition", "")}]
        partition = {
            "runConfigOrError": {"__typename": "PartitionRunConfig", "yaml": "{}\n"},
            "tagsOrError": {"__typename": "PartitionTags", "results": tags},
        }
        keys = {"partitionKeys": list(self.days)}
        return {"__typename": "Pipeline", "partitionKeysOrError": keys, "partition": partition}

    def _assetNodes(self, asked: Answer) -> Any:
        job = asked["job"]["pipelineName"]
        asset = job.removesuffix("_job")
        return [{"assetKey": {"path": [asset]}, "jobNames": ["__ASSET_JOB", job], "opNames": [asset]}]

    def _launchRun(self, asked: Answer) -> Answer:
        params = asked["params"]
        tags = {tag["key"]: tag["value"] for tag in params["executionMetadata"]["tags"]}
        self.add(params["selector"]["jobName"], **tags)
        return {"__typename": "LaunchRunSuccess", "run": self.runs[-1]}

    def _runsOrError(self, asked: Answer) -> Answer:
        wanted = asked["filter"]
        tags = {(tag["key"], tag["value"]) for tag in wanted.get("tags") or ()}
        found = [
            run
            for run in reversed(self.runs)
            if wanted.get("pipelineName") in (None, run["jobName"])
            and run["status"] in (wanted.get("statuses") or [run["status"]])
            and run["creationTime"] > wanted.get("createdAfter", 0)
            and tags <= {(tag["key"], tag["value"]) for tag in run["tags"]}
        ]
        if asked["after"] is not None:
            ids = [run["runId"] for run in found]
            found = found[ids.index(asked["after"]) + 1 :] if asked["after"] in ids else []
        return {"__typename": "Runs", "results": found[: asked["limit"]]}

    def _runOrError(self, asked: Answer) -> Answer:
        missing = {"__typename": "RunNotFoundError", "message": "not found"}
        return next((run for run in self.runs if run["runId"] == asked["run"]), missing)

    def _logsForRun(self, asked: Answer) -> Answer:
        return {"__typename": "EventConnection", "cursor": "end", "hasMore": False, "events": []}

    def _terminateRun(self, asked: Answer) -> Answer:
        run = self._runOrError(asked)
        if run["__typename"] == "RunNotFoundError":
            return run
        marked = asked["policy"] == "MARK_AS_CANCELED_IMMEDIATELY"
        if run["status"] in ("SUCCESS", "FAILURE", "CANCELED") or (run["status"] == "CANCELING" and not marked):
            message = f"Run {run['runId']} could not be terminated due to having status {run['status']}."
            return {"__typename": "TerminateRunFailure", "message": message, "run": run}
        if run["runId"] in self.gone and not marked:
            return {
                "__typename": "TerminateRunFailure",
                "message": f"Unable to terminate run {run['runId']}",
                "run": run,
            }
        run["status"] = "CANCELED" if marked else "CANCELING"
        return {"__typename": "TerminateRunSuccess"}

"""What the gateway answers when it cannot do what was asked: problem details (RFC 9457), never a trace or a secret.

Whoever finds a problem raises it; the handlers in `middleware` answer with it. Only the calls of the original exercises
have answers of their own, `{"message": …}`.
"""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"
EXAMPLE_ID = "4f3c2a9d5e6b4c1f8a7d9e0b1c2d3e4f"
DESCRIBED_HEADERS = {
    name: {"description": meaning, "schema": {"type": "string"}}
    for name, meaning in (("Retry-After", "Seconds to wait"), ("WWW-Authenticate", "How to authenticate"))
}

log = logging.getLogger(__name__)


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    where: str = Field(description="Place in the request, like `body.partition`")
    reason: str = Field(description="What is wrong there")


class ProblemDocument(BaseModel):
    """Problem details as of RFC 9457."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field("about:blank", description="Kind of problem; `about:blank` says no more than the status")
    title: str = Field(description="The problem in a few words")
    status: int = Field(description="The status of this answer")
    detail: str = Field(description="What happened and what to do")
    request_id: str = Field(description="Also in X-Request-Id and in the gateway's log")
    errors: list[Fault] | None = Field(None, description="The single faults, where there are several")


class Problem(Exception):
    """An answer that is no success, for the person who has to act on it.

    Args:
        status: of the answer.
        title: the problem in a few words, the same each time it occurs.
        detail: what happened this time and what to do; goes out as it is, so it carries no secret.
        headers: of the answer, like `Retry-After`.
        errors: single faults, as (where, reason).
    """

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.title = title
        self.detail = detail
        self.headers = dict(headers or {})
        self.errors = tuple(errors)


unreadable = partial(Problem, 400, "Bad Request", "the body cannot be read: send it as JSON in UTF-8")
no_json = partial(
    Problem,
    415,
    "Unsupported Media Type",
    "the body is not said to be JSON: send it with `Content-Type: application/json`",
)
unexpected = partial(
    Problem, 500, "Internal Server Error", "the gateway has failed: its log names the cause beside this request_id"
)


def unfit(*errors: tuple[str, str]) -> Problem:
    """A request that does not fit its description, with the places where it does not."""
    detail = "the request does not fit its description: see errors, and /docs for what is expected"
    return Problem(422, "Unprocessable Content", detail, errors=errors)


def problem_response(request: Request, problem: Problem) -> JSONResponse:
    """The answer that a problem is; the log has the id of a request for which something was not to be had."""
    request_id = str(getattr(request.state, "request_id", ""))
    if problem.status == 503:
        log.warning("request %s: %s", request_id, problem.detail)
    return JSONResponse(document_of(problem, request_id), problem.status, problem.headers, MEDIA_TYPE)


def document_of(problem: Problem, request_id: str) -> dict[str, Any]:
    """Its problem details, as JSON has them."""
    document = ProblemDocument(
        type="about:blank",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        request_id=request_id,
        errors=[Fault(where=where, reason=reason) for where, reason in problem.errors] or None,
    )
    return document.model_dump(exclude_none=True)


def documented(*problems: Problem) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation for the problems that it may answer; each of them is an example."""
    responses: dict[int | str, dict[str, Any]] = {}
    schema = {"$ref": "#/components/schemas/ProblemDocument"}
    for status in dict.fromkeys(problem.status for problem in problems):
        these = [problem for problem in problems if problem.status == status]
        examples = {problem.title: document_of(problem, EXAMPLE_ID) for problem in these}
        responses[status] = answer_documented(" / ".join(examples), examples, schema, media_type=MEDIA_TYPE)
        headers = set().union(*(problem.headers for problem in these)) & DESCRIBED_HEADERS.keys()
        if headers:
            responses[status]["headers"] = {name: DESCRIBED_HEADERS[name] for name in sorted(headers)}
    return responses


def answer_documented(
    description: str, examples: Mapping[str, Any], schema: Mapping[str, Any], *, media_type: str = "application/json"
) -> dict[str, Any]:
    """A documented answer, with examples by name."""
    values = {name: {"value": example} for name, example in examples.items()}
    return {"description": description, "content": {media_type: {"schema": schema, "examples": values}}}

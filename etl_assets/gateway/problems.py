"""What the gateway answers when it cannot do what was asked: problem details (RFC 9457), never a trace or a secret.

Whoever finds a problem raises it; the handlers in `app` write it down. Only the calls with the fixed `{"message": …}`
answers of the original exercise answer otherwise, and they do so themselves.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

MEDIA_TYPE = "application/problem+json"


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


def request_id_of(request: Request) -> str:
    """The id that the outermost layer has given this request."""
    return str(getattr(request.state, "request_id", ""))


def problem_response(request: Request, problem: Problem) -> JSONResponse:
    """The answer that a problem is."""
    document = ProblemDocument(
        type="about:blank",
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        request_id=request_id_of(request),
        errors=[Fault(where=where, reason=reason) for where, reason in problem.errors] or None,
    )
    return JSONResponse(document.model_dump(exclude_none=True), problem.status, problem.headers, MEDIA_TYPE)


def documented(*statuses: int, **headers: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of an operation for the problems that it may answer, with an example each.

    Args:
        statuses: of the answers.
        headers: response headers to describe, as `<name with underscores>=<meaning>`.
    """
    described = {
        name.replace("_", "-"): {"description": meaning, "schema": {"type": "string"}}
        for name, meaning in headers.items()
    }
    return {status: _documented_one(status, described) for status in statuses}


def _documented_one(status: int, headers: dict[str, Any]) -> dict[str, Any]:
    title = HTTPStatus(status).phrase
    example = ProblemDocument(
        type="about:blank",
        title=title,
        status=status,
        detail=EXAMPLE_DETAILS.get(status, title),
        request_id="4f3c2a9d5e6b4c1f8a7d9e0b1c2d3e4f",
        errors=[Fault(where="body.job", reason="Field required")] if status == 422 else None,
    )
    return {
        "description": title,
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/ProblemDocument"},
                "example": example.model_dump(exclude_none=True),
            }
        },
        **({"headers": headers} if headers else {}),
    }


EXAMPLE_DETAILS = {
    400: "the request cannot be read: send the body as JSON",
    401: "this call needs the token of the gateway: send `Authorization: Bearer …`",
    403: "a page of another site made this request: call the gateway from a program or from its own pages",
    404: "there is no run 4f3c2a9d-5e6b-4c1f-8a7d-9e0b1c2d3e4f: GET /v1/runs lists those that there are",
    409: "the Idempotency-Key was used for another request: send a new key",
    413: "the body is longer than 65536 bytes: send less",
    422: "the request does not fit its description: see errors",
    503: "Dagster does not answer: try again later",
}

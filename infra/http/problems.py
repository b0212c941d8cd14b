"""Errors as RFC 9457 problems. In: whatever was raised. Out: `application/problem+json` with a stable `code`.

A problem never repeats what the caller sent, which may be personal; a faulty field is named by its place.
"""

from __future__ import annotations

import http
import json
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from traceback import extract_tb
from typing import Any, ClassVar, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from domain.access import InsufficientScope
from domain.ports import KeyReused, LogUnavailable
from domain.refusals import Refusal

MEDIA_TYPE = "application/problem+json"

# Above this many faulty fields the rest is counted, so that an answer can't grow with a hostile body.
_FIELDS_NAMED = 200
_PLACE_LENGTH = 200
_RETRY_AFTER = 1

_log = logging.getLogger("daybook.http")


class FaultyField(BaseModel):
    """One faulty part of a request. `pointer` is a JSON Pointer (RFC 6901) into the body, or a parameter's name."""

    location: str = Field(examples=["body"], description="body, query, path, header or cookie")
    pointer: str = Field(examples=["/period/end"])
    message: str
    code: str


class Problem(BaseModel):
    """RFC 9457. `code` is stable; further members depend on it (`errors`, `alternatives`, …)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(examples=["urn:daybook:problem:slot_taken"])
    title: str = Field(examples=["Slot taken"])
    status: int = Field(examples=[409])
    code: str = Field(examples=["slot_taken"])
    detail: str
    errors: list[FaultyField] | None = None


class Refused(Exception):
    """A request that the HTTP side itself turns away. Subclasses fix the code and the status."""

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 400

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None, **details: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        self.details = details

    def response(self) -> Response:
        return problem(self.status, self.code, self.detail, self.details, self.headers)


class MalformedBody(Refused):
    code = "malformed_body"


class HeadTooLong(Refused):
    code = "head_too_long"
    status = 431


class BodyTooLarge(Refused):
    code = "body_too_large"
    status = 413


class BodyTooSlow(Refused):
    code = "body_too_slow"
    status = 408


class BodyTooDeep(Refused):
    code = "body_too_deep"


class RepeatedKey(Refused):
    code = "repeated_key"


class RepeatedHeader(Refused):
    code = "repeated_header"


class UnsupportedMediaType(Refused):
    code = "unsupported_media_type"
    status = 415


class InvalidParameter(Refused):
    """A header or parameter that is read by hand and means nothing."""

    code = "invalid"
    status = 422


def problem(
    status: int,
    code: str,
    detail: str,
    details: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem as a response. `details` become members beside the standard ones, which they never replace."""
    content = {
        **(details or {}),
        "type": f"urn:daybook:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "code": code,
        "detail": detail,
    }
    body = json.dumps(content, ensure_ascii=False, default=_plain, separators=(",", ":"))
    return Response(body.encode("utf-8", "replace"), status, headers, MEDIA_TYPE)


def _plain(value: Any) -> str:
    """Instants as everywhere else: RFC 3339, with a Z."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else str(value)


def unavailable(detail: str = "The book can't be reached just now. Ask again shortly; a repeat is safe.") -> Response:
    return problem(503, "unavailable", detail, headers={"Retry-After": str(_RETRY_AFTER)})


def unexpected(error: BaseException) -> Response:
    """Answer to a fault of ours. Of the error only its kind and its places in the code are logged, since its words may
    hold what somebody sent."""
    trace = " < ".join(
        f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(extract_tb(error.__traceback__))
    )
    _log.error("unexpected %s at %s", type(error).__qualname__, trace)
    return problem(500, "internal_error", "Something went wrong on our side.")


Handler = Callable[[Request, Any], Awaitable[Response]]


def install(app: FastAPI, busy: Iterable[type[Exception]] = ()) -> None:
    """Answer every error of this app as a problem. `busy` are further errors that mean: ask again shortly."""
    handlers: dict[type[Exception], Handler] = {
        Refusal: _refusal,
        Refused: _refused,
        RequestValidationError: _validation,
        HTTPException: _http,
        KeyReused: _key_reused,
        LogUnavailable: _unavailable,
        **dict.fromkeys(busy, _busy),
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses=`: these statuses, besides those that every route may give, answer with a `Problem`."""
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in sorted({*statuses, *EVERYWHERE})
    }


EVERYWHERE = (400, 401, 403, 413, 415, 422, 429, 503)


def describe(app: FastAPI) -> None:
    """Put `Problem` into the OpenAPI components, and take out FastAPI's own error shape, which is never sent."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = made()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        shape = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas |= {**shape.pop("$defs", {}), "Problem": shape}
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path in document.get("paths", {}).values():
            for operation in path.values():
                _use_problem(operation)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _use_problem(operation: Any) -> None:
    answers = operation.get("responses", {}) if isinstance(operation, dict) else {}
    for status, answer in answers.items():
        if status[0] in "45":
            answer["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


# Where a request's scope keeps the code with which it was refused.
CODE = "daybook.code"


async def _refusal(request: Request, refusal: Refusal) -> Response:
    request.scope[CODE] = refusal.code
    headers = None
    if isinstance(refusal, InsufficientScope):
        # RFC 6750 §3.1: the client may ask for a token that reaches further.
        lacking = refusal.details["scope"]
        challenge = f'Bearer realm="daybook", error="insufficient_scope", scope="{lacking}"'
        headers = {"WWW-Authenticate": challenge}
    return problem(refusal.status, refusal.code, refusal.message, refusal.details, headers)


async def _refused(request: Request, refused: Refused) -> Response:
    request.scope[CODE] = refused.code
    return refused.response()


async def _key_reused(request: Request, error: KeyReused) -> Response:
    return problem(422, "idempotency_key_reused", "This Idempotency-Key was used before with another body.")


async def _unavailable(request: Request, error: LogUnavailable) -> Response:
    return unavailable()


async def _busy(request: Request, error: Exception) -> Response:
    return unavailable("Many are asking for the same just now. Ask again shortly; nothing was done.")


async def _http(request: Request, error: HTTPException) -> Response:
    phrase = http.HTTPStatus(error.status_code).phrase
    code = _CODES.get(error.status_code, re.sub(r"[^a-z]+", "_", phrase.lower()).strip("_"))
    return problem(error.status_code, code, _WORDS.get(error.status_code, f"{phrase}."), headers=error.headers)


_CODES = {400: "malformed_body", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_WORDS = {
    400: "The body can't be read as JSON in UTF-8.",
    404: "There is nothing at this address.",
    405: "This address does not take this method; see the Allow header.",
}


async def _validation(request: Request, error: RequestValidationError) -> Response:
    faults = cast("Sequence[dict[str, Any]]", error.errors())
    if any(fault["type"] == "json_invalid" for fault in faults):
        place = next(fault["loc"][-1] for fault in faults if fault["type"] == "json_invalid")
        return problem(400, "malformed_json", "The body is not JSON.", {"offset": place})
    return invalid(faults)


def invalid(faults: Sequence[Mapping[str, Any]]) -> Response:
    """Pydantic's errors, each `loc` starting with its location (`body`, `query` …), as one 422 with every faulty
    field."""
    fields = [
        {
            "location": str(fault["loc"][0]) if fault["loc"] else "body",
            "pointer": _pointer(fault["loc"]),
            "message": _message(fault),
            "code": str(fault["type"]),
        }
        for fault in faults[:_FIELDS_NAMED]
    ]
    details: dict[str, Any] = {"errors": fields}
    if len(faults) > _FIELDS_NAMED:
        details["further_errors"] = len(faults) - _FIELDS_NAMED
    count = len(faults)
    words = "One field is faulty." if count == 1 else f"{count} fields are faulty."
    return problem(422, "invalid", words, details)


def _pointer(place: Sequence[str | int]) -> str:
    location, rest = (str(place[0]), place[1:]) if place else ("body", ())
    if location != "body":
        return ".".join(str(part) for part in rest)[:_PLACE_LENGTH]
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in rest)[:_PLACE_LENGTH]


_QUOTED = re.compile(r"""'[^']*'|"[^"]*"|`[^`]*`""")


def _message(fault: Mapping[str, Any]) -> str:
    """Pydantic's words where they are made of the schema alone, otherwise words without what was sent."""
    kind, message = fault["type"], str(fault["msg"])
    match kind:
        case "uuid_parsing":
            return "Input should be a UUID"
        case "union_tag_invalid":
            return f"Input should have one of these tags: {fault.get('ctx', {}).get('expected_tags', '')}"
        case "value_error" | "assertion_error":
            sent = str(fault.get("input"))
            clean = _QUOTED.sub(lambda found: "this" if found[0][1:-1] in sent else found[0], message)
            return clean.partition(", ")[2] or clean
    return message

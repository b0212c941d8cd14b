"""What OpenAPI says of a question's route. Out: options of a FastAPI route."""

from __future__ import annotations

from typing import Any, Final

from infra.http.problems import responses
from infra.http.purposes import HEADER as PURPOSE_OF_USE

_TEXT: Final = {"type": "string"}
_READ_AFTER: Final[dict[str, Any]] = {
    "name": "Read-After",
    "in": "header",
    "description": "A `position` that a command answered with: wait, within a bound, until this view has it. 503 with "
    "`Retry-After` when it takes longer.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{22}$"},
}
_IF_NONE_MATCH: Final[dict[str, Any]] = {
    "name": "If-None-Match",
    "in": "header",
    "description": "The `ETag` of an earlier answer: 304 without a body when nothing has changed.",
    "schema": _TEXT,
}
_POSITION: Final = {
    "Position": {"description": "How far this view has got, opaque.", "required": True, "schema": _TEXT}
}
_ETAG: Final = {"ETag": {"description": "Send it as `If-Match` with a change.", "required": True, "schema": _TEXT}}


def answers(*refusals: int, tagged: bool = False, whole: bool = False, pages: bool = False) -> dict[str, Any]:
    """Options of a question's route: `@router.get("/…", **answers(404))`. `tagged` answers carry an `ETag`; where it
    tells of the `whole` answer, `If-None-Match` is heeded; with `pages` the answer may be a page for people."""
    told: dict[int | str, dict[str, Any]] = {200: {"headers": {**_POSITION, **(_ETAG if tagged else {})}}}
    if pages:
        told[200]["content"] = {"text/html": {"schema": _TEXT}}
    if whole:
        told[304] = {"description": "Nothing has changed", "headers": {**_POSITION, **_ETAG}}
    return {
        "responses": {**told, **responses(*refusals)},
        "openapi_extra": {"parameters": [_READ_AFTER, PURPOSE_OF_USE, *([_IF_NONE_MATCH] if whole else [])]},
    }

"""What OpenAPI says of a command's route. In: its body and its answer. Out: options of a FastAPI route."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from fastapi import FastAPI
from pydantic import BaseModel, Field

from infra.http.problems import responses
from infra.http.purposes import HEADER as PURPOSE_OF_USE
from write_api.bodies import Body, schemas


class Answered(BaseModel):
    """`position` is opaque: send it as `Read-After` to the read API to see what this command did."""

    position: str = Field(examples=["Zn3s3m0m8bq0pQ1nJmYb1g"])


_TEXT: Final = {"type": "string"}
_HEADERS: Final[list[dict[str, Any]]] = [
    {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Your own name for this command, fresh for each. Sent again with the same body it answers as "
        "the first time and does nothing; with another body it is refused.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
        "example": "b7c1f0e2-book-1",
    },
    PURPOSE_OF_USE,
    {
        "name": "X-Request-Id",
        "in": "header",
        "description": "A UUID under which your other traces stand; what is none is ignored. A `traceparent` (W3C) "
        "goes before it: its trace id is taken.",
        "schema": _TEXT,
    },
]
_IF_MATCH: Final = {
    "name": "If-Match",
    "in": "header",
    "description": "The `ETag` of the form that was read; 412 when it has been changed by somebody else since.",
    "schema": {"type": "string", "pattern": '^("[1-9][0-9]{0,17}"|\\*)$'},
    "example": '"3"',
}
_ANSWER_HEADERS: Final = {
    "Position": {"description": "Where the command stands in the log, opaque.", "required": True, "schema": _TEXT},
    "Idempotency-Replayed": {"description": "`true` when this is an earlier answer again.", "schema": _TEXT},
    "X-Request-Id": {"description": "The request's correlation id.", "schema": _TEXT},
}
_LOCATION: Final = {"Location": {"description": "Where it can be read.", "required": True, "schema": _TEXT}}

_BODIES: dict[str, Body[Any]] = {}


def takes(
    body: Body[Any] | None = None,
    *,
    status: int = 200,
    refusals: Iterable[int] = (),
    form: bool = False,
    located: bool = False,
    keyed: bool = True,
    stranger: bool = False,
    examples: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Options of a command's route: `@router.post("", **takes(BOOK, status=201, refusals=(404, 409)))`.

    `form` says that `If-Match` is heeded, `located` that the answer has a `Location`, `keyed` that it is remembered
    under an `Idempotency-Key`. A `stranger` asks without a token, under no key and for no purpose, and is not told
    where it stands in the log. `examples` are bodies by what they show.
    """
    headers = _HEADERS[2:] if stranger else _HEADERS if keyed else _HEADERS[1:]
    told: dict[str, Any] = {"parameters": [*headers, _IF_MATCH] if form else list(headers)}
    if body is not None:
        name = body.model.__name__
        _BODIES[name] = body
        content: dict[str, Any] = {"schema": {"$ref": f"#/components/schemas/{name}"}}
        if examples:
            content["examples"] = {
                words.lower().replace(" ", "_"): {"summary": words, "value": value} for words, value in examples.items()
            }
        told["requestBody"] = {"required": not body.optional, "content": {"application/json": content}}
    shown = {name: header for name, header in _ANSWER_HEADERS.items() if name == "X-Request-Id" or not stranger}
    answered = shown | (_LOCATION if located else {})
    return {
        "status_code": status,
        "responses": {status: {"headers": answered}, **responses(*refusals, *((412,) if form else ()))},
        "openapi_extra": told,
    }


def describe(app: FastAPI) -> None:
    """Put the bodies' schemas into the API's description."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = made()
        document["components"]["schemas"] |= schemas(_BODIES.values())
        return document

    app.openapi = openapi  # type: ignore[method-assign]

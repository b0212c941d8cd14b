"""The page that describes an API. In: its OpenAPI document. Out: HTML that stands by itself: no script, and nothing
that would be fetched from somewhere else."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

_FOLDER = Path(__file__).parent
_STYLE = (_FOLDER / "reference.css").read_text("utf-8")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_HEADERS = {
    "Content-Security-Policy": f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
}
_REFERENCE = "#/components/schemas/"
# What JSON Schema says of a value beside its type, in the words of the page.
_BOUNDS = {
    "minimum": "at least",
    "maximum": "at most",
    "exclusiveMinimum": "more than",
    "exclusiveMaximum": "less than",
    "minLength": "min length",
    "maxLength": "max length",
    "minItems": "min items",
    "maxItems": "max items",
    "pattern": "pattern",
    "default": "default",
}


def describe(app: FastAPI, path: str) -> None:
    """Have the app show the page at `path`; it is made when somebody first asks."""
    page: list[str] = []

    async def reference(request: Request) -> Response:
        if not page:
            page.append(html(app.openapi()))
        return HTMLResponse(page[0], headers=_HEADERS)

    app.add_route(path, reference, methods=["GET"], include_in_schema=False)


def html(document: Mapping[str, Any]) -> str:
    """Operations are grouped by their first tag, in the document's order."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            tag = next(iter(operation.get("tags", ())), "other")
            groups.setdefault(tag, []).append({"method": method.upper(), "path": path, **operation})
    schemas = document.get("components", {}).get("schemas", {})
    page: str = _PAGE.render(info=document["info"], groups=groups, schemas=schemas, style=Markup(_STYLE))  # noqa: S704 - ours
    return page


def kind(schema: Mapping[str, Any] | None) -> Markup:
    """A schema's type in words, with links to those that have a name."""
    if not schema:
        return Markup("anything")
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REFERENCE)
        return Markup('<a href="#{0}">{0}</a>').format(name)
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return Markup(" or ").join(kind(one) for one in schema[several])
    if "allOf" in schema:
        return Markup(" and ").join(kind(one) for one in schema["allOf"])
    if "const" in schema:
        return Markup("<code>{}</code>").format(schema["const"])
    if "enum" in schema:
        return Markup(" · ").join(Markup("<code>{}</code>").format(value) for value in schema["enum"])
    what = schema.get("type", "anything")
    if what == "array":
        return Markup("list of ") + kind(schema.get("items"))
    if isinstance(more := schema.get("additionalProperties"), Mapping):
        return Markup("object of ") + kind(more)
    return escape(f"{what} ({schema['format']})" if "format" in schema else what)


def bounds(schema: Mapping[str, Any]) -> str:
    return ", ".join(f"{words} {schema[name]}" for name, words in _BOUNDS.items() if schema.get(name) is not None)


def prose(text: str | None) -> Markup:
    """Paragraphs, lists, **bold** and `code` of a description."""
    made = []
    for block in re.split(r"\n\s*\n", (text or "").strip()):
        lines = block.strip().splitlines()
        if lines and all(line.startswith(("* ", "  ")) for line in lines):
            items = re.split(r"(?m)^\* ", block.strip())[1:]
            made.append(
                Markup("<ul>{}</ul>").format(Markup().join(Markup("<li>{}").format(_words(one)) for one in items))
            )
        elif lines:
            made.append(Markup("<p>{}</p>").format(_words(block)))
    return Markup("\n").join(made)


def _words(text: str) -> Markup:
    safe = str(escape(text))
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return Markup(re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe))  # noqa: S704 - escaped above


def _page() -> Any:
    # Only our own files are templates, and all of it is escaped.
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"kind": kind, "bounds": bounds, "prose": prose}
    return environment.get_template("reference.html")


_PAGE = _page()

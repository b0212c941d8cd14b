"""The pages that people see when they sign in. In: a template's name and what it shows. Out: HTML that runs nothing but
our own script, is framed by nobody, and sends its forms to us and to the app that is being signed in to."""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import Response

from domain import scopes
from domain.scopes import LETTERS
from infra.http.csrf import FIELD, FORM_HEADERS
from write_api.oauth.browser import Browsers

_FOLDER: Final = Path(__file__).parent
_ASSETS: Final = frozenset({"style.css", "passkey.js"})
_TEMPLATES: Final = Environment(
    loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_VERBS: Final = dict(zip(LETTERS, ("add", "see", "change", "delete", "search"), strict=True))
_PLAIN: Final[Mapping[str, str]] = MappingProxyType(
    {
        "openid": "know who you are",
        "profile": "know who you are",
        "email": "see your e-mail address",
        "fhirUser": "know which person in the clinic's records you are",
        "launch/patient": "know which patient's record you open",
        "online_access": "stay signed in while you use it",
        "offline_access": "work for you while you are away, for up to 90 days",
    }
)


class Pages:
    def __init__(self, browsers: Browsers) -> None:
        self._browsers = browsers

    def show(
        self, request: Request, name: str, status: int = 200, *, leads_to: str | None = None, **shown: Any
    ) -> Response:
        """`leads_to` is the app's address that a form of this page may end at: browsers hold redirects to
        `form-action` too."""
        mark = self._browsers.mark(request)
        text = _TEMPLATES.get_template(f"{name}.html").render(
            csrf_field=FIELD, csrf=self._browsers.token(mark), **shown
        )
        targets = " ".join(["'self'", *([origin_of(leads_to)] if leads_to else [])])
        policy = (
            "default-src 'none'; style-src 'self'; script-src 'self'; img-src data:; "
            f"form-action {targets}; frame-ancestors 'none'; base-uri 'none'"
        )
        headers = {"Content-Security-Policy": policy, **FORM_HEADERS}
        response = Response(text, status, headers, "text/html; charset=utf-8")
        self._browsers.set_mark(request, response, mark)
        return response


def asset(name: str) -> Response | None:
    """A style sheet or script of the pages."""
    if name not in _ASSETS:
        return None
    kind = mimetypes.guess_type(name)[0]
    return Response(
        (_FOLDER / name).read_bytes(), 200, {"Cross-Origin-Resource-Policy": "same-origin"}, kind or "text/plain"
    )


def origin_of(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}"


def words_of(granted: tuple[str, ...]) -> list[str]:
    """What scopes let an app do, in words for people."""
    told = dict.fromkeys(_said(word) for word in granted)
    return list(told)


def _said(word: str) -> str:
    scope = scopes.parse(word)
    if scope is None:
        return _PLAIN[word]
    verbs = [_VERBS[letter] for letter in scope.letters]
    does = ", ".join(verbs[:-1]) + (" and " if verbs[1:] else "") + verbs[-1]
    whose = "your" if scope.context == "patient" else "all that you may reach of"
    what = "records of every kind" if scope.resource == "*" else f"{scope.resource} records"
    return f"{does} {whose} {what}"

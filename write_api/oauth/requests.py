"""HTTP requests as the library reads them, and its answers as HTTP. In: parameters as they came. Out: the same, checked
for what the library trusts them with."""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from authlib.oauth2.rfc6749 import InvalidRequestError, OAuth2Payload, OAuth2Request  # type: ignore[import-untyped]
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from write_api.oauth.authority import Visit

Parameters = Sequence[tuple[str, str]]

# RFC 6749 §3.1: a parameter comes once. RFC 8707 §2 lets this one come several times.
_SEVERAL = frozenset({"resource"})
# What the library repeats in its error texts, and may only if RFC 6749 §5.2 allows each character there.
_REPEATED = ("response_type", "grant_type", "redirect_uri", "client_id", "scope")
_TEXT = re.compile(r"[\x20-\x21\x23-\x5b\x5d-\x7e]*")
_MOST = 50


class Payload(OAuth2Payload):  # type: ignore[misc]
    def __init__(self, parameters: Parameters) -> None:
        self._data = dict(parameters)
        self._datalist: defaultdict[str, list[str]] = defaultdict(list)
        for name, value in parameters:
            self._datalist[name].append(value)

    @property
    def data(self) -> dict[str, str]:
        return self._data

    @property
    def datalist(self) -> defaultdict[str, list[str]]:
        return self._datalist


class Asked(OAuth2Request):  # type: ignore[misc]
    """One request of the protocol. `session` is what a grant found or made for the token to be given."""

    def __init__(self, method: str, parameters: Parameters, headers: Mapping[str, str], visit: Visit) -> None:
        # Whether TLS is demanded is the door's to say, for every address alike.
        super().__init__(method, "https://localhost/", headers=_readable(headers))
        self.payload = Payload(parameters)
        self.visit = visit

    @property
    def args(self) -> dict[str, str]:
        return self.payload.data if self.method == "GET" else {}

    @property
    def form(self) -> dict[str, str]:
        return self.payload.data if self.method == "POST" else {}


def checked(parameters: Parameters) -> Parameters:
    """Raises `InvalidRequestError` for what is there twice, or can't be what it says."""
    seen = set()
    for name, value in parameters:
        if name in seen and name not in _SEVERAL:
            raise InvalidRequestError("A parameter comes twice.")
        seen.add(name)
        if name in _REPEATED and not _TEXT.fullmatch(value):
            raise InvalidRequestError("A parameter holds a character that it may not.")
    return parameters


def parameters_of(text: bytes) -> Parameters:
    """Those of a query or a form (`application/x-www-form-urlencoded`). Empty ones count as left out (RFC 6749 §3.1).
    Raises `InvalidRequestError`."""
    try:
        read = parse_qsl(
            text.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST, strict_parsing=False
        )
    except ValueError:
        raise InvalidRequestError("The parameters can't be read.") from None
    return [(name, value) for name, value in read if value]


async def asked(request: Request, visit: Visit) -> Asked:
    """A request to an endpoint that takes a form (POST) or a query (GET). Raises `InvalidRequestError`."""
    text = await request.body() if request.method == "POST" else request.scope["query_string"]
    return Asked(request.method, checked(parameters_of(text)), request.headers, visit)


@dataclass(slots=True)
class Answer:
    """What the library answers. `location` is where it sends a browser, and may still be changed."""

    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def location(self) -> str | None:
        return self.headers.get("Location")

    @location.setter
    def location(self, there: str) -> None:
        self.headers["Location"] = there

    def response(self) -> Response:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _BY_EDGE}
        if isinstance(self.body, dict):
            headers.pop("Content-Type", None)
            return JSONResponse(self.body, self.status, headers)
        return Response(self.body, self.status, headers)


# Every answer carries them anyway.
_BY_EDGE = frozenset({"cache-control"})


def _readable(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The library takes for granted that basic credentials are UTF-8; those that are not are none."""
    told = headers.get("Authorization", "")
    scheme, _, credentials = told.partition(" ")
    if scheme.lower() != "basic":
        return {}
    try:
        base64.b64decode(credentials.strip(), validate=True).decode()
    except ValueError:
        return {}
    return {"Authorization": told}

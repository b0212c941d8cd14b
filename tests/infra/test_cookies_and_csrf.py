"""A cookie is the host's alone, and a form counts only when it was sent from a page of ours, by the same browser."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response

from infra.http.address import Outside, reached_by
from infra.http.cookies import Cookie
from infra.http.csrf import CrossSite, Forms

SECRET = b"a secret that only these tests know"
FORMS = Forms(SECRET)
SESSION = Cookie("session", lifetime=timedelta(hours=1))


def request(https: bool = False, **headers: str) -> Request:
    scope: dict[str, Any] = {
        "type": "http",
        "scheme": "http",
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }
    reached_by(scope, Outside(https=https))
    return Request(scope)


def set_cookie(asked: Request, cookie: Cookie, value: str) -> str:
    response = Response()
    cookie.set(asked, response, value)
    return response.headers["set-cookie"]


def test_over_tls_it_is_the_hosts_alone() -> None:
    asked = request(https=True)
    said = set_cookie(asked, SESSION, "abc.def-_~")
    assert said.startswith("__Host-session=abc.def-_~;")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax", "Max-Age=3600"} == set(said.split("; ")[1:])
    assert "Max-Age" not in set_cookie(asked, Cookie("pre", same_site="strict"), "x")
    assert "SameSite=strict" in set_cookie(asked, Cookie("pre", same_site="strict"), "x")


def test_over_plain_http_it_is_no_less_hidden_from_scripts() -> None:
    said = set_cookie(request(), SESSION, "abc")
    assert said.startswith("session=abc;")
    assert {"HttpOnly", "Path=/", "SameSite=lax", "Max-Age=3600"} == set(said.split("; ")[1:])


def test_over_tls_one_that_a_sibling_domain_may_have_planted_is_not_read() -> None:
    assert SESSION.read(request(https=True, cookie="session=planted")) is None
    assert SESSION.read(request(https=True, cookie="session=planted; __Host-session=ours")) == "ours"
    assert SESSION.read(request(cookie="session=ours")) == "ours"
    assert SESSION.read(request(cookie='session="a\\073b"')) is None


def test_it_is_cleared_under_the_same_name() -> None:
    response = Response()
    SESSION.clear(request(https=True), response)
    said = response.headers["set-cookie"]
    assert said.startswith('__Host-session="";')
    assert "Max-Age=0" in said
    assert "Secure" in said


@pytest.mark.parametrize("value", ["", "a b", "a;b", 'a"b', "a\r\nSet-Cookie: x", "ä", "x" * 4000])
def test_what_readers_undo_differently_is_never_set(value: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        set_cookie(request(), SESSION, value)


@pytest.mark.parametrize(
    ("https", "headers"),
    [
        (False, {}),
        (False, {"sec_fetch_site": "same-origin", "origin": "null"}),
        (False, {"origin": "http://book.example", "host": "book.example"}),
        (True, {"origin": "https://book.example", "host": "book.example"}),
    ],
)
def test_a_form_of_ours_passes(https: bool, headers: dict[str, str]) -> None:
    FORMS.check(request(https, **headers), "cookie", FORMS.token("cookie"))


@pytest.mark.parametrize(
    ("https", "headers"),
    [
        (False, {"sec_fetch_site": "cross-site"}),
        (False, {"sec_fetch_site": "same-site"}),
        (False, {"sec_fetch_site": "none"}),
        (False, {"sec_fetch_site": "cross-site", "origin": "http://book.example", "host": "book.example"}),
        (False, {"origin": "http://evil.example", "host": "book.example"}),
        (False, {"origin": "null", "host": "book.example"}),
        (True, {"origin": "http://book.example", "host": "book.example"}),
    ],
)
def test_what_another_site_began_is_refused_with_a_good_token_too(https: bool, headers: dict[str, str]) -> None:
    with pytest.raises(CrossSite):
        FORMS.check(request(https, **headers), "cookie", FORMS.token("cookie"))


def test_a_token_is_bound_to_the_cookie_and_the_secret() -> None:
    token = FORMS.token("cookie")
    assert token != FORMS.token("cookie"), "compression shows nothing of it"
    for cookie, sent in [
        ("another", token),
        (None, token),
        ("", FORMS.token("")),
        ("cookie", None),
        ("cookie", ["x"]),
        ("cookie", ""),
        ("cookie", "ä"),
        ("cookie", Forms(SECRET[::-1]).token("cookie")),
    ]:
        with pytest.raises(CrossSite):
            FORMS.check(request(), cookie, sent)


@given(st.integers(0, 63), st.sampled_from("abcXYZ019-_"))
def test_a_changed_token_is_none(place: int, letter: str) -> None:
    token = FORMS.token("cookie")
    if token[place] != letter:
        with pytest.raises(CrossSite):
            FORMS.check(request(), "cookie", token[:place] + letter + token[place + 1 :])


@given(st.text(max_size=100))
def test_no_text_breaks_the_check(token: str) -> None:
    with pytest.raises(CrossSite):
        FORMS.check(request(), "cookie", token)

"""Whatever is sent to the sign-in and the endpoints of the protocol: no fault of ours, nobody is sent elsewhere,
nothing is echoed as markup, and no answer goes without its policy."""

from __future__ import annotations

import random
from typing import Any
from urllib.parse import urlsplit

import httpx

from tests.signing_in import BACK, GONE, App, House

MARK = "<script>alert('Zaphod')</script>"
WORDS = [
    "",
    "x",
    "\x00",
    "%00",
    "a" * 1500,
    MARK,
    f'"{MARK}',
    "https://evil.example/",
    "//evil.example",
    "javascript:alert(1)",
    BACK + ".evil.example",
    BACK + "?x=1",
    "https://app.example.org@evil.example/back",
    "ä\u202e\u0301",
    "null",
    "1e999",
    "-1",
    "a\r\nSet-Cookie: planted=1",
    "S256",
    "plain",
    "code",
    "code token",
    "none",
    "login",
    "authorization_code",
    "password",
    "refresh_token",
    "client_credentials",
    "openid patient/*.rs",
]
NAMES = [
    *("client_id", "redirect_uri", "response_type", "response_mode", "scope", "state", "nonce", "prompt", "max_age"),
    *("code_challenge", "code_challenge_method", "resource", "request", "request_uri", "id_token_hint", "claims"),
    *("login_hint", "email", "password", "csrf", "flow", "half", "code", "answer", "grant_type", "refresh_token"),
    *("code_verifier", "client_secret", "token", "token_type_hint", "post_logout_redirect_uri", "client_assertion"),
]
PATHS = [
    *("/oauth/authorize", "/oauth/continue", "/oauth/sign-in", "/oauth/second-factor", "/oauth/passkey"),
    *("/oauth/consent", "/oauth/sign-out", "/oauth/end-session", "/oauth/token", "/oauth/revoke"),
    *("/oauth/introspect", "/oauth/userinfo", "/oauth/jwks", "/.well-known/openid-configuration"),
]
HEADERS = [
    {},
    {"Accept": "text/html"},
    {"Authorization": "Basic x"},
    {"Authorization": "Basic OnE="},
    {"Authorization": "Basic //8="},
    {"Authorization": "Bearer x"},
    {"Cookie": "daybook-session=x; daybook-browser=y"},
    {"Origin": "https://evil.example", "Accept": "text/html"},
    {"Sec-Fetch-Site": "cross-site", "Accept": "text/html"},
]
KINDS = ["application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x", "text/plain"]


def request(chance: random.Random, house: House, app: App) -> dict[str, Any]:
    """A request that is good but for some of its words, or made of nothing but words."""
    fields: dict[str, str] = house.request(app) if chance.random() < 0.5 else {}
    fields |= {name: chance.choice(WORDS) for name in chance.sample(NAMES, chance.randint(0, 4))}
    headers = dict(chance.choice(HEADERS))
    if chance.random() < 0.5:
        return {"method": "GET", "params": fields, "headers": headers}
    if chance.random() < 0.7:
        return {"method": "POST", "data": fields, "headers": headers}
    junk = chance.choice([b"\xff\xfe=%zz&a&&=", b"{}", b"[", b"a=1&a=2", b"=" * 5000, b"--x\r\n\r\nb\r\n--x--"])
    return {"method": "POST", "content": junk, "headers": headers | {"Content-Type": chance.choice(KINDS)}}


async def test_whatever_is_sent_nothing_breaks_and_nobody_is_sent_elsewhere(house: House, app: App) -> None:
    chance = random.Random(164312)
    statuses = set()
    async with httpx.AsyncClient(base_url=house.url, timeout=60) as http:
        for _ in range(250):
            path = chance.choice(PATHS)
            asked = request(chance, house, app)
            answer = await http.request(url=path, **asked)
            told = (path, asked, answer.status_code, answer.text[:300])
            statuses.add(answer.status_code)
            assert answer.status_code < 500, told
            assert MARK not in answer.text or "json" in answer.headers["content-type"], told
            assert "content-security-policy" in answer.headers, told
            assert "planted" not in str(answer.headers.get_list("set-cookie")), told
            if "location" in answer.headers:
                there = urlsplit(answer.headers["location"])
                home = not there.netloc or there.netloc == urlsplit(house.url).netloc
                assert home or answer.headers["location"].split("?")[0] in (BACK, GONE), told
    assert {200, 302, 400, 401, 403, 405, 415} <= statuses, "all kinds of answers were seen"

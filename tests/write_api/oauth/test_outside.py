"""Signing in through an outside provider: another Daybook on its own port, and one that tells every lie there is."""

from __future__ import annotations

import asyncio
import html
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import jwt
import pytest
import uvicorn
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt as jose
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from commands.accounts import CloseAccount, LockAccount
from commands.outside import LinkProvider
from commands.second_factors import SetMfaPolicy
from domain.access import Actor, Role
from domain.mfa_policy import Mfa
from domain.outside import IdentityInUse
from infra.http import outside
from infra.http.outside import Registration, read_registrations
from infra.troubles import WrongSettings
from tests.clinic import ORGANIZATION
from tests.conftest import Database, fresh_database
from tests.people import OPERATOR
from tests.signing_in import App, Browser, House, running, sent_back

CLIENT = "daybook-at-the-provider"
_ON = re.compile(r'<a href="([^"]+)">Go on to')


@dataclass
class Liar:
    """A provider in one process: honest but for what a test has it say. `says` changes the claims, `header` the id
    token's, `answers` whole answers by path; `asked` is every form that came to the token endpoint."""

    url: str
    keys: list[Any]
    says: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Response] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)
    begun: dict[str, dict[str, str]] = field(default_factory=dict)
    signs: Any = None
    alg: str = "EdDSA"
    slow: asyncio.Event | None = None
    # The path whose answers are right, and longer than anybody needs.
    long: str | None = None

    def went(self, browser: Browser) -> str:
        """Somebody signs in here with the browser that was sent; the address that it is sent back to."""
        found = _ON.search(browser.page.text)
        assert found is not None, browser.page.text
        there = urlsplit(html.unescape(found[1]))
        told = dict(parse_qsl(there.query))
        assert told["response_type"] == "code"
        assert told["code_challenge_method"] == "S256"
        code = f"code-{len(self.begun)}"
        self.begun[code] = told
        return f"{told['redirect_uri']}?code={code}&state={told['state']}"

    def id_token(self, begun: dict[str, str]) -> str:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "sub": "248289761001",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 3600,
            "nonce": begun["nonce"],
            "email": "ada@example.org",
            "email_verified": True,
            "auth_time": now,
        } | self.says
        claims = {name: value for name, value in claims.items() if value is not None}
        key = self.signs or self.keys[0]
        if self.alg == "none":
            return jwt.encode(claims, "", algorithm="none")
        return jose.encode({"alg": self.alg, "kid": key.kid}, claims, key, [self.alg])

    async def answer(self, request: Request) -> Response:
        path = request.url.path
        if self.slow is not None:
            await self.slow.wait()
        if path in self.answers:
            return self.answers[path]
        answer = await self.honest(request, path)
        if path == self.long:
            return JSONResponse(json.loads(bytes(answer.body)) | {"more": "x" * outside.LARGEST}, answer.status_code)
        return answer

    async def honest(self, request: Request, path: str) -> Response:
        if path == "/jwks":
            return JSONResponse({"keys": [key.as_dict(private=False) for key in self.keys]})
        if path == "/token":
            form = dict(parse_qsl((await request.body()).decode()))
            self.asked.append(form)
            begun = self.begun.pop(form["code"], None)
            if begun is None or create_s256_code_challenge(form["code_verifier"]) != begun["code_challenge"]:
                return JSONResponse({"error": "invalid_grant"}, 400)
            return JSONResponse({"access_token": "a", "token_type": "Bearer", "id_token": self.id_token(begun)})
        return JSONResponse(
            {
                "issuer": self.url,
                "authorization_endpoint": f"{self.url}/authorize",
                "token_endpoint": f"{self.url}/token",
                "jwks_uri": f"{self.url}/jwks",
                "id_token_signing_alg_values_supported": ["EdDSA", "Ed25519", "RS256", "ES256", "none", "HS256"],
                "token_endpoint_auth_methods_supported": ["client_secret_post"],
            }
            | self.metadata
        )


@pytest.fixture
async def liar() -> AsyncIterator[Liar]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    keys = [OKPKey.generate_key("Ed25519", auto_kid=True), RSAKey.generate_key(2048, auto_kid=True)]
    keys.append(ECKey.generate_key("P-256", auto_kid=True))
    there = Liar(f"http://127.0.0.1:{listener.getsockname()[1]}", keys)
    app = Starlette(routes=[Route("/{rest:path}", there.answer, methods=["GET", "POST"])])
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None, ws="none"))
    serving = asyncio.create_task(server.serve([listener]))
    yield there
    if there.slow is not None:
        there.slow.set()
    server.should_exit = True
    await serving


@pytest.fixture
async def house(database: Database, tmp_path: Path, liar: Liar) -> AsyncIterator[House]:
    known = Registration(
        name="there",
        label="The <Other> Side",
        issuer=liar.url,
        client_id=CLIENT,
        client_secret=SecretStr("s3cr3t of ours"),
        mfa_acr=frozenset({"loa3"}),
    )
    async with running(database.app, tmp_path, [known]) as house:
        yield house


async def signed_in(house: House, email: str = "ada@example.org") -> Browser:
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    assert (await browser.sign_in(email)).status_code == 200
    return browser


async def linked(house: House, liar: Liar, email: str = "ada@example.org") -> Browser:
    browser = await signed_in(house, email)
    await browser.send("/oauth/outside/there/link")
    answer = await browser.go(liar.went(browser))
    assert "No longer sign in with The &lt;Other&gt; Side" in answer.text, answer.text
    return browser


async def came(house: House, liar: Liar, app: App | None = None, **wish: str) -> tuple[Browser, httpx.Response]:
    """A browser that signs in through the other side, and what it gets."""
    browser = house.browser()
    if app is None:
        await browser.go("/oauth/sign-in")
    else:
        await browser.go("/oauth/authorize", **house.request(app, **wish))
    await browser.send("/oauth/outside/there")
    return browser, await browser.go(liar.went(browser))


def is_in(answer: httpx.Response) -> bool:
    return answer.status_code == 200 and "Where you are signed in" in answer.text


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519", "RS256", "ES256"])
async def test_whoever_linked_their_account_signs_in_by_the_word_of_the_other_side(
    house: House, liar: Liar, app: App, ada: Actor, alg: str
) -> None:
    liar.alg, liar.signs = alg, {"RS256": liar.keys[1], "ES256": liar.keys[2]}.get(alg, liar.keys[0])
    await linked(house, liar)
    told = sent_back((await came(house, liar, app))[1])
    tokens = (await house.redeem(app, told["code"])).json()
    claims = jwt.decode(tokens["id_token"], options={"verify_signature": False})
    assert (claims["sub"], claims["amr"]) == (str(ada.account_id), ["fed"])
    assert liar.asked[-1]["client_secret"] == "s3cr3t of ours"
    assert ada.account_id is not None
    events = await house.people.events(f"account/{ada.account_id}")
    assert {"ProviderLinked", "ProviderAccepted"} <= set(events)


async def test_another_daybook_is_a_provider(database: Database, postgres: str, template: str, tmp_path: Path) -> None:
    for name in ("there", "here"):
        (tmp_path / name).mkdir()
    with fresh_database(postgres, template) as other:
        async with running(other.app, tmp_path / "there") as there:
            await there.people.patient()
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
            app = await there.app(
                redirect_uris=["http://127.0.0.1/oauth/outside/there/back"], scopes=["openid", "email"]
            )
            known = Registration(
                name="there",
                label="There",
                issuer=there.url,
                client_id=app.id,
                client_secret=SecretStr(app.secret or ""),
            )
            async with running(database.app, tmp_path / "here", [known]) as here:
                ada = await here.people.patient()
                browser, abroad = await signed_in(here), there.browser()
                await browser.send("/oauth/outside/there/link")
                await browser.go(await _through(browser, abroad))
                assert "No longer sign in with There" in browser.page.text
                browser = here.browser()
                await browser.go("/oauth/sign-in")
                await browser.send("/oauth/outside/there")
                assert is_in(await browser.go(await _through(browser, abroad)))
                assert "ProviderAccepted" in await here.people.events(f"account/{ada.account_id}")


async def _through(browser: Browser, abroad: Browser) -> str:
    found = _ON.search(browser.page.text)
    assert found is not None, browser.page.text
    answer = await abroad.go(html.unescape(found[1]))
    if answer.status_code == 200:
        answer = await abroad.sign_in()
    return str(answer.headers["location"])


LIES: dict[str, dict[str, Any]] = {
    "nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "audience": {"aud": "somebody else"},
    "several audiences, and nobody's": {"aud": [CLIENT, "another"]},
    "authorized party": {"azp": "somebody else"},
    "issuer": {"iss": "https://elsewhere.example"},
    "over": {"iat": 1, "exp": 2},
    "never over": {"exp": None},
    "from tomorrow": {"iat": int(time.time()) + 10**5},
    "no subject": {"sub": None},
    "subject that is none": {"sub": 7},
    "endless subject": {"sub": "x" * 300},
    "hash of the access token": {"at_hash": "x"},
    "audience that is none": {"aud": 7},
}


@pytest.mark.parametrize("lie", LIES)
async def test_an_id_token_that_is_not_ours_proves_nobody(house: House, liar: Liar, ada: Actor, lie: str) -> None:
    await linked(house, liar)
    liar.says = LIES[lie]
    browser, answer = await came(house, liar)
    assert (answer.status_code, "did not confirm who you are" in answer.text) == (401, True)
    assert (await browser.http.get("/oauth/sessions")).status_code == 303
    assert house.denied[-1] == "outside_refused"
    liar.says = {}
    assert is_in((await came(house, liar))[1])


@pytest.mark.parametrize("alg", ["none", "HS256", "other key", "kid of another"])
async def test_a_signature_that_is_not_the_providers_proves_nobody(
    house: House, liar: Liar, ada: Actor, alg: str
) -> None:
    await linked(house, liar)
    if alg == "none":
        liar.alg = "none"
    elif alg == "HS256":
        liar.alg, liar.signs = "HS256", OctKey.import_key("s3cr3t of ours" * 3, {"kid": liar.keys[0].kid})
    else:
        stranger = OKPKey.generate_key("Ed25519", auto_kid=True)
        named = stranger.kid if alg == "other key" else liar.keys[0].kid
        liar.signs = OKPKey.import_key(stranger.as_dict(private=True) | {"kid": named})
    assert (await came(house, liar))[1].status_code == 401


async def test_a_key_that_is_new_there_is_looked_up_and_not_more_than_once_a_minute(
    house: House, liar: Liar, ada: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await linked(house, liar)
    liar.keys.insert(0, OKPKey.generate_key("Ed25519", auto_kid=True))
    assert (await came(house, liar))[1].status_code == 401
    monkeypatch.setattr(outside, "_KEYS_AT_MOST", 0.0)
    assert is_in((await came(house, liar))[1])


async def test_an_answer_is_good_once_and_in_the_browser_that_asked(house: House, liar: Liar, ada: Actor) -> None:
    await linked(house, liar)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.send("/oauth/outside/there")
    there = liar.went(browser)
    # A link to it in somebody else's browser would sign them in as another (RFC 9700 §4.7).
    victim = house.browser()
    await victim.go("/oauth/sign-in")
    await victim.send("/oauth/outside/there")
    for stranger in (victim, house.browser()):
        assert (await stranger.go(there)).status_code == 401
        assert (await stranger.http.get("/oauth/sessions")).status_code == 303
    assert is_in(await browser.go(there))
    assert (await browser.go(there)).status_code == 401
    for state in ("x", "\u00e9", ""):
        await browser.go("/oauth/sign-in")
        await browser.send("/oauth/outside/there")
        answer = await browser.go("/oauth/outside/there/back", state=state, code="y")
        assert (answer.status_code, "begun in another browser" in answer.text) == (401, True)
    late = house.browser()
    await late.go("/oauth/sign-in")
    await late.send("/oauth/outside/there")
    there = liar.went(late)
    house.people.later(timedelta(minutes=11))
    assert (await late.go(there)).status_code == 401


@pytest.mark.parametrize("more", ["&iss=https://elsewhere.example", "&state=twice", "&code=twice"])
async def test_an_answer_that_is_another_ones_is_refused(house: House, liar: Liar, ada: Actor, more: str) -> None:
    await linked(house, liar)
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.send("/oauth/outside/there")
    assert (await browser.go(liar.went(browser) + more)).status_code == 401
    assert len(liar.asked) == 1


async def test_whoever_said_no_there_is_told_kindly(house: House, liar: Liar) -> None:
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    await browser.send("/oauth/outside/there")
    state = dict(parse_qsl(urlsplit(liar.went(browser)).query))["state"]
    answer = await browser.go("/oauth/outside/there/back", state=state, error="access_denied")
    assert (answer.status_code, "sign in with your password" in answer.text) == (401, True)


@pytest.mark.parametrize(
    "says",
    [
        {"email_verified": False},
        {"email_verified": None},
        {"email": "eve@example.org"},
        {"email": 7},
        {"email": "ad\u0430@example.org"},
    ],
)
async def test_only_whose_address_the_provider_has_verified_is_linked(
    house: House, liar: Liar, ada: Actor, says: dict[str, Any]
) -> None:
    liar.says = says
    browser = await signed_in(house)
    await browser.send("/oauth/outside/there/link")
    answer = await browser.go(liar.went(browser))
    assert (answer.status_code, "verified the address of your account" in answer.text) == (403, True)
    assert "ProviderLinked" not in await house.people.events(f"account/{ada.account_id}")


async def test_nobody_who_is_not_linked_comes_in_and_no_account_is_made(house: House, liar: Liar, ada: Actor) -> None:
    _, answer = await came(house, liar)
    assert (answer.status_code, "No account here is linked" in answer.text) == (401, True)
    assert await house.events("outside/") == ["UnknownIdentityTried"]
    assert "Let me sign in with" in (await signed_in(house)).page.text


async def test_one_person_there_is_one_account_here(house: House, liar: Liar, ada: Actor) -> None:
    await linked(house, liar)
    await house.people.staff(Role.FRONT_DESK)
    liar.says = {"email": "grace@example.org"}
    browser = await signed_in(house, "grace@example.org")
    await browser.send("/oauth/outside/there/link")
    answer = await browser.go(liar.went(browser))
    assert (answer.status_code, "another account is linked" in answer.text) == (409, True)


async def test_of_two_who_claim_one_person_at_once_one_is_linked(house: House, ada: Actor) -> None:
    grace = await house.people.staff(Role.FRONT_DESK)

    async def claim(who: Actor, email: str) -> object:
        command = LinkProvider(issuer="https://id.example.org", subject="7", email=email)
        return await house.desk.handle(command, who, ORGANIZATION)

    each = (claim(ada, "ada@example.org"), claim(grace, "grace@example.org"))
    ended = await asyncio.gather(*each, return_exceptions=True)
    assert [isinstance(one, IdentityInUse) for one in ended].count(True) == 1
    assert [isinstance(one, BaseException) for one in ended].count(True) == 1
    assert await house.events("outside/") == ["IdentityClaimed"]


async def test_a_link_is_made_by_whoever_just_signed_in_here_in_the_sign_in_that_began_it(
    house: House, liar: Liar, ada: Actor
) -> None:
    browser = await signed_in(house)
    house.people.later(timedelta(minutes=11))
    assert "Sign in once more" in (await browser.send("/oauth/outside/there/link")).text
    await browser.sign_in()
    await browser.send("/oauth/outside/there/link")
    there = liar.went(browser)
    await browser.go("/oauth/sign-in")
    await browser.sign_in()
    assert "no longer signed in as you were" in (await browser.go(there)).text


async def test_whoever_came_in_by_the_other_sides_word_neither_links_nor_unlinks(
    house: House, liar: Liar, ada: Actor
) -> None:
    await linked(house, liar)
    browser, _ = await came(house, liar)
    answer = await browser.send("/oauth/outside/there/unlink")
    assert (answer.status_code, "Sign in once more" in answer.text) == (403, True)
    assert is_in((await came(house, liar))[1])


async def test_unlinked_is_unlinked_and_may_be_linked_again(house: House, liar: Liar, ada: Actor) -> None:
    browser = await linked(house, liar)
    assert "Let me sign in with" in (await browser.send("/oauth/outside/there/unlink")).text
    while len(house.letterbox.letters) < 2:  # noqa: ASYNC110 - sent after the answer, to nobody who could tell
        await asyncio.sleep(0.01)
    subjects = [subject for _, subject, _ in house.letterbox.letters]
    assert subjects == ["Another way to sign in", "A way to sign in was removed"]
    assert (await came(house, liar))[1].status_code == 401
    await linked(house, liar)
    assert is_in((await came(house, liar))[1])


async def test_a_second_factor_is_asked_for_unless_the_provider_vouches_for_one(
    house: House, liar: Liar, app: App, ada: Actor
) -> None:
    await linked(house, liar)
    authenticator = await house.people.with_totp(ada)
    house.people.later(timedelta(minutes=1))
    browser, answer = await came(house, liar, app)
    assert 'name="code"' in answer.text
    assert (await browser.http.get("/oauth/sessions")).status_code == 303
    told = sent_back(await browser.send("/oauth/second-factor", code=house.people.code(authenticator)))
    assert await _amr(house, app, told) == ["fed", "otp", "mfa"]
    for says in ({"amr": ["pwd", "mfa"]}, {"acr": "loa3"}):
        liar.says = says
        assert await _amr(house, app, sent_back((await came(house, liar, app))[1])) == ["fed", "mfa"]
    for doubtful in ({"amr": ["pwd"], "acr": "loa1"}, {"acr": ["loa3"]}, {"acr": {}, "amr": [["mfa"]]}):
        liar.says = doubtful
        assert 'name="code"' in (await came(house, liar, app))[1].text


async def _amr(house: House, app: App, told: dict[str, str]) -> list[str]:
    tokens = (await house.redeem(app, told["code"])).json()
    amr: list[str] = jwt.decode(tokens["id_token"], options={"verify_signature": False})["amr"]
    return amr


async def test_whose_role_needs_a_second_factor_sets_one_up_here_too(house: House, liar: Liar) -> None:
    liar.says = {"email": "grace@example.org"}
    grace = await house.people.staff(Role.FRONT_DESK)
    await linked(house, liar, "grace@example.org")
    assert grace.account_id is not None
    await house.people.asked(SetMfaPolicy(roles={Role.FRONT_DESK: Mfa.REQUIRED}), OPERATOR)
    _, answer = await came(house, liar)
    assert 'class="secret"' in answer.text


async def test_a_locked_or_closed_account_hears_what_an_unknown_one_hears(house: House, liar: Liar, ada: Actor) -> None:
    assert ada.account_id is not None
    _, unknown = await came(house, liar)
    await linked(house, liar)
    heard = [unknown]
    await house.people.asked(LockAccount(account_id=ada.account_id), OPERATOR)
    heard.append((await came(house, liar))[1])
    await house.people.asked(CloseAccount(account_id=ada.account_id), OPERATOR)
    heard.append((await came(house, liar))[1])
    words = {re.search(r'role="alert">(.*?)</p>', one.text, re.DOTALL)[1] for one in heard}  # type: ignore[index]
    assert len(words) == 1
    assert [one.status_code for one in heard] == [401] * 3
    events = await house.people.events(f"account/{ada.account_id}")
    assert "SignInFailed" in events
    assert (await house.events("outside/"))[-2:] == ["IdentityReleased", "UnknownIdentityTried"]


async def test_a_sign_in_there_of_long_ago_is_no_fresh_one(house: House, liar: Liar, app: App, ada: Actor) -> None:
    await linked(house, liar)
    for long_ago in (int(time.time()) - 3600, None):
        liar.says = {"auth_time": long_ago}
        browser, answer = await came(house, liar, app, max_age="60")
        assert "wants you to sign in anew" in answer.text
        assert sent_back(await browser.sign_in())["code"]
    liar.says = {"auth_time": int(time.time()) + 5}
    browser = house.browser()
    await browser.go("/oauth/authorize", **house.request(app, prompt="login"))
    await browser.send("/oauth/outside/there")
    there = liar.went(browser)
    assert {"prompt": "login", "max_age": "0"}.items() <= next(reversed(liar.begun.values())).items()
    assert sent_back(await browser.go(there))["code"]


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/jwks"])
@pytest.mark.parametrize(
    "answer",
    [
        Response(b"[]"),
        Response(b"{"),
        Response(b"\xff"),
        Response(b"[" * 100_000),
        Response(b"{}", 500),
        Response(b"", 302, {"Location": "http://127.0.0.1:1/"}),
        Response(b"{}", headers={"Content-Encoding": "gzip"}),
        JSONResponse({"keys": [7, {"kty": "oct", "k": "AA"}, {"kty": "RSA"}], "id_token": 7, "issuer": 7}),
    ],
    ids=["list", "cut", "bytes", "deep", "500", "redirect", "gzip", "nonsense"],
)
async def test_whatever_it_answers_is_a_page(house: House, liar: Liar, path: str, answer: Response) -> None:
    liar.answers[path] = answer
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    told = await browser.send("/oauth/outside/there")
    if path.startswith("/.well"):
        assert told.status_code == 503
    else:
        told = await browser.go(liar.went(browser))
        assert told.status_code in (401, 503)
    assert "sign in with your password" in told.text
    assert house.denied[-1] in ("outside_refused", "outside_away")


@pytest.mark.parametrize("path", ["/.well-known/openid-configuration", "/token", "/jwks"])
async def test_an_answer_without_end_is_not_read_to_its_end(house: House, liar: Liar, ada: Actor, path: str) -> None:
    liar.long = path
    browser = await signed_in(house)
    told = await browser.send("/oauth/outside/there/link")
    if not path.startswith("/.well"):
        told = await browser.go(liar.went(browser))
    assert (told.status_code, house.denied[-1]) == (503, "outside_away")
    liar.long = None
    await linked(house, liar)


async def test_a_provider_that_takes_its_time_or_is_not_there_is_a_page(house: House, liar: Liar) -> None:
    liar.slow = asyncio.Event()
    reception = house.oauth.state.reception
    reception.providers["there"].patience = 0.2
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    answer = await browser.send("/oauth/outside/there")
    assert (answer.status_code, "does not answer now" in answer.text) == (503, True)
    assert house.denied[-1] == "outside_away"


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://elsewhere.example"},
        {"token_endpoint": "http://elsewhere.example/token"},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
async def test_metadata_of_another_or_that_lead_astray_are_refused(
    house: House, liar: Liar, metadata: dict[str, str]
) -> None:
    liar.metadata = metadata
    browser = house.browser()
    await browser.go("/oauth/sign-in")
    assert (await browser.send("/oauth/outside/there")).status_code == 503


async def test_only_known_providers_have_a_door(house: House, liar: Liar) -> None:
    browser = house.browser()
    answer = await browser.go("/oauth/sign-in")
    assert "Sign in with The &lt;Other&gt; Side" in answer.text
    assert (await browser.http.post("/oauth/outside/there", data={})).status_code == 403
    assert (await browser.go("/oauth/outside/elsewhere/back")).status_code == 404


GOOD = {"name": "there", "label": "There", "issuer": "https://id.example.org", "client_id": "us"}


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "{}",
        json.dumps([GOOD, GOOD]),
        json.dumps([GOOD | {"issuer": "http://id.example.org"}]),
        json.dumps([GOOD | {"issuer": "https://id.example.org#x"}]),
        json.dumps([GOOD | {"name": "../up"}]),
        json.dumps([GOOD | {"client_secret_file": "/nowhere"}]),
        json.dumps([GOOD | {"client_secret": "hush", "client_secret_file": "/nowhere"}]),
        json.dumps([GOOD | {"client_secret": ["hush"]}]),
        json.dumps([GOOD | {"surprise": "hush"}]),
    ],
)
def test_settings_that_are_wrong_are_said_without_repeating_them(tmp_path: Path, said: str) -> None:
    file = tmp_path / "providers.json"
    file.write_text(said)
    with pytest.raises(WrongSettings, match="DAYBOOK_OIDC_PROVIDERS") as refused:
        read_registrations(file)
    assert "hush" not in str(refused.value)


def test_a_secret_may_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush\n")
    file = tmp_path / "providers.json"
    file.write_text(json.dumps([GOOD | {"client_secret_file": str(tmp_path / "secret")}]))
    (read,) = read_registrations(file)
    assert (read.secret, "hush" in repr(read)) == ("hush", False)
    assert read_registrations(None) == ()

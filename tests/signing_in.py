"""A running authorization server with both APIs beside it, an app that uses it through Authlib's client, and a browser
that follows its pages as a person would."""

from __future__ import annotations

import asyncio
import html
import re
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from uuid import UUID

import httpx
import uvicorn
from authlib.integrations.httpx_client import AsyncOAuth2Client
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from fastapi import FastAPI

import write_api.app
import write_api.oauth.app
from commands.clients import RegisterClient, RemoveClient
from commands.loop import Desk
from domain.client import Audience, Details
from infra.event_log.log import PostgresEventLog
from infra.holidays import PublicHolidays
from infra.http.denials import NAMED
from infra.http.origins import Origins
from infra.http.outside import Registration
from infra.http.positions import Positions
from infra.http.service import Together
from infra.http.tokens import READ, WRITE, Bearers, Caller
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.keys import KeyFolder
from infra.revocations import Revocations
from infra.signing_keys import TokenKeys
from tests.clinic import ORGANIZATION
from tests.people import OPERATOR, PASSWORD, Letterbox, People, credentials
from tests.served import SECRET
from write_api.letters import Post
from write_api.oauth.authority import hash_of

BACK = "https://app.example.org/back"
GONE = "https://app.example.org/gone"
SCOPES = "openid fhirUser launch/patient offline_access patient/Appointment.rs user/Appointment.cruds"

_INPUT = re.compile(r"<input([^>]*)>")
_ATTRIBUTE = re.compile(r'(\w+)="([^"]*)"')
_FORM = re.compile(r"<form(.*?)</form>", re.DOTALL)
_ACTION = re.compile(r'action="([^"]+)"')


class ShiftedClock:
    """The real time, and whatever a test has put on top."""

    def __init__(self) -> None:
        self._offset = timedelta()

    def now(self) -> datetime:
        return datetime.now(UTC) + self._offset

    @property
    def instant(self) -> datetime:
        return self.now()

    @instant.setter
    def instant(self, there: datetime) -> None:
        self._offset += there - self.now()


@dataclass
class App:
    """A registered client, as its own programme knows it."""

    id: str
    secret: str | None
    back: str = BACK

    def session(self, url: str, **more: Any) -> AsyncOAuth2Client:
        method = "client_secret_basic" if self.secret else "none"
        return AsyncOAuth2Client(
            self.id,
            self.secret,
            redirect_uri=self.back,
            token_endpoint=f"{url}/oauth/token",
            token_endpoint_auth_method=method,
            code_challenge_method="S256",
            **more,
        )


class Browser:
    """Cookies, forms and redirects within the house; where the house sends it elsewhere it stops."""

    def __init__(self, url: str) -> None:
        self.http = httpx.AsyncClient(base_url=url, headers={"Accept": "text/html"})
        self.page: httpx.Response

    async def go(self, url: str, **parameters: Any) -> httpx.Response:
        return await self._follow(await self.http.get(url, params=parameters or None))

    async def send(self, action: str, **filled: str) -> httpx.Response:
        """Fill in and send the form of the page that goes to `action`."""
        for form in _FORM.findall(self.page.text):
            found = _ACTION.search(form)
            if found is not None and found[1] == action:
                inputs = [dict(_ATTRIBUTE.findall(one)) for one in _INPUT.findall(form)]
                fields = {one["name"]: html.unescape(one.get("value", "")) for one in inputs}
                return await self._follow(await self.http.post(action, data=fields | filled))
        raise AssertionError(f"no form for {action} on this page: {self.page.status_code} {self.page.text}")

    async def sign_in(self, email: str = "ada@example.org", password: str = PASSWORD) -> httpx.Response:
        return await self.send("/oauth/sign-in", email=email, password=password)

    async def _follow(self, answer: httpx.Response) -> httpx.Response:
        while answer.is_redirect and urlsplit(answer.headers["location"]).netloc in (
            "",
            self.http.base_url.netloc.decode(),
        ):
            answer = await self.http.get(answer.headers["location"])
        self.page = answer
        return answer


@dataclass
class House:
    url: str
    desk: Desk
    log: PostgresEventLog
    people: People
    clock: ShiftedClock
    keys: TokenKeys
    folder: Path
    revocations: Revocations
    oauth: FastAPI
    letterbox: Letterbox = field(default_factory=Letterbox)
    verifiers: dict[str, str] = field(default_factory=dict)
    # What the audit was told of: the codes of refused requests.
    denied: list[str] = field(default_factory=list)
    # Beside each code, the account that it was told of, if any.
    denied_of: list[UUID | None] = field(default_factory=list)

    @property
    def authorize(self) -> str:
        return f"{self.url}/oauth/authorize"

    async def app(self, **details: Any) -> App:
        """A trusted confidential app that may do all of `SCOPES`; `details` change that."""
        secret = secrets.token_urlsafe(32)
        said = Details.model_validate(
            {
                "name": "An app",
                "kind": "confidential",
                "grants": ["authorization_code", "refresh_token"],
                "redirect_uris": [BACK],
                "post_logout_redirect_uris": [GONE],
                "scopes": SCOPES.split(),
                "trusted": True,
            }
            | details
        )
        answer = await self.desk.handle(RegisterClient(details=said, secret=hash_of(secret)), OPERATOR, ORGANIZATION)
        return App(answer.content["client_id"], secret if said.kind == "confidential" else None)

    async def remove(self, app: App) -> None:
        await self.desk.handle(RemoveClient(client_id=UUID(app.id)), OPERATOR, ORGANIZATION)

    async def known(self) -> None:
        """Everything that has ended so far is known to the APIs."""
        head = await self.log.head()
        while self.revocations.position < head:  # noqa: ASYNC110 - a fact of the reader, which tells nobody
            await asyncio.sleep(0.01)

    def bearers(self, *audience: str, ended: Callable[[Caller, float], bool] | None = None) -> Bearers:
        """As an API checks tokens, by the house's clock."""
        return Bearers(
            self.keys,
            audience or (WRITE, READ),
            issuer=("daybook", self.url),
            clock=lambda: self.clock.now().timestamp(),
            ended=ended or self.revocations.ended,
        )

    async def at_once(self, *asked: Coroutine[Any, Any, httpx.Response]) -> list[httpx.Response]:
        return list(await asyncio.gather(*asked))

    def browser(self) -> Browser:
        return Browser(self.url)

    def request(self, app: App, **more: str | None) -> dict[str, str]:
        """An authorization request; what is None is left out."""
        verifier = secrets.token_urlsafe(48)
        asked: dict[str, str | None] = {
            "response_type": "code",
            "client_id": app.id,
            "redirect_uri": app.back,
            "scope": SCOPES,
            "state": secrets.token_urlsafe(8),
            "nonce": secrets.token_urlsafe(8),
            "code_challenge": create_s256_code_challenge(verifier),
            "code_challenge_method": "S256",
        } | more
        self.verifiers[app.id] = verifier
        return {name: value for name, value in asked.items() if value is not None}

    async def code(self, app: App, browser: Browser | None = None, **more: str | None) -> str:
        """A code for Ada, who signs in."""
        browser = browser or self.browser()
        answer = await browser.go("/oauth/authorize", **self.request(app, **more))
        if answer.status_code == 200:
            answer = await browser.sign_in()
        return sent_back(answer)["code"]

    async def redeem(self, app: App, code: str, **more: Any) -> httpx.Response:
        return await self.ask(
            app,
            "/oauth/token",
            grant_type="authorization_code",
            code=code,
            redirect_uri=app.back,
            code_verifier=self.verifiers[app.id],
            **more,
        )

    async def refresh(self, app: App, token: str, **more: Any) -> httpx.Response:
        return await self.ask(app, "/oauth/token", grant_type="refresh_token", refresh_token=token, **more)

    async def tokens(self, app: App, browser: Browser | None = None, **more: str | None) -> dict[str, Any]:
        answer = await self.redeem(app, await self.code(app, browser, **more))
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    async def ask(self, app: App | None, path: str, **form: Any) -> httpx.Response:
        """A request of the app's own, with its secret where it has one."""
        form = {name: value for name, value in form.items() if value is not None}
        auth = None
        if app is not None and app.secret:
            auth = httpx.BasicAuth(app.id, app.secret)
        elif app is not None:
            form.setdefault("client_id", app.id)
        async with httpx.AsyncClient(base_url=self.url) as http:
            return await http.post(path, data=form, auth=auth or httpx.USE_CLIENT_DEFAULT)

    async def events(self, first: str) -> list[str]:
        """The names of all events on streams that begin so."""
        names = await self.log.streams(ORGANIZATION, first, first + "~")
        loaded = await self.log.load(ORGANIZATION, dict.fromkeys(names, 0))
        return [row.event.NAME.partition(".")[0] for rows in loaded.values() for row in rows]


def sent_back(answer: httpx.Response, to: str = BACK) -> dict[str, str]:
    """What a redirect to the app says."""
    assert answer.status_code in (302, 303), (answer.status_code, answer.text)
    there = answer.headers["location"]
    assert there.split("?")[0] == to.split("?", maxsplit=1)[0]
    return dict(parse_qsl(urlsplit(there).query))


@asynccontextmanager
async def running(dsn: str, folder: Path, outsiders: Iterable[Registration] = ()) -> AsyncIterator[House]:
    keyring = PostgresKeyring(dsn, MasterKeyFile.at(folder / "master.key"))
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    clock = ShiftedClock()
    (folder / "keys").mkdir()
    keys = KeyFolder(folder / "keys", make=True).token_keys()
    async with PostgresEventLog(dsn, keyring) as log, Revocations(log, clock) as revocations:
        desk = Desk(log, clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials())
        positions = Positions(SECRET)
        letterbox = Letterbox()

        def bearers(*audience: str) -> Bearers:
            return Bearers(
                keys, audience, issuer=("daybook", url), clock=lambda: clock.now().timestamp(), ended=revocations.ended
            )

        oauth = write_api.oauth.app.build(
            desk,
            keys,
            bearers(WRITE, READ),
            SECRET,
            issuer=url,
            organization=ORGANIZATION,
            audiences={Audience.WRITE: WRITE, Audience.READ: READ},
            origins=Origins(log, clock, TimeOrderedIds(), SECRET),
            post=Post(letterbox, url),
            outsiders=outsiders,
        )
        writes = write_api.app.build(desk, bearers(WRITE), positions)
        services = {"oauth": oauth, ".well-known": oauth, "write": writes}
        people = People(desk, clock)  # type: ignore[arg-type]
        house = House(url, desk, log, people, clock, keys, folder / "keys", revocations, oauth, letterbox)

        def denied(scope: Any, code: str) -> None:
            house.denied.append(code)
            house.denied_of.append(scope.get(NAMED))

        together = Together(services, denied=denied)
        server = uvicorn.Server(uvicorn.Config(together, lifespan="off", log_config=None, ws="none"))
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield house
        finally:
            server.should_exit = True
            await serving
            await keyring.close()

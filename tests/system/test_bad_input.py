"""What an attacker sends over the wire, to both APIs as `daybook serve` configures them: each is refused with a code,
none with a fault of ours, nothing is echoed, and who is turned away is in the log."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from domain.access import Role
from domain.denial import AccessRefused
from infra import server
from infra.http.denials import Denials
from infra.http.heads import Heads
from infra.http.service import Together
from infra.http.tokens import WRITE, SigningKey, mint
from infra.ids import TimeOrderedIds
from tests.clinic import ADMIN, DESK, ORGANIZATION, in_days
from tests.conftest import fresh_database
from tests.house import PATIENCE
from tests.served import KEY, Served, served, token, visit

# Neither in an answer nor in a code.
MARK = "Zaphod-Beeblebrox"


@dataclass
class Running:
    port: int
    loop: asyncio.AbstractEventLoop
    book: Served
    denials: Denials
    appointment: str
    patient: str
    provider: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, bearer: str | None = None, **asked: Any) -> httpx.Response:
        headers = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **asked.pop("headers", {})}
        return httpx.request(method, self.url + path, headers=headers, timeout=60, **asked)

    def register(self, content: bytes | str, **headers: str) -> httpx.Response:
        headers = {"Content-Type": "application/json", **headers}
        return self.ask("POST", "/write/patients", token(ADMIN), content=content, headers=headers)

    def raw(self, sent: bytes) -> bytes:
        """All that comes back until the server hangs up, or says nothing more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: connection.recv(65536), b""))

    def refused(self) -> list[AccessRefused]:
        async def written() -> list[AccessRefused]:
            await self.denials.write()
            found: list[AccessRefused] = []
            after = 0
            while events := await self.book.log.read(after, 1000):
                found += [one.event for one in events if isinstance(one.event, AccessRefused)]
                after = events[-1].position
            return found

        return asyncio.run_coroutine_threadsafe(written(), self.loop).result(60)


@pytest.fixture(scope="module")
def running(
    postgres: str, template: str, redis_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    ready, stop = threading.Event(), threading.Event()
    told: list[Running] = []

    async def serve(dsn: str, folder: Path) -> None:
        async with served(dsn, redis_server, None, folder) as book:
            clinic = await book.clinic(patients=2)
            made = await book.post("/appointments", DESK, visit(clinic, in_days(5)))
            denials = Denials(book.log, book.log.clock, TimeOrderedIds(), ORGANIZATION)
            app = Together({"write": book.writes, "read": book.reads}, denied=denials.note)
            listener = socket.socket()
            listener.bind(("127.0.0.1", 0))
            serving = uvicorn.Server(server._config(app))
            task = asyncio.create_task(serving.serve([listener]))
            while not serving.started:  # noqa: ASYNC110 - uvicorn has no event for it
                await asyncio.sleep(0.01)
            ids = (made.json()["appointment_id"], str(clinic.patient), str(clinic.provider))
            told.append(Running(listener.getsockname()[1], asyncio.get_running_loop(), book, denials, *ids))
            ready.set()
            await asyncio.to_thread(stop.wait)
            serving.should_exit = True
            await task

    with fresh_database(postgres, template) as database:
        thread = threading.Thread(target=lambda: asyncio.run(serve(database.app, tmp_path_factory.mktemp("bad"))))
        thread.start()
        try:
            assert ready.wait(PATIENCE), "the APIs do not start"
            yield told[0]
        finally:
            stop.set()
            thread.join()


def is_problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert MARK not in answer.text + str(answer.headers)
    assert len(answer.content) < 100_000


def encoded(data: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def bad_tokens() -> dict[str, tuple[str, str]]:
    """By its name, a token that opens nothing and the code that it is refused with."""
    now, hour = datetime.now(UTC), timedelta(hours=1)
    usual: dict[str, Any] = {"role": Role.ADMIN, "organization": ORGANIZATION, "subject": "admin-7", "lifetime": hour}
    good = mint(KEY, **usual, now=now)
    header, body, signature = good.split(".")
    claims = jwt.decode(good, options={"verify_signature": False})

    def signed(change: dict[str, Any], key: SigningKey = KEY, **head: Any) -> str:
        return jwt.encode(
            claims | change, key.private, algorithm="EdDSA", headers={"kid": KEY.id, "typ": "at+jwt"} | head
        )

    other = SigningKey(b"x" * 32)
    public = KEY.public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    confused = f"{encoded({'alg': 'HS256', 'typ': 'at+jwt', 'kid': KEY.id})}.{body}"
    mac = base64.urlsafe_b64encode(hmac.digest(public, confused.encode(), hashlib.sha256)).rstrip(b"=").decode()
    return {
        "expired": (mint(KEY, **usual, now=now - 3 * hour), "token_expired"),
        "not valid yet": (signed({"nbf": now.timestamp() + 3600}), "token_invalid"),
        "made in the future": (mint(KEY, **usual, now=now + hour), "token_invalid"),
        "for somebody else": (mint(KEY, **usual, now=now, audiences=("billing",)), "token_invalid"),
        "by another issuer": (mint(KEY, **usual, now=now, issuer="elsewhere"), "token_invalid"),
        "alg none": (f"{encoded({'alg': 'none', 'typ': 'at+jwt', 'kid': KEY.id})}.{body}.", "token_invalid"),
        "alg none, signed": (f"{encoded({'alg': 'none', 'typ': 'at+jwt'})}.{body}.{signature}", "token_invalid"),
        "the public key as a secret": (f"{confused}.{mac}", "token_invalid"),
        "another key": (signed({}, other), "token_invalid"),
        "its own key in the header": (
            signed({}, other, jwk={"kty": "OKP", "crv": "Ed25519", "x": encoded("x")}),
            "token_invalid",
        ),
        "a key from elsewhere": (signed({}, other, jku="https://evil.example/keys"), "token_invalid"),
        "a path for a key": (signed({}, kid="../../master.key"), "token_invalid"),
        "another role": (f"{header}.{encoded(claims | {'role': 'system'})}.{signature}", "token_invalid"),
        "an id token": (signed({}, typ="id+jwt"), "token_invalid"),
        "no signature": (f"{header}.{body}.", "token_invalid"),
        "too long": ("a" * 5000, "token_invalid"),
        "rubbish": (MARK, "token_invalid"),
    }


@pytest.mark.parametrize("name", sorted(bad_tokens()))
def test_a_token_that_is_not_ours_opens_neither_api_and_is_seen_in_the_audit(running: Running, name: str) -> None:
    bad, code = bad_tokens()[name]
    before = sum(one.times for one in running.refused() if one.code == code)
    for method, path in (("POST", "/write/patients"), ("GET", f"/read/appointments/{running.appointment}")):
        answer = running.ask(method, path, bad, **({"json": {}} if method == "POST" else {}))
        is_problem(answer, 401, code)
        assert answer.headers["www-authenticate"].startswith('Bearer realm="daybook", error="invalid_token"')
    seen = [one for one in running.refused() if one.code == code]
    assert sum(one.times for one in seen) == before + 2
    assert all(one.address == "127.0.0.1" for one in seen)


def test_a_token_is_taken_from_its_header_alone(running: Running) -> None:
    good = token(ADMIN)
    # RFC 9700 §4.3.2: in an address it would stand in histories and logs.
    is_problem(running.ask("POST", f"/write/patients?access_token={good}", json={}), 422, "invalid")
    form = {"access_token": good}
    is_problem(running.ask("POST", "/write/patients", data=form), 415, "unsupported_media_type")
    is_problem(
        running.ask("POST", "/write/patients", json=form, headers={"Cookie": f"token={good}"}), 401, "unauthenticated"
    )
    for scheme in ("Basic", "Digest", "Token", ""):
        answer = running.ask("POST", "/write/patients", json={}, headers={"Authorization": f"{scheme} {good}".strip()})
        is_problem(answer, 401, "unauthenticated")


def test_a_token_of_one_service_does_not_open_the_other(running: Running) -> None:
    usual: dict[str, Any] = {"role": Role.ADMIN, "organization": ORGANIZATION, "subject": "admin-7"}
    narrow = mint(KEY, **usual, now=datetime.now(UTC), lifetime=timedelta(hours=1), audiences=(WRITE,))
    assert running.ask("POST", "/write/patients", narrow, json={}).status_code < 300
    is_problem(running.ask("GET", f"/read/appointments/{running.appointment}", narrow), 401, "token_invalid")


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b'{"reference": "' + b"x" * 2_000_000 + b'"}', 413, "body_too_large"),
        (b"[" * 9_000, 400, "body_too_deep"),
        (b'{"a":' * 9_000 + b"1" + b"}" * 9_000, 400, "body_too_deep"),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(80_000)) + b"}", 413, "body_too_large"),
        (b"{" + b",".join(b'"k%d":1' % n for n in range(9_000)) + b"}", 422, "invalid"),
        (b'{"details": [' + b",".join([b"{}"] * 300_000) + b"]}", 413, "body_too_large"),
        (b'{"details": {"names": [' + b",".join([b'{"family": ""}'] * 4_000) + b"]}}", 422, "invalid"),
        (b'{"reference": "a", "reference": "b"}', 400, "repeated_key"),
        (b'{"reference": ' + b"9" * 100_000 + b"}", 400, "malformed_json"),
        (b'{"reference": 1e999}', 422, "invalid"),
        (b'{"reference": NaN}', 422, "invalid"),
        (b'{"reference": Infinity}', 422, "invalid"),
        (b'{"reference": "\\ud800"}', 400, "malformed_json"),
        (b'{"reference": "\xff\xfe"}', 400, "malformed_json"),
        (b'{"reference": "a\\u0000b"}', 422, "invalid"),
        (b"\xef\xbb\xbf{}", 400, "malformed_json"),
        ('{"reference": "x"}'.encode("utf-16"), 400, "malformed_json"),
        (gzip.compress(b" " * 10_000_000, mtime=0), 400, "malformed_json"),
        (b'{"__proto__": {"admin": true}}', 422, "invalid"),
        (b'{"patient_id": "0190a3c0-0000-7000-8000-000000000000"}', 422, "invalid"),
        (b'"%s"' % MARK.encode(), 422, "invalid"),
    ],
    ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else str(value),
)
def test_a_body_that_is_too_much_or_means_nothing_is_refused(
    running: Running, content: bytes, status: int, code: str
) -> None:
    is_problem(running.register(content), status, code)


def test_a_compressed_body_is_never_unpacked(running: Running) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    answer = running.register(bomb, **{"Content-Encoding": "gzip"})
    is_problem(answer, 400, "malformed_json")


@pytest.mark.parametrize(
    "words",
    [
        "Z" + "\u0301" * 150,
        "\u202eevil\u202c",
        "👩‍👩‍👧‍👦" * 20,
        "ﷺ" * 100,
        "'; DROP TABLE events; --",
        "<script>alert(1)</script>",
        "{{7*7}}${jndi:ldap://x}",
        "%00%0d%0aSet-Cookie: a=b",
        "=cmd|' /C calc'!A0",
        "../../../../etc/passwd",
    ],
)
def test_words_are_words_whatever_they_say(running: Running, words: str) -> None:
    answer = running.register(json.dumps({"reference": words}))
    assert answer.status_code in (201, 422), answer.text
    assert words not in answer.text


SMUGGLED = b"GET /read/slots HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 2\r\nContent-Length: 40\r\n",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Content-Length: +2\r\n",
        b"Content-Length: 0x2\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: 2, 40\r\n",
        b"X: a\rTransfer-Encoding: chunked\r\n",
        b"X: a\x00b\r\n",
        b" folded: yes\r\n",
        b"Content Length: 2\r\n",
    ],
    ids=lambda head: head.decode("latin-1").replace("\r\n", " | "),
)
def test_a_request_whose_end_two_servers_could_see_differently_is_refused(running: Running, head: bytes) -> None:
    bearer = f"Authorization: Bearer {token(ADMIN)}\r\n".encode()
    sent = b"POST /write/patients HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" + bearer + head
    answer = running.raw(sent + b"\r\n{}" + SMUGGLED)
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, "nothing behind it is answered"
    assert b"server:" not in answer.lower()


@pytest.mark.parametrize("name", ["Authorization", "authorization", "Host", "Content-Type", "Idempotency-Key"])
def test_a_header_is_not_said_twice(running: Running, name: str) -> None:
    values = {"authorization": f"Bearer {token(ADMIN)}", "host": "x", "content-type": "application/json"}
    lines = {**values, name.lower(): values.get(name.lower(), "one")}
    head = "".join(f"{key}: {value}\r\n" for key, value in lines.items())
    sent = (
        f"POST /write/patients HTTP/1.1\r\n{head}{name}: {MARK}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{{}}"
    )
    answer = running.raw(sent.encode())
    assert answer.startswith(b"HTTP/1.1 400 "), answer[:200]
    assert MARK.encode() not in answer


@pytest.mark.parametrize(
    "target",
    [
        "/write/../read/slots",
        "/write/%2e%2e/read/slots",
        "//evil.example/",
        "/write//patients",
        "/write/patients/",
        "/write/patients%00",
        "/WRITE/patients",
        "/read/providers/%ff%fe",
        "/.git/config",
        "/%0d%0aSet-Cookie:a=b",
    ],
)
def test_an_address_that_is_nearly_one_of_ours_leads_nowhere(running: Running, target: str) -> None:
    head = f"Host: x\r\nAuthorization: Bearer {token(ADMIN)}\r\nConnection: close\r\n"
    answer = running.raw(f"GET {target} HTTP/1.1\r\n{head}\r\n".encode())
    assert answer[:13] in (b"HTTP/1.1 404 ", b"HTTP/1.1 405 ", b"HTTP/1.1 422 "), answer[:300]
    assert b"location:" not in answer.lower(), "nobody is sent anywhere"
    assert b"set-cookie" not in answer.lower()


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "OPTIONS", "HEAD"])
def test_a_method_that_a_route_does_not_take_is_refused(running: Running, method: str) -> None:
    answer = running.raw(f"{method} /write/patients HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert answer[:13] in (b"HTTP/1.1 405 ", b"HTTP/1.1 404 ", b"HTTP/1.1 400 "), answer[:200]
    assert b"Authorization" not in answer


def test_a_head_without_end_is_cut_off(running: Running) -> None:
    for endless in (b"X-%d: %s\r\n" % (1, b"y" * 1000), b"y" * 1000):
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
            connection.sendall(b"GET /read/slots HTTP/1.1\r\nHost: x\r\nX: ")
            sent = 0
            try:
                while sent < 50_000_000:
                    sent += connection.send(endless)
            except ConnectionError:
                pass
            assert sent < 5_000_000, "what the sockets hold, and no more"


def test_a_head_that_is_too_long_is_told_so(running: Running) -> None:
    answer = running.raw(b"GET /read/slots HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 65_600)
    assert answer.startswith(b"HTTP/1.1 431 "), answer[:100]
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "head_too_long"


def test_who_sends_nothing_or_too_slowly_is_not_waited_for(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Heads, "within", 0.2)
    for beginning in (b"", b"G", b"GET /read/slots HTTP/1.1\r\nHost: x\r\n"):
        with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
            connection.sendall(beginning)
            assert connection.recv(1000) == b"", "it hangs up by itself"
    # A second request on a connection that was good is no different.
    with socket.create_connection(("127.0.0.1", running.port), timeout=60) as connection:
        connection.sendall(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += connection.recv(100_000)
        assert answer.startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n")
        assert connection.recv(1000) == b""


def test_an_id_tells_nothing_to_another_organization(running: Running) -> None:
    """What exists there and what exists nowhere is one answer, but for the id that was asked for."""
    stranger = token(ADMIN, "elsewhere")
    nobody = str(uuid4())
    for path, own in (
        ("/read/appointments/{}", running.appointment),
        ("/read/patients/{}", running.patient),
        ("/read/patients/{}/appointments", running.patient),
        ("/read/providers/{}", running.provider),
    ):
        theirs = running.ask("GET", path.format(own), stranger)
        nobodys = running.ask("GET", path.format(nobody), stranger)
        is_problem(theirs, 404, "unknown")
        assert theirs.text.replace(own, nobody) == nobodys.text
    for step in ("cancel", "check-in", "complete"):
        path = "/write/appointments/{}/" + step
        theirs = running.ask("POST", path.format(running.appointment), stranger, json={})
        nobodys = running.ask("POST", path.format(nobody), stranger, json={})
        assert theirs.status_code == nobodys.status_code, step
        assert theirs.text.replace(running.appointment, nobody) == nobodys.text


@pytest.mark.parametrize("guess", ["1", "00000000-0000-0000-0000-000000000000", "'", "%27%20OR%201=1", "*", "null"])
def test_a_guessed_id_is_unknown_or_no_id(running: Running, guess: str) -> None:
    answer = running.ask("GET", f"/read/appointments/{guess}", token(ADMIN))
    assert (answer.status_code, answer.json()["code"]) in [(404, "unknown"), (422, "invalid")]

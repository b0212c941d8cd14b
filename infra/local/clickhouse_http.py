"""ClickHouse's HTTP interface before the embedded engine: the stand-in that `infra.local.clickhouse` starts.

In: requests as ClickHouse takes them (https://clickhouse.com/docs/interfaces/http): a statement in `query`, in the body
or in form fields, parameters as `param_…`, settings and `database` beside them, `session_id`, data of an INSERT in any
format, compressed or not. Out: the engine's answer, its errors with their codes, a summary of what was read or written.

What it leaves out: users but one, roles, quotas, external data, ClickHouse's own block compression, progress headers,
and killing a question whose asker has gone (a stream does end with its asker).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import email.parser
import email.policy
import hmac
import json
import logging
import re
import secrets
import signal
import sys
import time
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl

import chdb
import cramjam
import uvicorn

from infra.local.statements import Statement, read

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_USER = "default"
_BODY_LIMIT = 1024 * 1024 * 1024
_SESSION_KEPT = 60.0
_SESSION_KEPT_AT_MOST = 3600.0
_THREADS = 16

# These belong to the interface and never reach the engine.
_TRANSPORT = frozenset(
    {
        "query",
        "database",
        "default_format",
        "buffer_size",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "compress",
        "decompress",
        "wait_end_of_query",
        "client_protocol_version",
        "role",
        "user",
        "password",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "enable_http_compression",
        "cancel_http_readonly_queries_on_client_close",
    }
)

# The engine hands a stream on block by block; only these formats are whole when blocks follow each other.
_STREAMS = frozenset({"Native", "TabSeparated", "TSV", "CSV", "RowBinary", "JSONEachRow"})

_SYNTAX_ERROR, _NOT_IMPLEMENTED, _READONLY = 62, 48, 164
_SESSION_NOT_FOUND, _SESSION_IS_LOCKED, _AUTHENTICATION_FAILED, _REQUIRED_PASSWORD = 372, 373, 516, 194
_NOT_FOUND = frozenset({16, 46, 47, 50, 60, 81, 109, 115, 371, 372})
_BAD_REQUEST = frozenset({6, 26, 27, 36, 38, 41, 42, 43, 53, 62, 69, 70, 71, 72, 190, 321, 373, 386, 420, 457})

_log = logging.getLogger("daybook.clickhouse")


class Refused(Exception):
    """An error as ClickHouse words it; `code` is ClickHouse's."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> int:
        if self.code in (_AUTHENTICATION_FAILED, _REQUIRED_PASSWORD):
            return 403
        if self.code in _NOT_FOUND:
            return 404
        if self.code in _BAD_REQUEST:
            return 400
        return 501 if self.code == _NOT_IMPLEMENTED else 500

    @classmethod
    def by_engine(cls, error: Exception) -> Refused:
        text = str(error)
        if "(version " not in text:
            text = f"{text} (version {engine_version()})"
        found = re.search(r"Code: (\d+)\. ", text)
        return cls(int(found[1]), text[found.start() :]) if found else cls(1002, f"Code: 1002. DB::Exception: {text}")


def refused(code: int, name: str, words: str) -> Refused:
    return Refused(code, f"Code: {code}. DB::Exception: {words} ({name}) (version {engine_version()})")


_versions: list[str] = []


def engine_version() -> str:
    return _versions[0] if _versions else "unknown"


class Result(Protocol):
    def bytes(self) -> bytes: ...
    def rows_read(self) -> int: ...
    def bytes_read(self) -> int: ...


@dataclass(slots=True)
class Session:
    """One connection of the engine: its temporary tables, its `USE` and its `SET` are its own.

    `own` is what statements set, `applied` what the last request's address set; a setting of a request ends with it.
    """

    engine: Any
    own: dict[str, str] = field(default_factory=dict)
    applied: dict[str, str] = field(default_factory=dict)
    busy: bool = False
    until: float = 0.0

    def run(self, sql: str | bytes, form: str, params: Mapping[str, str]) -> Result:
        try:
            result: Result = self.engine.query(sql, form, params=dict(params))
        except Exception as error:
            raise Refused.by_engine(error) from None
        return result

    def prepare(self, settings: Mapping[str, str], database: str | None) -> None:
        if database:
            self.run(f"USE {_identifier(database)}", "TabSeparated", {})
        changes = {name: value for name, value in settings.items() if self.applied.get(name) != value}
        back = [name for name in self.applied if name not in settings]
        if not changes and not back:
            return
        for name in (*changes, *back):
            if not name.isidentifier():
                raise refused(115, "UNKNOWN_SETTING", f"Unknown setting {name[:100]!r}")
        words = [f"{name} = {_literal(value)}" for name, value in changes.items()]
        words += [f"{name} = {self.own.get(name, 'DEFAULT')}" for name in back]
        self.run(f"SET {', '.join(words)}", "TabSeparated", {})
        self.applied = dict(settings)

    def learn(self) -> None:
        """Note what a SET statement has changed, so that settings of a request can go back to it."""
        rows = self.run("SELECT name, value FROM system.settings WHERE changed", "JSONEachRow", {}).bytes().splitlines()
        found = {row["name"]: row["value"] for row in map(json.loads, rows)}
        # A value that the engine shows in quotes, as 'auto(2)', is to be given back as it stands.
        self.own = {name: text if _is_quoted(text) else _literal(text) for name, text in found.items()}

    def close(self) -> None:
        with contextlib.suppress(Exception):
            self.engine.close()


def _is_quoted(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == "'"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _identifier(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace("`", "\\`")
    return f"`{escaped}`"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    arguments: Mapping[str, str]
    headers: Mapping[str, str]
    text: bytes

    @property
    def settings(self) -> dict[str, str]:
        return {
            name: value
            for name, value in self.arguments.items()
            if name not in _TRANSPORT and not name.startswith("param_")
        }

    @property
    def params(self) -> dict[str, str]:
        return {name[6:]: value for name, value in self.arguments.items() if name.startswith("param_")}

    @property
    def query_id(self) -> str:
        return self.arguments.get("query_id") or str(uuid.uuid4())

    @property
    def encoding(self) -> str | None:
        """How the answer is to be compressed."""
        if self.arguments.get("enable_http_compression") not in ("1", "true"):
            return None
        offered = [one.split(";")[0].strip() for one in self.headers.get("accept-encoding", "").split(",")]
        return next((one for one in ("lz4", "zstd", "gzip", "deflate") if one in offered), None)


class Door:
    """The ASGI application on one engine."""

    def __init__(self, data: Path, password: str | None) -> None:
        self._data = str(data)
        self._password = password
        self._sessions: dict[str, Session] = {}
        # The engine lives as long as one connection is open.
        self._keeper = _connect(self._data)
        self._work = ThreadPoolExecutor(_THREADS, "clickhouse")
        _versions.append(self._keeper.query("SELECT version()", "TabSeparated").bytes().decode().strip())

    def close(self) -> None:
        self._work.shutdown(wait=True)
        for session in self._sessions.values():
            session.close()
        self._keeper.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/ping" or (
            scope["path"] == "/" and scope["method"] == "GET" and not scope["query_string"]
        ):
            await _answer(send, 200, {}, b"Ok.\n")
            return
        headers = {"x-clickhouse-server-display-name": "daybook", "x-clickhouse-timezone": "UTC"}
        try:
            self._let_in(scope)
            request = await _read(scope, receive)
            headers["x-clickhouse-query-id"] = request.query_id
            with self._session(request) as session:
                last = await self._serve(request, session, headers, receive, send)
            # Only now: a quick client asks again in the same session as soon as it has its answer.
            await last
        except Refused as error:
            headers["x-clickhouse-exception-code"] = str(error.code)
            await _answer(send, error.status, headers, f"{error}\n".encode())

    def _let_in(self, scope: Scope) -> None:
        if self._password is None:
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        arguments = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        user, password = headers.get("x-clickhouse-user") or arguments.get("user", _USER), ""
        kind, _, rest = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            with contextlib.suppress(ValueError):
                user, _, password = base64.b64decode(rest).decode().partition(":")
        else:
            password = headers.get("x-clickhouse-key") or arguments.get("password", "")
        if user != _USER or not hmac.compare_digest(password.encode(), self._password.encode()):
            raise refused(
                _AUTHENTICATION_FAILED,
                "AUTHENTICATION_FAILED",
                f"{_USER}: Authentication failed: password is incorrect, or there is no user with such name.",
            )

    @contextlib.contextmanager
    def _session(self, request: Request) -> Iterator[Session]:
        now = time.monotonic()
        for old in [name for name, one in self._sessions.items() if not one.busy and one.until < now]:
            self._sessions.pop(old).close()
        name = request.arguments.get("session_id", "")
        if not name:
            session = Session(_connect(self._data))
            try:
                yield session
            finally:
                session.close()
            return
        if name not in self._sessions:
            if request.arguments.get("session_check") == "1":
                raise refused(_SESSION_NOT_FOUND, "SESSION_NOT_FOUND", "Session not found.")
            self._sessions[name] = Session(_connect(self._data))
        session = self._sessions[name]
        if session.busy:
            raise refused(_SESSION_IS_LOCKED, "SESSION_IS_LOCKED", "Session is locked by a concurrent client.")
        session.busy = True
        try:
            yield session
        finally:
            session.busy = False
            with contextlib.suppress(ValueError):
                kept = float(request.arguments.get("session_timeout", _SESSION_KEPT))
                session.until = time.monotonic() + min(kept, _SESSION_KEPT_AT_MOST)

    async def _serve(
        self, request: Request, session: Session, headers: dict[str, str], receive: Receive, send: Send
    ) -> Awaitable[None]:
        """What is left to send when the session is free again."""
        statement = read(request.text)
        if not statement.keyword:
            raise refused(_SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: empty query")
        if statement.more:
            raise refused(_SYNTAX_ERROR, "SYNTAX_ERROR", "Syntax error: Multi-statements are not allowed")
        if request.method == "GET" and not statement.reads:
            raise refused(
                _READONLY,
                "READONLY",
                "Cannot execute query in readonly mode. For queries over HTTP, method GET implies readonly.",
            )
        if statement.data_format:
            await self._in_thread(self._insert, request, session, statement, headers)
            return _answer(send, 200, headers, b"")
        form = statement.format or request.arguments.get("default_format") or "TabSeparated"
        if statement.returns:
            headers["x-clickhouse-format"] = form
        headers["content-type"] = _content_type(form)
        compressor = Compressor(request.encoding)
        if compressor.name and statement.returns:
            headers["content-encoding"] = compressor.name
        waits = request.arguments.get("wait_end_of_query") == "1"
        if statement.keyword in ("SELECT", "WITH") and form in _STREAMS and not waits:
            return await self._stream(request, session, form, compressor, headers, receive, send)
        body = await self._in_thread(self._run, request, session, statement, form, headers)
        return _answer(send, 200, headers, compressor.all(body) if statement.returns else body)

    async def _in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._work, work, *arguments)

    def _run(
        self, request: Request, session: Session, statement: Statement, form: str, headers: dict[str, str]
    ) -> bytes:
        sets = statement.keyword == "SET"
        # What the address sets ends with the request; a SET goes on, and must not be mixed with it.
        session.prepare({} if sets else request.settings, request.arguments.get("database"))
        began = time.perf_counter_ns()
        result = session.run(_text(request.text), form, request.params)
        took = time.perf_counter_ns() - began
        if sets:
            session.learn()
        headers["x-clickhouse-summary"] = _summary(
            read_rows=result.rows_read(), read_bytes=result.bytes_read(), elapsed_ns=took
        )
        return bytes(result.bytes() or b"")

    def _insert(self, request: Request, session: Session, statement: Statement, headers: dict[str, str]) -> None:
        session.prepare(request.settings, request.arguments.get("database"))
        began = time.perf_counter_ns()
        try:
            insert = session.engine.send_insert(statement.before_format.decode(), statement.data_format)
        except Exception as error:
            raise Refused.by_engine(error) from None
        try:
            if statement.data:
                insert.append(statement.data)
            result = insert.finish()
        except Exception as error:
            with contextlib.suppress(Exception):
                insert.cancel()
            raise Refused.by_engine(error) from None
        written = {"written_rows": result.rows_written, "written_bytes": result.bytes_written}
        headers["x-clickhouse-summary"] = _summary(**written, elapsed_ns=time.perf_counter_ns() - began)

    async def _stream(
        self,
        request: Request,
        session: Session,
        form: str,
        compressor: Compressor,
        headers: dict[str, str],
        receive: Receive,
        send: Send,
    ) -> Awaitable[None]:
        tag = secrets.token_hex(8)
        headers["x-clickhouse-exception-tag"] = tag

        def begin() -> tuple[Any, bytes | None]:
            session.prepare(request.settings, request.arguments.get("database"))
            try:
                stream = session.engine.send_query(_text(request.text), form, params=request.params)
                return stream, _next(stream)
            except Exception as error:
                raise Refused.by_engine(error) from None

        stream, chunk = await self._in_thread(begin)
        gone = asyncio.create_task(_gone(receive))
        try:
            await _start(send, 200, headers)
            while chunk is not None and not gone.done():
                await send({"type": "http.response.body", "body": compressor.some(chunk), "more_body": True})
                try:
                    chunk = await self._in_thread(_next, stream)
                except Exception as error:  # the answer has begun: its end carries the error
                    text = str(Refused.by_engine(error))
                    note = f"__exception__\r\n{tag}\r\n{text}\n{len(text) + 1} {tag}\r\n__exception__\r\n"
                    await send(
                        {"type": "http.response.body", "body": compressor.some(note.encode()), "more_body": True}
                    )
                    break
            return send({"type": "http.response.body", "body": compressor.end(), "more_body": False})
        finally:
            gone.cancel()
            with contextlib.suppress(Exception):
                await self._in_thread(stream.close)


def _connect(data: str) -> Any:
    return chdb.connect(data)


def _next(stream: Any) -> bytes | None:
    for chunk in stream:
        if text := bytes(chunk.bytes()):
            return text
    return None


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _text(statement: bytes) -> str | bytes:
    # Bound values may be any bytes.
    try:
        return statement.decode()
    except UnicodeDecodeError:
        return statement


def _summary(**found: int) -> str:
    names = ("read_rows", "read_bytes", "written_rows", "written_bytes", "total_rows_to_read", "elapsed_ns")
    return json.dumps({name: str(found.get(name, 0)) for name in names})


def _content_type(form: str) -> str:
    if form.startswith(("TabSeparated", "TSV")):
        return "text/tab-separated-values; charset=UTF-8"
    if form.startswith("JSON"):
        return "application/json; charset=UTF-8"
    return "application/octet-stream" if form in ("Native", "RowBinary") else "text/plain; charset=UTF-8"


class Compressor:
    """An answer's bytes, whole or piece by piece, in the encoding of this name; None leaves them."""

    def __init__(self, name: str | None) -> None:
        self.name = name
        self._coder: Any = None
        if name in ("gzip", "deflate"):
            self._coder = zlib.compressobj(1, wbits=31 if name == "gzip" else 15)
        elif name:
            self._coder = {"lz4": cramjam.lz4, "zstd": cramjam.zstd}[name].Compressor()

    def some(self, text: bytes) -> bytes:
        if self._coder is None:
            return text
        head = self._coder.compress(text)
        if isinstance(head, bytes):
            return head + bytes(self._coder.flush(zlib.Z_SYNC_FLUSH))
        return bytes(self._coder.flush())

    def end(self) -> bytes:
        if self._coder is None:
            return b""
        return bytes(self._coder.flush() if self.name in ("gzip", "deflate") else self._coder.finish())

    def all(self, text: bytes) -> bytes:
        return self.some(text) + self.end()


_DECODERS: Final[Mapping[str, Callable[[bytes], Any]]] = {
    "lz4": cramjam.lz4.decompress,
    "zstd": cramjam.zstd.decompress,
    "gzip": cramjam.gzip.decompress,
    "deflate": zlib.decompress,
    "br": cramjam.brotli.decompress,
}


async def _read(scope: Scope, receive: Receive) -> Request:
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    arguments = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
    body = b"".join([piece async for piece in _body(receive)])
    if (encoding := headers.get("content-encoding", "identity")) != "identity":
        try:
            body = bytes(_DECODERS[encoding](body))
        except (KeyError, ValueError, cramjam.DecompressionError, zlib.error):
            raise refused(354, "CANNOT_DECOMPRESS", f"The body is not what {encoding[:20]!r} gives") from None
    if arguments.get("decompress") == "1" or arguments.get("compress") == "1":
        raise refused(_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "ClickHouse's own block compression is left out here")
    if headers.get("content-type", "").startswith("multipart/form-data"):
        arguments |= _fields(headers["content-type"], body)
        body = b""
    query = arguments.get("query", "").encode()
    return Request(scope["method"], arguments, headers, b"\n".join(part for part in (query, body) if part))


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            # Half an insert is none.
            raise refused(210, "NETWORK_ERROR", "The client went away before its request was whole")
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > _BODY_LIMIT:
            raise refused(307, "TOO_MANY_BYTES", "The body is larger than 1 GB")
        more = message.get("more_body", False)
        yield piece


def _fields(content_type: str, body: bytes) -> dict[str, str]:
    head = f"Content-Type: {content_type}\r\n\r\n".encode("latin-1")
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found: dict[str, str] = {}
    for part in message.iter_parts():
        if part.get_filename():
            raise refused(_NOT_IMPLEMENTED, "NOT_IMPLEMENTED", "External data is left out here")
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            found[name] = content.decode()
    return found


async def _start(send: Send, status: int, headers: Mapping[str, str]) -> None:
    found = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": found})


async def _answer(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    await _start(send, status, {**headers, "content-length": str(len(body))})
    await send({"type": "http.response.body", "body": body})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "clickhouse_http", description="The embedded engine behind ClickHouse's HTTP door."
    )
    parser.add_argument("--data", type=Path, required=True, help="the engine's folder")
    parser.add_argument("--port", type=int, required=True, help="a port of 127.0.0.1")
    parser.add_argument("--password-file", type=Path, help="holds the password of the user default")
    chosen = parser.parse_args(arguments)
    password = chosen.password_file.read_text("utf-8") if chosen.password_file else None
    try:
        door = Door(chosen.data, password)
    except RuntimeError as error:
        sys.exit(f"The engine does not open {chosen.data}: {error}")
    # Uvicorn passes the signal on when it has stopped; the engine is to be closed then.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        door,
        host="127.0.0.1",
        port=chosen.port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=10,
    )
    door.close()


if __name__ == "__main__":
    main()

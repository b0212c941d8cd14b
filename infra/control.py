"""How the command line speaks with a running server: jobs by name, over an owner-only Unix socket.

In: a job's name and its arguments, as JSON. Out: lines of JSON as the job goes on: `{"progress": {…}}` any number of
times, then `{"result": {…}}`, or `{"trouble": "words"}`. Who may open the socket may do anything, so it is mode 0600
in a folder of mode 0700, and never TCP.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from starlette.types import Receive, Scope, Send

from domain.refusals import Refusal
from infra.embedded.data_folder import DataFolder
from infra.http.problems import unexpected
from infra.troubles import NotRunning, Trouble

_log = logging.getLogger("daybook.control")

# Yields progress, each JSON-ready (`done`, `total`, `what`), and last the result, wrapped as `Result`.
Job = Callable[..., AsyncIterator["Progress | Result"]]

Progress = Mapping[str, Any]


class Result(dict[str, Any]):
    """The end of a job: what it came to, JSON-ready."""


class Control:
    """The server's side, an ASGI application. Arguments of a job are keywords; unknown ones are refused."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}

    def add(self, name: str, job: Job) -> None:
        self._jobs[name] = job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self._lines(scope["path"].removeprefix("/"), body):
            await send({"type": "http.response.body", "body": json.dumps(line).encode() + b"\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _lines(self, name: str, body: bytes) -> AsyncIterator[dict[str, Any]]:
        job = self._jobs.get(name)
        if job is None:
            yield {"trouble": f"The running Daybook knows no job {name!r}; is it another version?"}
            return
        try:
            async for step in job(**json.loads(body or b"{}")):
                yield {"result": step} if isinstance(step, Result) else {"progress": step}
        except Trouble as trouble:
            yield {"trouble": str(trouble)}
        except Refusal as refusal:
            yield {"trouble": refusal.message}
        except Exception as error:
            unexpected(error)
            yield {"trouble": f"The running Daybook failed at it ({type(error).__name__}); its log says where."}


def listen(path: Path) -> socket.socket:
    """A socket for the control application. One that a killed server left behind is replaced."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(16)
    return listener


def ask(folder: DataFolder, name: str, **arguments: Any) -> Iterator[Progress | Result]:
    """Have the running server do a job; yields its progress and last its `Result`.

    Raises `NotRunning` when none answers, `Trouble` with the server's words when the job fails.
    """
    transport = httpx.HTTPTransport(uds=str(folder.control_socket))
    with httpx.Client(transport=transport, timeout=httpx.Timeout(10, read=None)) as client:
        try:
            with client.stream("POST", f"http://daybook/{name}", json=arguments) as response:
                for line in response.iter_lines():
                    yield _read(json.loads(line))
        except httpx.ConnectError as error:
            raise NotRunning(
                f"No Daybook runs on {folder.path}. Start it with `daybook serve`, or name its data with --data."
            ) from error
        except (httpx.HTTPError, ValueError) as error:
            raise NotRunning("The running Daybook broke off; it may have been stopped.") from error


def result(folder: DataFolder, name: str, **arguments: Any) -> Result:
    """As `ask`, for who wants only the end."""
    for step in ask(folder, name, **arguments):
        if isinstance(step, Result):
            return step
    raise NotRunning("The running Daybook broke off; it may have been stopped.")


def _read(line: Mapping[str, Any]) -> Progress | Result:
    match line:
        case {"result": dict(result)}:
            return Result(result)
        case {"progress": dict(progress)}:
            return progress
        case {"trouble": str(words)}:
            raise Trouble(words)
    raise ValueError("not a line of a job")

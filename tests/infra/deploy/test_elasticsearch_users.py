"""The script that gives Elasticsearch's users their passwords: what it asks of a server, and what other users of the
machine could see of it. The server here writes down what it is asked; a real one with users is in no package."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.infra.deploy.described import DEPLOY

_PASSWORDS = {"elastic_password": "first", "kibana_password": "second", "elastic_daybook_password": "third"}


class Listener(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[tuple[str, str, str, Any]] = []
        self.arguments: list[str] = []
        self.status = 200


class _Answer(BaseHTTPRequestHandler):
    server: Listener

    def do_POST(self) -> None:
        who = base64.b64decode(self.headers["Authorization"].removeprefix("Basic ")).decode()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.command, self.path, who, body))
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                self.server.arguments.append(process.read_text("utf-8", "replace"))
            except OSError:
                continue
        self.send_response(self.server.status)
        self.end_headers()

    do_PUT = do_POST

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(listener: Listener, secrets: Path) -> int:
    needs.program("curl")
    for name, password in _PASSWORDS.items():
        (secrets / name).write_text(password)
    told = {"PATH": os.environ["PATH"], "SECRETS": str(secrets)}
    told["ELASTICSEARCH"] = f"http://127.0.0.1:{listener.server_address[1]}"
    return subprocess.run(
        [needs.program("bash"), str(DEPLOY / "elasticsearch-users.sh")], env=told, check=False, timeout=30
    ).returncode


def test_every_user_gets_a_password_and_daybook_its_own_indexes_alone(listener: Listener, tmp_path: Path) -> None:
    assert run(listener, tmp_path) == 0
    role, user = "/_security/role/daybook", "/_security/user/daybook"
    by_path = {path: (method, who, body) for method, path, who, body in listener.asked}
    assert by_path == {
        "/_security/user/kibana_system/_password": ("POST", "elastic:first", {"password": "second"}),
        role: ("PUT", "elastic:first", by_path[role][2]),
        user: ("PUT", "elastic:first", {"password": "third", "roles": ["daybook"]}),
    }
    assert by_path[role][2]["indices"] == [{"names": ["daybook*"], "privileges": ["all"]}]
    assert list(by_path).index(role) < list(by_path).index(user)


def test_no_password_shows_among_the_arguments_of_a_process(listener: Listener, tmp_path: Path) -> None:
    assert run(listener, tmp_path) == 0
    curls = [words for words in listener.arguments if words.startswith("curl\0")]
    assert curls
    assert not [words for words in curls if any(password in words for password in _PASSWORDS.values())]


def test_a_refusal_ends_the_script(listener: Listener, tmp_path: Path) -> None:
    listener.status = 401
    assert run(listener, tmp_path) != 0
    assert len(listener.asked) == 1

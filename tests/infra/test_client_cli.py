"""How an operator lets apps and systems get tokens."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import uuid4

import pytest

from tests.infra.test_cli import run


def test_an_operator_adds_sees_and_removes_clients(tmp_path: Path) -> None:
    where = ("--data", str(tmp_path / "data"))
    system = ("--grant", "client_credentials", "--scope", "system/Appointment.rs")
    made = run("client", "add", "--name", "Laboratory", *system, "--json", *where)
    assert made.returncode == 0, made.stderr
    told = json.loads(made.stdout)
    assert len(told["client_secret"]) >= 43
    back = ("--redirect", "https://portal.example.org/back")
    public = run(
        "client", "add", "--name", "Portal", "--kind", "public", "--grant", "authorization_code", *back, *where
    )
    assert public.returncode == 0, public.stderr
    assert "secret" not in public.stdout

    listed = json.loads(run("client", "list", "--json", *where).stdout)["clients"]
    assert [one["name"] for one in listed] == ["Laboratory", "Portal"]
    assert told["client_secret"] not in json.dumps(listed)
    rotated = json.loads(run("client", "rotate-secret", told["client_id"], "--json", *where).stdout)
    assert rotated["client_secret"] != told["client_secret"]
    needless = run("client", "rotate-secret", listed[1]["client_id"], *where)
    assert (needless.returncode, "secret_needless" in needless.stderr) == (2, True)
    assert run("client", "remove", told["client_id"], *where).returncode == 0
    assert "Laboratory" not in run("client", "list", *where).stdout
    unknown = run("client", "remove", str(uuid4()), *where)
    assert (unknown.returncode, "unknown" in unknown.stderr) == (2, True)


@pytest.mark.parametrize(
    "faulty",
    [
        ("--grant", "password"),
        ("--grant", "authorization_code", "--redirect", "http://app.example.org/back"),
        ("--grant", "authorization_code"),
        ("--grant", "client_credentials", "--scope", "everything"),
    ],
    ids=" ".join,
)
def test_what_does_not_fit_is_said_in_words(tmp_path: Path, faulty: tuple[str, ...]) -> None:
    said = run("client", "add", "--name", "An app", *faulty, "--data", str(tmp_path))
    assert said.returncode == 2
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("name", ["add", "list", "rotate-secret", "remove"])
def test_each_has_its_help(name: str) -> None:
    assert "--data" in run("client", name, "--help").stdout

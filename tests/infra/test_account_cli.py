"""How an installation gets its first administrator, and how an operator sees and changes who may sign in."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from uuid import uuid4

import pytest

from tests.infra.test_cli import DAYBOOK, run
from tests.people import PASSWORD


def create(data: Path, *arguments: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
    asked = [*DAYBOOK, "account", "create", "--data", str(data), *arguments]
    return subprocess.run(asked, input=f"{password}\n", capture_output=True, text=True, check=False, timeout=240)


def test_an_operator_makes_sees_and_changes_accounts(tmp_path: Path) -> None:
    data = tmp_path / "data"
    where = ("--data", str(data))
    made = create(data, "--role", "admin", "--email", "root@example.org", "--json")
    assert made.returncode == 0, made.stderr
    account_id = json.loads(made.stdout)["account_id"]

    weak = create(data, "--role", "admin", "--email", "other@example.org", password="short")
    assert (weak.returncode, "password_too_weak" in weak.stderr) == (2, True)
    again = create(data, "--role", "admin", "--email", "ROOT@example.org")
    assert (again.returncode, "address_in_use" in again.stderr) == (2, True)
    invited = create(data, "--role", "auditor", "--email", "grace@example.org", "--invite")
    assert (invited.returncode, "/oauth/account/verify?token=" in invited.stdout) == (0, True)

    listed = json.loads(run("account", "list", "--json", *where).stdout)["accounts"]
    assert [(one["role"], one["status"]) for one in listed] == [("admin", "active"), ("auditor", "unverified")]
    assert "example.org" not in json.dumps(listed)
    found = json.loads(run("account", "list", "--email", "Root@example.org", "--json", *where).stdout)["accounts"]
    assert [one["account_id"] for one in found] == [account_id]

    assert run("account", "lock", account_id, *where).returncode == 0
    assert "locked" in run("account", "list", "--email", "root@example.org", *where).stdout
    assert run("account", "unlock", account_id, *where).returncode == 0
    assert run("account", "role", account_id, "--role", "analyst", *where).returncode == 0
    assert "analyst" in run("account", "list", "--email", "root@example.org", *where).stdout
    unknown = run("account", "lock", str(uuid4()), *where)
    assert (unknown.returncode, "unknown" in unknown.stderr) == (2, True)


@pytest.mark.parametrize("name", ["create", "list", "role", "lock", "unlock"])
def test_no_option_takes_a_password(name: str) -> None:
    assert "--password" not in run("account", name, "--help").stdout

"""Personal data at the command line, beside a running server: handed out, due, and under another master key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from tests.infra.test_cli import run, serving

DETAILS = {"names": [{"family": "Quackenbush", "given": ["Zebulonia"]}]}


def told(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_personal_data_at_the_command_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    where = ("--data", str(data))
    with serving(data) as (_, url):
        headers = {"Authorization": f"Bearer {run('token', '--role', 'admin', *where).stdout.strip()}"}
        with httpx.Client(base_url=url, headers=headers, timeout=60) as http:
            patient_id = http.post("/write/patients", json={"details": DETAILS}).json()["patient_id"]

            export = ("person", "export", patient_id, "--as", "clerk-7", *where)
            page = tmp_path / "page.html"
            assert run(*export, "--format", "html", "--out", str(page)).returncode == 0
            assert "Zebulonia Quackenbush" in page.read_text("utf-8")
            assert page.stat().st_mode & 0o777 == 0o600
            found = json.loads(run(*export).stdout)
            assert found["tellings"][0]["details"]["names"][0]["family"] == "Quackenbush"
            assert len(found["looks"]) == 1
            assert run("person", "export", patient_id, *where).returncode == 2
            assert run("person", "export", patient_id, "--as", "a@b.c", *where).returncode == 2
            nobody = run("person", "export", "00000000-0000-7000-8000-000000000000", "--as", "clerk-7", *where)
            assert (nobody.returncode, nobody.stdout) == (1, "")

            nobody_due: dict[str, Any] = {"dry_run": True, "due": [], "strangers": [], "unverified": []}
            assert told("retention", "run", "--dry-run", *where) == nobody_due

            # The patient's, and of whoever asked: where from is sealed with a key of theirs.
            assert told("keys", "rotate", "master", *where) == {"wrapped": 2, "retired": "master.retired"}
            assert run("keys", "rotate", "master", *where).returncode == 2
            # The server goes on, and so do those who come now.
            assert "Quackenbush" in http.get(f"/read/patients/{patient_id}").text
            later = http.post("/write/patients", json={"details": DETAILS}).json()["patient_id"]
            assert "Quackenbush" in http.get(f"/read/patients/{later}").text
            assert told("keys", "retire", "master", *where) == {"retired": ["master.retired"]}

            answer = http.post(f"/write/patients/{patient_id}/erasure", json={"ground": "objection"})
            assert answer.json()["outcome"] == "erased", answer.text
    # With everything closed and the keys at hand, as at any later time.
    found = json.loads(run(*export).stdout)
    assert found["erased_at"] is not None
    assert "Quackenbush" not in json.dumps(found)
    assert told("log", "verify", *where)["ok"]

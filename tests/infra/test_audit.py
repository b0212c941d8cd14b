"""A package with a known vulnerability fails the audit, unless a reason is written down; and where nothing can be
asked, that is said."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = """
version = 1
[[package]]
name = "sound"
version = "1.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "rotten"
version = "2.0"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "rotten"
version = "2.1"
source = { registry = "https://pypi.org/simple" }
[[package]]
name = "ours"
version = "0.1"
source = { editable = "." }
"""
ADVISORY = {
    "id": "PYSEC-2026-1",
    "aliases": ["CVE-2026-1"],
    "summary": "it is rotten",
    "affected": [
        {
            "package": {"name": "rotten", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.1"}]}],
        }
    ],
}


class Osv(BaseHTTPRequestHandler):
    """Answers as api.osv.dev does, of one rotten package."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        body = json.dumps({"vulns": [ADVISORY]} if asked["version"] == "2.0" else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Osv) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
        server.shutdown()
        thread.join()


def audit(osv: str, folder: Path, accepted: str) -> tuple[int, str]:
    (folder / "uv.lock").write_text(LOCK)
    (folder / "accepted.txt").write_text(accepted)
    options = ["--osv", osv, "--lock", str(folder / "uv.lock"), "--accepted", str(folder / "accepted.txt")]
    run = subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "audit"), *options],
        capture_output=True,
        text=True,
        check=False,
        # No way out but to the one that is named; and pip-audit keeps its answers beside it.
        env={"HOME": str(folder), "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"},
    )
    return run.returncode, run.stdout + run.stderr


def test_a_vulnerability_fails_it_until_a_reason_is_written_down(osv: str, tmp_path: Path) -> None:
    code, said = audit(osv, tmp_path, "# none\n")
    assert code == 1, said
    assert "rotten 2.0: PYSEC-2026-1 (CVE-2026-1), fixed in 2.1" in said
    assert "3 packages, 1 with a vulnerability, 0 accepted." in said
    for named in ("PYSEC-2026-1", "CVE-2026-1"):
        code, said = audit(osv, tmp_path, f"{named} nothing of ours calls it\n")
        assert code == 0, said
        assert "0 with a vulnerability, 1 accepted." in said
    code, said = audit(osv, tmp_path, "PYSEC-2026-1\n")
    assert code == 1, said
    assert "without a reason" in said


def test_where_nobody_can_be_asked_it_says_that_nothing_was_checked(tmp_path: Path) -> None:
    code, said = audit("http://127.0.0.1:9/", tmp_path, "")
    assert code == 0, said
    assert "NOTHING was checked" in said

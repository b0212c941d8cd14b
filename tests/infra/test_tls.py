"""With a certificate Daybook speaks TLS alone, 1.2 or newer, and a client that is shown another certificate goes
away."""

from __future__ import annotations

import ipaddress
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from infra.settings import Settings
from infra.tls import server_context
from infra.troubles import WrongSettings

DAYBOOK = (sys.executable, "-m", "infra.cli.main")
_DAY = timedelta(days=1)


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that answers for itself, and its key, in files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.crt", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return cert_file, key_file


@dataclass(frozen=True)
class Serving:
    port: int
    cert: Path
    said: str


@pytest.fixture(scope="module")
def serving() -> Iterator[Serving]:
    with tempfile.TemporaryDirectory(prefix="daybook-tls-", dir="/tmp") as made:
        cert, key = self_signed(Path(made), "ours")
        environ = {"DATA": f"{made}/data", "DAYBOOK_TLS_CERT": str(cert), "DAYBOOK_TLS_KEY": str(key)}
        with subprocess.Popen(
            [*DAYBOOK, "serve", "--port", "0", "--no-demo"],
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            try:
                found = re.search(r"https://127\.0\.0\.1:(\d+)", said)
                assert found, said
                yield Serving(int(found[1]), cert, said)
            finally:
                process.send_signal(signal.SIGTERM)


def asked(serving: Serving, believes: Path | None, host: str = "127.0.0.1") -> httpx.Response:
    context = ssl.create_default_context(cafile=believes)
    return httpx.get(f"https://{host}:{serving.port}/health/live", verify=context, timeout=60)


def test_a_client_that_knows_the_certificate_is_answered(serving: Serving) -> None:
    answer = asked(serving, serving.cert)
    assert answer.status_code == 200
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "server" not in answer.headers


def test_a_client_that_knows_another_certificate_goes_away(serving: Serving, tmp_path: Path) -> None:
    other, _ = self_signed(tmp_path, "other")
    for believes, host in ((other, "127.0.0.1"), (None, "127.0.0.1"), (serving.cert, "localhost")):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            asked(serving, believes, host)


def test_plain_http_hears_nothing(serving: Serving) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{serving.port}/health/live", timeout=60)


@pytest.mark.parametrize(
    ("version", "answers"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(serving: Serving, version: ssl.TLSVersion, answers: bool) -> None:
    context = ssl.create_default_context(cafile=serving.cert)
    context.minimum_version = context.maximum_version = version
    # So that it is the server who says no.
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("127.0.0.1", serving.port), timeout=60) as raw:
        if answers:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as spoken:
                assert spoken.version() == version.name.replace("_", ".")
        else:
            # uvloop hangs up without an alert.
            with pytest.raises(ssl.SSLError, match=r"ALERT_PROTOCOL_VERSION|UNEXPECTED_EOF"):
                context.wrap_socket(raw, server_hostname="127.0.0.1")


def test_files_that_are_no_certificate_with_its_key_stop_the_start(tmp_path: Path) -> None:
    cert, key = self_signed(tmp_path, "ours")
    _, other_key = self_signed(tmp_path, "other")
    nothing = tmp_path / "nothing"
    empty = tmp_path / "empty"
    empty.write_text("")
    assert server_context(Settings()) is None
    assert server_context(Settings(tls_cert=cert, tls_key=key)) is not None
    for given in ((cert, other_key), (nothing, key), (empty, key), (cert, nothing)):
        with pytest.raises(WrongSettings, match="no certificate with its key"):
            server_context(Settings(tls_cert=given[0], tls_key=given[1]))


def test_over_tls_a_page_remembers_its_browser_for_this_host_alone(serving: Serving) -> None:
    context = ssl.create_default_context(cafile=serving.cert)
    answer = httpx.get(f"https://127.0.0.1:{serving.port}/oauth/sign-in", verify=context, timeout=60)
    cookies = answer.headers.get_list("set-cookie")
    assert answer.status_code == 200
    assert cookies
    for cookie in cookies:
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "Path=/", "SameSite=lax"} <= set(cookie.split("; "))
        assert "Domain" not in cookie

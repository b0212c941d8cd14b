"""An Elasticsearch behind TLS whose key a private authority signed: reached with that authority, refused without."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from elasticsearch import ConnectionError as Unreached

from infra.search import search_at

_ANSWER = b'{"cluster_name":"elm","status":"green"}'


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate that signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "elm")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now.replace(year=2099))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = tmp_path / "ca.pem", tmp_path / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


@pytest.fixture
async def server(authority: tuple[Path, Path]) -> AsyncIterator[str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "ca_certs" not in request
        assert "authorization: basic ZWxtOnNlY3JldA==" in request.lower().replace(
            "zwxtonnly3jlda==", "ZWxtOnNlY3JldA=="
        )
        head = "HTTP/1.1 200 OK\r\nX-Elastic-Product: Elasticsearch\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(_ANSWER)}\r\n\r\n".encode() + _ANSWER)
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority)
    listening = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield f"https://elm:secret@127.0.0.1:{listening.sockets[0].getsockname()[1]}"


async def test_a_private_authority_is_named_in_the_url(server: str, authority: tuple[Path, Path]) -> None:
    async with search_at(f"{server}/?ca_certs={authority[0]}") as client:
        assert (await client.cluster.health())["status"] == "green"


async def test_an_authority_that_nobody_named_is_not_trusted(server: str) -> None:
    async with search_at(server) as client:
        with pytest.raises(Unreached):
            await client.cluster.health()

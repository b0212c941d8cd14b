"""A software authenticator, for tests: a fake made after W3C WebAuthn Level 2.

§6.1 (authenticator data), §6.3.2 (a new credential), §6.3.3 (an assertion), §5.8.1 (client data). It keeps its keys in
memory and asks for nobody's finger."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from dataclasses import dataclass, field
from typing import Any

import cbor2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

_PRESENT, _VERIFIED, _SYNCED, _ATTESTED = 0x01, 0x04, 0x18, 0x40


def text(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def raw(words: str) -> bytes:
    return base64.urlsafe_b64decode(words + "=" * (-len(words) % 4))


@dataclass
class Authenticator:
    """`origin` is what the browser says; `host` what the key is bound to. `counts` is whether its signature counter
    runs, as a security key's does and a synced passkey's does not; `synced` is whether it says that the key is copied
    to other devices (WebAuthn Level 3 §6.1.3)."""

    origin: str
    host: str
    verifies: bool = True
    counts: bool = True
    synced: bool = False
    counter: int = 0
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    user_handle: bytes = b""

    def create(self, options: dict[str, Any]) -> dict[str, Any]:
        """What `navigator.credentials.create()` gives for these options, as JSON."""
        assert options["rp"]["id"] == self.host
        self.user_handle = raw(options["user"]["id"])
        numbers = self.key.public_key().public_numbers()
        # RFC 8152 §13.1.1: EC2, ES256, P-256.
        cose = {1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)}
        attested = bytes(16) + len(self.credential_id).to_bytes(2) + self.credential_id + cbor2.dumps(cose)
        data = self._data(_ATTESTED) + attested
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        response = {
            "clientDataJSON": text(self._client_data("webauthn.create", options["challenge"])),
            "attestationObject": text(attestation),
        }
        return self._credential(response)

    def get(self, options: dict[str, Any]) -> dict[str, Any]:
        """What `navigator.credentials.get()` gives for these options, as JSON."""
        if self.counts:
            self.counter += 1
        data, client = self._data(), self._client_data("webauthn.get", options["challenge"])
        signature = self.key.sign(data + hashlib.sha256(client).digest(), ec.ECDSA(hashes.SHA256()))
        response = {
            "clientDataJSON": text(client),
            "authenticatorData": text(data),
            "signature": text(signature),
            "userHandle": text(self.user_handle),
        }
        return self._credential(response)

    def _data(self, further: int = 0) -> bytes:
        flags = _PRESENT | further | (_VERIFIED if self.verifies else 0) | (_SYNCED if self.synced else 0)
        return hashlib.sha256(self.host.encode()).digest() + bytes([flags]) + self.counter.to_bytes(4)

    def _client_data(self, kind: str, challenge: str) -> bytes:
        said = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return json.dumps(said, separators=(",", ":")).encode()

    def _credential(self, response: dict[str, str]) -> dict[str, Any]:
        name = text(self.credential_id)
        return {"id": name, "rawId": name, "type": "public-key", "response": response, "clientExtensionResults": {}}

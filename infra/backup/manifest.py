"""The manifest of a backup: what belongs to it and where the log stood, signed. It is written last, and counts alone.

In: parts and a checkpoint. Out: one JSON file, whole or not there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from infra.backup.parts import Damaged, Part, put
from infra.event_log.checkpoints import Checkpoint, SigningKey, is_signed
from infra.event_log.codec import canonical
from infra.key_files import sync_folder
from infra.troubles import Trouble

FILE: Final = "manifest.json"
ROWS: Final = "rows"
COMMANDS: Final = "commands"
CHECKPOINTS: Final = "checkpoints"
KEYS: Final = "keys"
KINDS: Final = (ROWS, COMMANDS, CHECKPOINTS, KEYS)
_FORMAT: Final = "daybook backup v1"
_PURPOSE: Final = b"daybook backup v1\x00"


class BackupTrouble(Trouble):
    """A backup can't be made or used, and why, in words."""


class NoBackup(BackupTrouble):
    """The folder holds no backup."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A backup after its run number `run`.

    `checkpoint` says where the log stood, None for an empty one; `made_at` when that was, by the clock of the database.
    `schema` is the newest migration of the database. `secrets` tells the key files of the installation by a fingerprint
    each, `public_keys` are those that signed, by their ids, and `tracking` is the table of that name.
    """

    run: int = 0
    made_at: datetime = datetime(2000, 1, 1, tzinfo=UTC)
    schema: int = 0
    checkpoint: Checkpoint | None = None
    parts: Mapping[str, tuple[Part, ...]] = field(default_factory=lambda: dict.fromkeys(KINDS, ()))
    tracking: Mapping[str, int] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    public_keys: Mapping[str, bytes] = field(default_factory=dict)
    signed_upto: int = 0
    key: str = ""
    signature: bytes = b""

    @property
    def position(self) -> int:
        return self.checkpoint.size if self.checkpoint else 0

    @property
    def files(self) -> set[str]:
        return {part.file for parts in self.parts.values() for part in parts}

    @property
    def size(self) -> int:
        """How many bytes of room the parts take."""
        return sum(part.size for parts in self.parts.values() for part in parts)

    def items(self, kind: str) -> int:
        return sum(part.items for part in self.parts[kind])

    def _words(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "run": self.run,
            "made_at": self.made_at.isoformat(),
            "schema": self.schema,
            "checkpoint": self.checkpoint.line().decode() if self.checkpoint else None,
            "parts": {kind: [part.as_json() for part in parts] for kind, parts in self.parts.items()},
            "tracking": dict(self.tracking),
            "secrets": dict(self.secrets),
            "public_keys": {name: public.hex() for name, public in self.public_keys.items()},
            "signed_upto": self.signed_upto,
            "key": self.key,
        }

    def signed(self, key: SigningKey) -> Self:
        public_keys = {**self.public_keys, key.id: key.public}
        named = replace(self, key=key.id, public_keys=public_keys)
        return replace(named, signature=key.sign_words(_PURPOSE + canonical(named._words())))

    def is_signed(self, keys: Mapping[str, bytes]) -> bool:
        """Whether one of the public keys, by their ids, signed it, and its checkpoint too."""
        public = keys.get(self.key)
        if public is None:
            return False
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(self.signature, _PURPOSE + canonical(self._words()))
        except (InvalidSignature, ValueError):
            return False
        return self.checkpoint is None or is_signed(self.checkpoint, keys)

    def save(self, folder: Path) -> None:
        """Let this manifest count from now on. The parts it names are on disk before."""
        sync_folder(folder)
        put(folder, FILE, canonical({**self._words(), "signature": self.signature.hex()}) + b"\n")
        sync_folder(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Raises `NoBackup` where there is none, and `Damaged` for what is no manifest."""
        try:
            found = json.loads((folder / FILE).read_bytes())
        except FileNotFoundError:
            raise NoBackup(f"{folder} holds no backup: there is no {FILE} in it.") from None
        except OSError as error:
            raise NoBackup(f"{folder / FILE} can't be read ({error.strerror}).") from None
        except ValueError as error:
            raise Damaged(FILE, "is no manifest") from error
        try:
            if found["format"] != _FORMAT:
                raise Damaged(FILE, f"is of another kind than {_FORMAT!r}")
            return cls(
                run=int(found["run"]),
                made_at=datetime.fromisoformat(found["made_at"]),
                schema=int(found["schema"]),
                checkpoint=Checkpoint.read(found["checkpoint"].encode()) if found["checkpoint"] else None,
                parts={kind: tuple(Part.read(part) for part in found["parts"][kind]) for kind in KINDS},
                tracking={str(name): int(position) for name, position in found["tracking"].items()},
                secrets={str(name): str(print) for name, print in found["secrets"].items()},
                public_keys={str(name): bytes.fromhex(public) for name, public in found["public_keys"].items()},
                signed_upto=int(found["signed_upto"]),
                key=str(found["key"]),
                signature=bytes.fromhex(found["signature"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise Damaged(FILE, "is no manifest") from error


def fingerprint(secret: bytes) -> str:
    """A name for a random secret that gives nothing of it away."""
    return sha256(b"daybook secret\x00" + secret).hexdigest()[:16]


def fingerprints(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The fingerprints of the key files that are there."""
    return {name: fingerprint((folder / name).read_bytes()) for name in names if (folder / name).exists()}

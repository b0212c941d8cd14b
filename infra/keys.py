"""Secrets of one installation, each a file of random bytes in one folder. Out: what they are used for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

from infra.blinds import KeyedBlinds
from infra.event_log import checkpoints
from infra.http.csrf import Forms
from infra.http.cursors import Cursors
from infra.http.positions import Positions
from infra.http.tokens import SigningKey
from infra.key_files import read, read_or_make
from infra.master_keys import CURRENT, MasterKeyFolder
from infra.search_keys import SearchKeys
from infra.signing_keys import TokenKeys
from infra.troubles import CannotStart

# What each file is for, as `daybook keys` says it.
FILES: Mapping[str, str] = MappingProxyType(
    {
        "master.key": "wraps the data keys of persons",
        "checkpoints.ed25519": "signs the log",
        "tokens.ed25519": "signs tokens",
        "http": "seals cursors, positions and forms",
        "commands": "keys the hashes of remembered commands",
        "blind": "keys the hashes that stand for addresses, and never changes; for names, until `search` is rotated",
    }
)
# A log that has begun can't do without those it began with (`infra/key_marks.py`); of the others a new one will do.
LASTING: Final = ("master.key", "checkpoints.ed25519", "commands", "blind")


class KeyFolder:
    """`make` says whether what is missing is made: a single machine makes its own, services that share a folder must
    all have the same one. What lasts is made by `make` alone. Every question raises `CannotStart` for a file that is
    missing or damaged."""

    def __init__(self, path: Path, *, make: bool) -> None:
        self.path = path
        self.makes = make

    def secret(self, name: str, length: int = 32) -> bytes:
        path = self.path / name
        try:
            if not self.makes:
                return read(path, length)
            return read(path, length, group=False) if name in LASTING else read_or_make(path, length)
        except FileNotFoundError as error:
            raise CannotStart(
                f"{path} is missing. Bring it back from the copy of the keys folder; for a log that has not begun, "
                "`daybook keys make` makes what is missing."
            ) from error
        except (OSError, ValueError) as error:
            raise CannotStart(f"{path}: {error}. Mend it, or bring it back from a backup.") from error

    def missing(self, names: Iterable[str]) -> Sequence[str]:
        return [name for name in names if not (self.path / name).exists()]

    def make(self) -> Sequence[str]:
        """Make every file that is missing, and return their names. It is for a log that has not begun."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        missing = self.missing(FILES)
        for name in missing:
            read_or_make(self.path / name)
        return missing

    def master(self) -> MasterKeyFolder:
        self.secret(CURRENT)
        try:
            return MasterKeyFolder(self.path)
        except (OSError, ValueError) as error:
            raise CannotStart(f"{self.path}: {error}. Mend it, or bring it back from a backup.") from error

    def token_keys(self) -> TokenKeys:
        """Sign and verify tokens; they change while this lives, when somebody rotates them."""
        return TokenKeys(self.path, self.secret)

    def tokens(self) -> SigningKey:
        """Signs tokens now."""
        return self.token_keys().newest()

    def checkpoints(self) -> checkpoints.SigningKey:
        return checkpoints.SigningKey(self.secret("checkpoints.ed25519"))

    def cursors(self) -> Cursors:
        return Cursors(self.secret("http"))

    def forms(self) -> Forms:
        return Forms(self.secret("http"))

    def positions(self) -> Positions:
        return Positions(self.secret("http"))

    def blinds(self) -> KeyedBlinds:
        return KeyedBlinds(self.secret("blind"))

    def search(self) -> SearchKeys:
        """Find people; they change while this lives, when somebody rotates them."""
        return SearchKeys(self.path, KeyFolder(self.path, make=False).secret)

    def memory(self) -> bytes:
        return self.secret("commands")

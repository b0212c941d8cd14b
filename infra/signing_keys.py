"""The keys that sign tokens: one or several files in the key folder. Out: the one that signs now, and all that verify.

`tokens.ed25519` is the first, `tokens.2.ed25519` and so on came with later rotations. The newest signs. Older ones
verify what they signed until they are retired, once the last of it has run out: at least ten minutes for what apps
hold, and as long as somebody was promised with `daybook token --ttl`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from infra.http.tokens import SigningKey
from infra.key_files import read_or_make, sync_folder

FIRST: Final = "tokens.ed25519"
_NAME = re.compile(r"tokens(?:\.([1-9][0-9]{0,5}))?\.ed25519")
# A key id that nobody knows makes the folder be looked at, which strangers could ask for as often as they like.
_PAUSE: Final = 1.0


class TokenKeys(Mapping[str, Ed25519PublicKey]):
    """Public keys by key id, as the folder has them now: other processes rotate them. `read` gives a file's bytes and
    raises what is wrong with it; `clock` gives seconds."""

    def __init__(
        self, folder: Path, read: Callable[[str], bytes], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._folder = folder
        self._read = read
        self._clock = clock
        self._keys: dict[str, SigningKey] = {}
        self._names: Sequence[str] = ()
        self._looked = clock()
        self.look()

    def newest(self) -> SigningKey:
        """The key that signs."""
        if self._clock() - self._looked >= _PAUSE:
            self.look()
        return self._keys[self._names[-1]]

    def __getitem__(self, key_id: str) -> Ed25519PublicKey:
        found = self._public.get(key_id)
        if found is None and self._clock() - self._looked >= _PAUSE:
            self.look()
            found = self._public.get(key_id)
        if found is None:
            raise KeyError(key_id)
        return found

    def __iter__(self) -> Iterator[str]:
        if self._clock() - self._looked >= _PAUSE:
            self.look()
        return iter(self._public)

    def __len__(self) -> int:
        return len(self._public)

    def look(self) -> None:
        """Read the folder again."""
        self._looked = self._clock()
        self._names = names_in(self._folder) or (FIRST,)
        self._keys = {name: self._keys.get(name) or SigningKey(self._read(name)) for name in self._names}
        self._public = {key.id: key.public for key in self._keys.values()}


def names_in(folder: Path) -> Sequence[str]:
    """The files of token keys, oldest first."""
    found = {path.name: match for path in folder.glob("tokens*.ed25519") if (match := _NAME.fullmatch(path.name))}
    return sorted(found, key=lambda name: int(found[name][1] or 1))


def rotate(folder: Path) -> str:
    """Make the key that signs from now on, and return its file's name. Services take it up by themselves."""
    names = names_in(folder)
    newest = _NAME.fullmatch(names[-1]) if names else None
    name = FIRST if newest is None else f"tokens.{int(newest[1] or 1) + 1}.ed25519"
    read_or_make(folder / name)
    return name


def retire(folder: Path) -> Sequence[str]:
    """Take away all keys but the newest, and return their names: what they signed is refused from now on, by a running
    service once it has looked at the folder or starts anew."""
    *older, _ = names_in(folder) or (FIRST,)
    for name in older:
        (folder / name).unlink()
    sync_folder(folder)
    return older

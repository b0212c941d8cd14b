"""Data keys of persons: wrapped in the database, opened with a master key that lies outside it.

In: an organization and its persons. Out: 32 bytes each, or None where the key was never made or was destroyed.
Implements `domain.ports.Keyring`.
"""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.event_log.connections import Connections
from infra.key_files import read_or_make

_KEY: Final = 32
_NONCE: Final = 12
_SELECT = "SELECT person, wrapped FROM data_keys WHERE organization = %s AND person = ANY(%s::text[])"
_INSERT = (
    "INSERT INTO data_keys (organization, person, wrapped) SELECT %s, person, wrapped"
    " FROM unnest(%s::text[], %s::bytea[]) AS made(person, wrapped) ON CONFLICT DO NOTHING RETURNING person"
)
_NAMES = (
    "SELECT person FROM data_keys WHERE organization = %s AND starts_with(person, %s) AND wrapped <> '' ORDER BY person"
)
# Where the person never had a key an empty row keeps them from ever having one.
_DESTROY = (
    "INSERT INTO data_keys (organization, person, wrapped) VALUES (%s, %s, '')"
    " ON CONFLICT (organization, person) DO UPDATE SET wrapped = ''"
)


class MasterKey(Protocol):
    """Wraps data keys. A key service can stand behind this: `bound_to` is its encryption context, and which of its keys
    wrapped something is its own affair, so that it rotates by itself."""

    async def wrap(self, key: bytes, bound_to: bytes) -> bytes: ...

    async def unwrap(self, wrapped: bytes, bound_to: bytes) -> bytes: ...


class MasterKeyFile:
    """A master key of 32 random bytes in a file that its owner alone may read."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    @classmethod
    def at(cls, path: Path) -> MasterKeyFile:
        """Read the file, or make it on first start. Raises `PermissionError` when others may read it, and
        `ValueError` when it holds no key."""
        return cls(read_or_make(path, _KEY))

    async def wrap(self, key: bytes, bound_to: bytes) -> bytes:
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, key, bound_to)

    async def unwrap(self, wrapped: bytes, bound_to: bytes) -> bytes:
        return self._cipher.decrypt(wrapped[:_NONCE], wrapped[_NONCE:], bound_to)


class PostgresKeyring:
    """Keys that were looked up stay in memory, the most recent `remembered` of them.

    A key that another process destroys stays in this one's memory until it falls out or is let go of.
    """

    def __init__(
        self, dsn: str, master: MasterKey, *, patience: float = 5.0, remembered: int = 100_000, size: int = 2
    ) -> None:
        """`size` is how many connections it holds at most."""
        self._connections = Connections(dsn, "keyring", size=size, patience=patience)
        self._master = master
        self._remembered = remembered
        self._known: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        # Of whom a question that is under way may still bring the key.
        self._gone: set[tuple[str, str]] = set()

    async def close(self) -> None:
        self._known.clear()
        await self._connections.close()

    async def keys(
        self, organization: str, persons: Iterable[str], *, create: bool = False
    ) -> Mapping[str, bytes | None]:
        """See the port. All persons are looked up in one question, and made in one more."""
        answer: dict[str, bytes | None] = dict.fromkeys(persons)
        for person in answer:
            answer[person] = self._recall(organization, person)
        missing = [person for person, key in answer.items() if key is None and (organization, person) not in self._gone]
        if missing:
            answer.update(await self._look_up(organization, missing))
        if create and (missing := [person for person in missing if answer[person] is None]):
            answer.update(await self._make(organization, missing))
        return answer

    async def names(self, organization: str, prefix: str) -> Sequence[str]:
        """Those who have a key, of all whose names begin so. Raises `LogUnavailable`."""
        return [person for (person,) in await self._connections.fetch(_NAMES, (organization, prefix))]

    async def forget(self, organization: str, person: str) -> None:
        """Destroy the person's key: what it sealed can never be read again, and they never get another one."""
        await self._connections.fetch(_DESTROY, (organization, person))
        self.let_go(organization, person)

    def let_go(self, organization: str, person: str) -> None:
        """Do without the key from now on: the person is forgotten, and whoever carries that out may be another."""
        self._gone.add((organization, person))
        self._known.pop((organization, person), None)

    def _recall(self, organization: str, person: str) -> bytes | None:
        key = self._known.get((organization, person))
        if key is not None:
            self._known.move_to_end((organization, person))
        return key

    async def _make(self, organization: str, persons: list[str]) -> dict[str, bytes]:
        """Those that were destroyed are left out."""
        keys = {person: os.urandom(_KEY) for person in persons}
        wrapped = [await self._master.wrap(key, bound_to(organization, person)) for person, key in keys.items()]
        rows = await self._connections.fetch(_INSERT, (organization, persons, wrapped))
        made = {person: keys[person] for (person,) in rows}
        self._remember(organization, made)
        # Where another process was first, what stands in the table counts.
        if others := [person for person in persons if person not in made]:
            made |= await self._look_up(organization, others)
        return made

    async def _look_up(self, organization: str, persons: list[str]) -> dict[str, bytes]:
        rows = await self._connections.fetch(_SELECT, (organization, persons))
        found = {
            person: await self._master.unwrap(wrapped, bound_to(organization, person))
            for person, wrapped in rows
            if wrapped
        }
        self._remember(organization, found)
        return found

    def _remember(self, organization: str, keys: Mapping[str, bytes]) -> None:
        for person, key in keys.items():
            if (organization, person) not in self._gone:
                self._known[organization, person] = key
        while len(self._known) > self._remembered:
            self._known.popitem(last=False)


async def opens(master: MasterKey, organization: str, person: str, wrapped: bytes) -> bool:
    """Whether this master key wrapped that data key, or it is destroyed."""
    if not wrapped:
        return True
    try:
        await master.unwrap(wrapped, bound_to(organization, person))
    except (InvalidTag, ValueError):
        return False
    return True


def bound_to(organization: str, person: str) -> bytes:
    """What a wrapped key is bound to, so that it opens in its own row alone."""
    return json.dumps(["daybook data key", organization, person]).encode()

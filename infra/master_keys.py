"""The master key in a folder, and its successor: every data key is wrapped anew, and the log stays as it is.

In: a folder of key files, and the table of wrapped data keys. Out: the same data keys under another master key. Each
process looks at the folder whenever it wraps, so from the moment that a successor lies there nothing is wrapped under
the former key any more; all keys that lie there open. What broke off is gone on with by doing it again.

| file | is there | |
|---|---|---|
| `master.key` | always | wraps, unless there is a successor |
| `master.next` | from the beginning to the end | wraps |
| `master.retired` | from the end until it is taken away | opens copies of the table that were made before |
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag

from infra.event_log.connections import Connections
from infra.key_files import read, read_or_make, sync_folder
from infra.keyring import MasterKeyFile, bound_to
from infra.troubles import Trouble

CURRENT: Final = "master.key"
NEXT: Final = "master.next"
RETIRED: Final = "master.retired"

_BITE: Final = 500
_COUNT = "SELECT count(*) FROM data_keys WHERE organization >= ''"
_AFTER = (
    "SELECT organization, person, wrapped FROM data_keys WHERE (organization, person) > (%s, %s)"
    " ORDER BY organization, person LIMIT %s"
)
# Only where it is still what was read: a key that was destroyed meanwhile stays destroyed.
_REWRAP = (
    "UPDATE data_keys AS k SET wrapped = made.wrapped"
    " FROM unnest(%s::text[], %s::text[], %s::bytea[], %s::bytea[]) AS made(organization, person, was, wrapped)"
    " WHERE k.organization = made.organization AND k.person = made.person AND k.wrapped = made.was RETURNING 1"
)


class MasterKeyFolder:
    """Implements `infra.keyring.MasterKey` with the files of a folder."""

    def __init__(self, folder: Path) -> None:
        """Raises `OSError` and `ValueError` where there is no master key, or a damaged one."""
        self._folder = folder
        self._seen: Mapping[str, tuple[int, int]] = {}
        self._ciphers: Sequence[MasterKeyFile] = ()
        self._look()

    async def wrap(self, key: bytes, bound_to: bytes) -> bytes:
        self._look()
        return await self._ciphers[0].wrap(key, bound_to)

    async def unwrap(self, wrapped: bytes, bound_to: bytes) -> bytes:
        """Raises `InvalidTag` where no key of the folder opens it."""
        try:
            return await self._opened(wrapped, bound_to)
        except InvalidTag:
            # It may have been wrapped under a key that came since.
            if not self._look():
                raise
            return await self._opened(wrapped, bound_to)

    async def _opened(self, wrapped: bytes, bound_to: bytes) -> bytes:
        for cipher in self._ciphers:
            try:
                return await cipher.unwrap(wrapped, bound_to)
            except InvalidTag:
                continue
        raise InvalidTag

    def _look(self) -> bool:
        """Read the folder again where a file in it is another; return whether one is."""
        seen = self._stat()
        if seen == self._seen:
            return False
        while True:
            # A successor wraps, and the former key is needed last.
            found = [MasterKeyFile(read(self._folder / name)) for name in (NEXT, CURRENT, RETIRED) if name in seen]
            # What was read while files changed places may be the one key twice.
            before, seen = seen, self._stat()
            if before == seen:
                self._ciphers, self._seen = found, seen
                return True

    def _stat(self) -> dict[str, tuple[int, int]]:
        seen: dict[str, tuple[int, int]] = {}
        for name in (NEXT, CURRENT, RETIRED):
            try:
                stat = (self._folder / name).stat()
            except FileNotFoundError:
                if name == CURRENT:
                    raise
                continue
            seen[name] = (stat.st_ino, stat.st_mtime_ns)
        return seen


class RetiredKeyThere(Trouble):
    """The master key of before the last rotation was not taken away yet."""

    exit_code = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder / RETIRED} is there, the key of before the last rotation. Once no backup that you may need was "
            "made before that, `daybook keys retire master` takes it away; then rotate again."
        )


class RotationUnfinished(Trouble):
    """A rotation broke off."""

    exit_code = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder / NEXT} is there: a rotation broke off. `daybook keys rotate master` goes on with it."
        )


def prepare(folder: Path) -> None:
    """Lay a successor beside the master key. Raises `RetiredKeyThere`, `OSError` and `ValueError`."""
    read(folder / CURRENT)
    if (folder / RETIRED).exists() and not (folder / NEXT).exists():
        raise RetiredKeyThere(folder)
    read_or_make(folder / NEXT)


async def rotate(dsn: str, folder: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Wrap every data key under the successor, made where there is none, and put it in the place of the master key;
    return how many were wrapped anew. `progress` hears how many of about how many were looked at.

    A rotation that broke off is gone on with. Raises as `prepare` does, `LogUnavailable`, and `InvalidTag` for a data
    key that none of the folder's keys opens: then the former key stays in place."""
    connections = Connections(dsn, "rotation", size=1, patience=30.0)
    try:
        prepare(folder)
        successor = MasterKeyFile(read(folder / NEXT))
        all_keys = MasterKeyFolder(folder)
        count = 0
        # Whoever looked at the folder just before the successor lay there wraps a last one under the former key.
        while changed := await _rewrap(connections, all_keys, successor, progress):
            count += changed
        _swap(folder)
        return count + await _rewrap(connections, all_keys, successor, progress)
    finally:
        await connections.close()


async def retire(dsn: str, folder: Path) -> bool:
    """Take the key of before the last rotation away; whether there was one. Copies of the table from before, in backups
    and in the database's own files, can't be opened from then on.

    Raises `LogUnavailable`, and `InvalidTag` for a data key that none of the folder's keys opens."""
    if (folder / NEXT).exists():
        raise RotationUnfinished(folder)
    if not (folder / RETIRED).exists():
        return False
    connections = Connections(dsn, "rotation", size=1, patience=30.0)
    try:
        # Nothing may need it any more, however the rotation ended.
        while await _rewrap(connections, MasterKeyFolder(folder), MasterKeyFile(read(folder / CURRENT))):
            pass
    finally:
        await connections.close()
    (folder / RETIRED).unlink()
    sync_folder(folder)
    return True


async def _rewrap(
    connections: Connections,
    all_keys: MasterKeyFolder,
    successor: MasterKeyFile,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """One round over the table; return how many were not under the successor yet."""
    total = int((await connections.fetch(_COUNT))[0][0])
    changed = done = 0
    last: tuple[str, str] = ("", "")
    while rows := await connections.fetch(_AFTER, (*last, _BITE)):
        made: list[tuple[Any, ...]] = []
        for organization, person, wrapped in rows:
            bound = bound_to(organization, person)
            if wrapped and not await _opens(successor, wrapped, bound):
                key = await all_keys.unwrap(wrapped, bound)
                made.append((organization, person, wrapped, await successor.wrap(key, bound)))
        if made:
            columns = tuple(list(column) for column in zip(*made, strict=True))
            changed += len(await connections.fetch(_REWRAP, columns))
        last = rows[-1][:2]
        done += len(rows)
        progress(done, max(total, done))
    return changed


async def _opens(cipher: MasterKeyFile, wrapped: bytes, bound: bytes) -> bool:
    try:
        await cipher.unwrap(wrapped, bound)
    except InvalidTag:
        return False
    return True


def _swap(folder: Path) -> None:
    """The successor becomes the master key, and the former one stays under another name: there is always one."""
    if not (folder / RETIRED).exists():
        os.link(folder / CURRENT, folder / RETIRED)
        sync_folder(folder)
    os.replace(folder / NEXT, folder / CURRENT)
    sync_folder(folder)

"""The keys under which people are found: one or several files in the key folder. In: words. Out: their blinds under the
key that is used from now on, and under those that rows may still be kept with.

Until one is rotated it is `blind`, under which addresses are claimed in the log for ever too. The first rotation lays a
copy of it down as `search.1` and its successor as `search.2`, the next one `search.3`: from then on `blind` is for
addresses alone. The newest keeps; all are asked, so that people are found while the rows are made anew.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from domain.ports import Blinds
from infra.blinds import KeyedBlinds
from infra.key_files import read, read_or_make, sync_folder

FIRST: Final = "blind"
_TICK: Final = 2_000_000_000
_NAME = re.compile(r"search\.([1-9][0-9]{0,5})")


class SearchKeys:
    """As the folder has them now: another process rotates them. Newest first. `secret` gives a file's bytes and raises
    what is wrong with it."""

    def __init__(self, folder: Path, secret: Callable[[str], bytes]) -> None:
        self._folder = folder
        self._secret = secret
        self._changed = -1
        self._known: Sequence[Blinds] = ()
        self()

    def __call__(self) -> Sequence[Blinds]:
        changed = self._folder.stat().st_mtime_ns
        if changed != self._changed:
            self._known = [KeyedBlinds(self._secret(name)) for name in names_in(self._folder)[::-1] or (FIRST,)]
            # Two changes within a tick of the file system's clock leave the same time.
            self._changed = changed if time.time_ns() - changed > _TICK else -1
        return self._known


def names_in(folder: Path) -> Sequence[str]:
    """The files of keys that came by rotation, oldest first."""
    found = {path.name: match for path in folder.glob("search.*") if (match := _NAME.fullmatch(path.name))}
    return sorted(found, key=lambda name: int(found[name][1]))


def rotate(folder: Path) -> str:
    """Make the key that is used from now on, and return its file's name. Raises `OSError` and `ValueError` where there
    is no key yet."""
    if not names_in(folder):
        draft = folder / f".search.1.{os.getpid()}"
        draft.touch(mode=0o600)
        draft.write_bytes(read(folder / FIRST))
        os.replace(draft, folder / "search.1")
        sync_folder(folder)
    newest = _NAME.fullmatch(names_in(folder)[-1])
    name = f"search.{int(newest[1]) + 1 if newest else 2}"
    read_or_make(folder / name)
    return name


def retire(folder: Path) -> Sequence[str]:
    """Take away all keys but the newest, and return their names: nobody is found any more by rows that they keep."""
    *older, _ = names_in(folder) or (FIRST,)
    for name in older:
        (folder / name).unlink()
    sync_folder(folder)
    return older

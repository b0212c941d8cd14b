"""Whether the key files at hand are those that a log was written with. In: a key folder, and the log's database.

A log that has begun needs the keys it began with, so only an empty one is given new ones. Which they were is kept
beside the log: the data keys open under the master key alone, and of the others a fingerprint is noted.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from infra.backup.manifest import fingerprint
from infra.event_log.connections import Connections
from infra.key_files import replace
from infra.keyring import opens
from infra.keys import LASTING, KeyFolder
from infra.master_keys import CURRENT
from infra.signing_keys import FIRST, names_in
from infra.troubles import CannotStart

# Wrong ones would do their harm unseen. The master key shows by what it opens, a signing key by what it signed.
MARKED: Final = ("blind", "commands")

# What `daybook keys rotate` calls them.
SUCCEEDED: Final = {"commands": "commands", "checkpoints.ed25519": "checkpoints"}
_TRIED: Final = 100
_THERE = (
    "SELECT to_regclass('log_head') IS NOT NULL, to_regclass('key_marks') IS NOT NULL,"
    " coalesce(has_table_privilege(to_regclass('key_marks'), 'INSERT'), false)"
)
_BEGUN = "SELECT EXISTS (SELECT FROM log_head WHERE position > 0) OR EXISTS (SELECT FROM data_keys)"
_SOME = "SELECT organization, person, wrapped FROM data_keys WHERE wrapped <> '' LIMIT %s"
_MARKS = "SELECT DISTINCT ON (name) name, mark FROM key_marks ORDER BY name, noted_at DESC"
NOTE: Final = "INSERT INTO key_marks (name, mark) VALUES (%s, %s)"

_log = logging.getLogger("daybook.keys")


async def settle(dsn: str, keys: KeyFolder) -> None:
    """Make the keys of a log that has not begun, where the folder makes its own; see that those of one that has begun
    are there and the same.

    Raises `CannotStart` for a key that is missing or another, and `LogUnavailable`."""
    connections = Connections(dsn, "keys", size=1)
    try:
        log, marks, may_note = (await connections.fetch(_THERE))[0]
        begun = log and (await connections.fetch(_BEGUN))[0][0]
        if not begun:
            if keys.makes:
                keys.make()
        else:
            _there(keys)
            await _opens(connections, keys)
        if marks:
            await _compare(connections, keys, begun=begun, may_note=may_note)
    finally:
        await connections.close()


async def succeed(dsn: str, folder: Path, name: str) -> None:
    """Put a new key in the place of a file of `MARKED`, there or lost, and note it. Services take it up at their next
    start. Raises `LogUnavailable` and `OSError`."""
    connections = Connections(dsn, "keys", size=1)
    try:
        await connections.fetch(NOTE, (name, fingerprint(replace(folder / name))))
    finally:
        await connections.close()


def _there(keys: KeyFolder) -> None:
    # Services read what they need by themselves; all of them open seals.
    for name in keys.missing(LASTING if keys.makes else (CURRENT,)):
        raise CannotStart(
            f"{keys.path / name} is missing, and this log was written with it; no new key takes its place. Bring it "
            f"back from the copy of the keys folder{_way_out(name)}."
        )
    if keys.makes and keys.missing(("http",)):
        _log.warning("%s was missing and is made anew: forms and lists that are open begin again", keys.path / "http")
    if keys.makes and not names_in(keys.path):
        _log.warning("%s was missing and is made anew: whoever was signed in signs in again", keys.path / FIRST)


async def _opens(connections: Connections, keys: KeyFolder) -> None:
    """A damaged row must not keep a clinic from its book, so it is another key only if it opens nothing."""
    master, path = keys.master(), keys.path / CURRENT
    rows = await connections.fetch(_SOME, (_TRIED,))
    opened = sum([await opens(master, *row) for row in rows])
    if rows and not opened:
        raise CannotStart(
            f"{path} is another master key than the one that wrapped the data keys in this database: it opens none of "
            "them. Bring the former one back from the copy of the keys folder, or name the database that belongs to "
            "this one."
        )
    if opened < len(rows):
        _log.error("%s opens %d of %d data keys that were tried: those persons can't be read", path, opened, len(rows))


async def _compare(connections: Connections, keys: KeyFolder, *, begun: bool, may_note: bool) -> None:
    noted = dict(await connections.fetch(_MARKS))
    for name in MARKED:
        if keys.missing((name,)):
            continue
        mark = fingerprint(keys.secret(name))
        if begun and noted.get(name, mark) != mark:
            raise CannotStart(
                f"{keys.path / name} is another key than the one that this log was written with. Bring the former one "
                f"back from the copy of the keys folder{_way_out(name)}."
            )
        if may_note and noted.get(name) != mark:
            await connections.fetch(NOTE, (name, mark))


def _way_out(name: str) -> str:
    kind = SUCCEEDED.get(name)
    return f", or where it is lost for good, `daybook keys rotate {kind}`" if kind else ""

"""An index of the directory in a SQLite file. In and out: what `projections.directory.Index` says.

One process has it open. The file is derived from the log: one that is damaged, or of another shape, is begun anew.
Journal and data are handed to the system without waiting for the disk: a killed process loses nothing, a machine that
fails may lose the last moments, together with the positions that they stood for.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final, Self, TypeVar
from uuid import UUID

from projections.directory import NEVER, Entry, Found, IndexAway, Key, Made, Question, Spoilt, Standing, at, folded
from projections.model import OutOfStep

T = TypeVar("T")

# Another number for another shape of the tables.
_SHAPE: Final = 1
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = _EPOCH.resolution

_TABLES: Final = """
CREATE TABLE generations (live INTEGER NOT NULL);
INSERT INTO generations VALUES (1);
CREATE TABLE positions (generation INTEGER, part TEXT, position INTEGER, PRIMARY KEY (generation, part)) WITHOUT ROWID;
CREATE TABLE entries (
    generation INTEGER, organization TEXT, provider TEXT, version INTEGER, reaches TEXT, good_until INTEGER,
    gone INTEGER, entry TEXT, PRIMARY KEY (generation, organization, provider)
) WITHOUT ROWID;
CREATE INDEX stale ON entries (generation, good_until) WHERE good_until IS NOT NULL;
CREATE TABLE terms (
    generation INTEGER, organization TEXT, provider TEXT, kind TEXT, term TEXT,
    PRIMARY KEY (generation, organization, provider, kind, term)
) WITHOUT ROWID;
CREATE TABLE offers (
    generation INTEGER, organization TEXT, provider TEXT, visit_type TEXT, location TEXT, in_person INTEGER,
    telemedicine INTEGER, self_bookable INTEGER, next INTEGER,
    PRIMARY KEY (generation, organization, provider, visit_type, location)
) WITHOUT ROWID;
"""

_SAME: Final = "{0}.generation = e.generation AND {0}.organization = e.organization AND {0}.provider = e.provider"


class SqliteIndex:
    """`close` when nobody asks any more. Generations of one file share its connection and its thread."""

    def __init__(self, path: Path) -> None:
        self._thread = ThreadPoolExecutor(1, "directory")
        self._file = _File(path)
        self._pinned: int | None = None

    async def close(self) -> None:
        await self._do(self._file.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[..., T], *arguments: Any) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)
        except sqlite3.Error as error:
            # What is wrong with the file is found, and mended, when it is opened again.
            self._thread.submit(self._file.close)
            raise IndexAway(type(error).__name__) from error

    async def positions(self) -> Mapping[str, int]:
        return await self._do(self._positions)

    def _positions(self) -> Mapping[str, int]:
        asked = "SELECT part, position FROM positions WHERE generation = ?"
        return dict(self._file.opened().execute(asked, (self._generation(),)))

    def _generation(self) -> int:
        if self._pinned is not None:
            return self._pinned
        live: int = self._file.opened().execute("SELECT live FROM generations").fetchone()[0]
        return live

    async def standing(self, keys: Sequence[Key]) -> Sequence[Standing | None]:
        return await self._do(self._standing, keys)

    def _standing(self, keys: Sequence[Key]) -> Sequence[Standing | None]:
        generation = self._generation()
        one = "generation = ? AND organization = ? AND provider = ?"
        asked = f"SELECT version, reaches, good_until FROM entries WHERE {one}"  # noqa: S608
        rows = [
            self._file.opened().execute(asked, (generation, organization, str(provider))).fetchone()
            for organization, provider in keys
        ]
        return [
            row and Standing(row[0], date.fromisoformat(row[1]), None if row[2] is None else _instant(row[2]))
            for row in rows
        ]

    async def write(self, made: Sequence[Made]) -> Sequence[Spoilt]:
        if made:
            await self._do(self._write, made)
        return ()

    def _write(self, made: Sequence[Made]) -> None:
        with self._file.opened() as writing:
            writing.execute("BEGIN IMMEDIATE")
            generation = self._generation()
            for one in made:
                self._write_one(writing, generation, one)

    def _write_one(self, writing: sqlite3.Connection, generation: int, made: Made) -> None:
        entry, standing = made
        key = (generation, entry.organization, str(entry.provider_id))
        until = None if standing.good_until is None else _microseconds(standing.good_until)
        changed = writing.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET version = excluded.version,"
            " reaches = excluded.reaches, good_until = excluded.good_until, gone = excluded.gone,"
            " entry = excluded.entry WHERE excluded.version >= version",
            (*key, standing.version, standing.reaches.isoformat(), until, entry.gone, entry.model_dump_json()),
        ).rowcount
        if not changed:
            return
        for table in ("terms", "offers"):
            writing.execute(
                f"DELETE FROM {table} WHERE generation = ? AND organization = ? AND provider = ?",  # noqa: S608
                key,
            )
        kinds = {
            "specialty": entry.specialty_terms(),
            "language": entry.language_terms(),
            "insurer": entry.insurer_terms(),
        }
        writing.executemany(
            "INSERT INTO terms VALUES (?, ?, ?, ?, ?)",
            [(*key, kind, term) for kind, terms in kinds.items() for term in terms],
        )
        writing.executemany(
            "INSERT INTO offers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (
                    *key,
                    str(kind.id),
                    str(times.location_id),
                    "in_person" in kind.modes,
                    "telemedicine" in kind.modes,
                    kind.self_bookable,
                    at(times),
                )
                for kind, times in entry.offers()
            ],
        )

    async def stand(self, positions: Mapping[str, tuple[int, int]]) -> None:
        await self._do(self._stand, positions)

    def _stand(self, positions: Mapping[str, tuple[int, int]]) -> None:
        with self._file.opened() as writing:
            writing.execute("BEGIN IMMEDIATE")
            generation = self._generation()
            known = self._positions()
            for part, (before, after) in positions.items():
                if known.get(part, 0) != before:
                    raise OutOfStep(known.get(part, 0))
                writing.execute("REPLACE INTO positions VALUES (?, ?, ?)", (generation, part, after))

    async def stale(self, now: datetime, limit: int) -> Sequence[Key]:
        return await self._do(self._stale, now, limit)

    def _stale(self, now: datetime, limit: int) -> Sequence[Key]:
        asked = (
            "SELECT organization, provider FROM entries WHERE generation = ? AND good_until <= ?"
            " ORDER BY good_until LIMIT ?"
        )
        rows = self._file.opened().execute(asked, (self._generation(), _microseconds(now), limit))
        return [(organization, UUID(provider)) for organization, provider in rows]

    async def find(self, organization: str, question: Question) -> Sequence[Found]:
        return await self._do(self._find, organization, question)

    def _find(self, organization: str, question: Question) -> Sequence[Found]:
        told: dict[str, Any] = {
            "generation": self._generation(),
            "organization": organization,
            "visit_type": question.visit_type_id and str(question.visit_type_id),
            "location": question.location_id and str(question.location_id),
            "otherwise": None if question.about_offers else NEVER,
            "limit": question.limit,
            "specialty": question.specialty and folded(question.specialty),
            "language": question.language and folded(question.language),
            "insurer": question.insurer and folded(question.insurer),
        }
        offers = [f"o.{name} = :{name}" for name in ("visit_type", "location") if told[name] is not None]
        offers += [f"o.{question.mode.value}"] if question.mode else []
        offers += ["o.self_bookable"] if question.for_patients else []
        terms = [
            f"EXISTS (SELECT 1 FROM terms t WHERE {_SAME.format('t')} AND t.kind = '{kind}' AND t.term = :{kind})"  # noqa: S608
            for kind in ("specialty", "language", "insurer")
            if told[kind] is not None
        ]
        after = ""
        if question.after is not None:
            after = "AND (at, provider) > (:at, :provider)"
            told |= {"at": question.after[0], "provider": str(question.after[1])}
        earliest = f"SELECT min(o.next) FROM offers o WHERE {' AND '.join([_SAME.format('o'), *offers])}"  # noqa: S608
        # Every value is bound; what is put together here are names of ours.
        rows = self._file.opened().execute(
            f"SELECT entry, at FROM (SELECT e.entry, e.provider, coalesce(({earliest}), :otherwise) AS at"  # noqa: S608
            " FROM entries e WHERE e.generation = :generation AND e.organization = :organization AND NOT e.gone"
            f"{''.join(f' AND {term}' for term in terms)})"
            f" WHERE at IS NOT NULL {after} ORDER BY at, provider LIMIT :limit",
            told,
        )
        return [Found(Entry.model_validate_json(entry), when) for entry, when in rows]

    async def next_generation(self) -> Self:
        await self.clean()
        made = copy(self)
        made._pinned = await self._do(self._generation) + 1
        return made

    async def go_live(self) -> None:
        await self._do(self._go_live)

    def _go_live(self) -> None:
        if self._pinned is not None:
            with self._file.opened() as writing:
                writing.execute("UPDATE generations SET live = ?", (self._pinned,))
            self._pinned = None

    async def clean(self) -> None:
        await self._do(self._clean)

    def _clean(self) -> None:
        with self._file.opened() as writing:
            writing.execute("BEGIN IMMEDIATE")
            live = self._generation()
            for table in ("positions", "entries", "terms", "offers"):
                writing.execute(f"DELETE FROM {table} WHERE generation <> ?", (live,))  # noqa: S608


class _File:
    """The file, opened by the thread that works with it, and begun anew where it can't be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._open()
            except sqlite3.OperationalError:
                # Locked, no room, no rights: not the file's fault.
                raise
            except sqlite3.DatabaseError:
                self._begin_anew()
                self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        # Opened for all transactions to be begun by hand.
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            (shape,) = connection.execute("PRAGMA user_version").fetchone()
            if shape not in (0, _SHAPE) or connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError
            if shape == 0:
                connection.executescript(f"BEGIN;{_TABLES}PRAGMA user_version = {_SHAPE};COMMIT;")
        except BaseException:
            connection.close()
            raise
        return connection

    def _begin_anew(self) -> None:
        for end in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + end).unlink(missing_ok=True)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _microseconds(instant: datetime) -> int:
    return (instant - _EPOCH) // _MICROSECOND


def _instant(microseconds: int) -> datetime:
    return _EPOCH + microseconds * _MICROSECOND

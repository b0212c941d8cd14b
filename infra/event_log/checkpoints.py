"""Signed checkpoints of the log, kept outside the database.

In: rows as they are written. Out: lines in a file, each with the Merkle root over the log so far and its signature.
Whoever holds the file sees a log that was cut off or rewritten, even by the database's superuser.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, Self

import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from domain.ports import LogUnavailable
from infra.event_log.codec import canonical
from infra.event_log.connections import application_name
from infra.event_log.merkle import Frontier
from infra.event_log.rows import FIRST_HASH, instant, leaf_of, link
from infra.event_log.scan import position_in, recorded_at_in, row_and_hash, tuples
from infra.key_files import read_or_make, sync_folder
from infra.troubles import CannotStart

FILE: Final = "checkpoints.jsonl"
_PURPOSE: Final = b"daybook checkpoint v1\x00"
_HASH_AT: Final = (
    "SELECT hash FROM all_events WHERE position = %s"
    " UNION ALL SELECT hash FROM archive_parts WHERE upto = %s AND detached_at IS NOT NULL"
)
_STEP: Final = 500
_PAUSE: Final = 1.0

_log = logging.getLogger(__name__)


class LogAltered(Exception):
    """The rows do not continue what was signed before. Names the first position that does not."""

    def __init__(self, position: int, why: str) -> None:
        super().__init__(f"position {position}: {why}")
        self.position = position


class AnotherSigner(CannotStart):
    """The key at hand is not the one that signed the log so far, and was not put in its place on purpose."""

    def __init__(self, folder: Path, key: str, last: str) -> None:
        super().__init__(
            f"The checkpoints in {folder} were signed by the key {last}, and checkpoints.ed25519 is another, {key}. "
            "Bring the former file back from the copy of the keys folder, or where it is lost for good, `daybook keys "
            "rotate checkpoints`."
        )


class CheckpointsBusy(Exception):
    """Another process writes checkpoints into the same folder."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log up to and including position `size`.

    `root` is the RFC 9162 root over its leaves, `hash` the chain's, `recorded_at` the last event's. `frontier` holds
    the roots of the perfect subtrees, from which the tree goes on; it is not signed, since the root follows from it.
    """

    size: int
    root: bytes
    hash: bytes
    recorded_at: datetime
    signed_at: datetime
    key: str
    signature: bytes
    frontier: tuple[bytes, ...]

    def signed_words(self) -> bytes:
        return _words(self.size, self.root, self.hash, self.recorded_at, self.signed_at, self.key)

    def line(self) -> bytes:
        return canonical(
            {
                "size": self.size,
                "root": self.root.hex(),
                "hash": self.hash.hex(),
                "recorded_at": self.recorded_at.isoformat(),
                "signed_at": self.signed_at.isoformat(),
                "key": self.key,
                "signature": self.signature.hex(),
                "frontier": [root.hex() for root in self.frontier],
            }
        )

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Raises `ValueError` for what is no checkpoint."""
        try:
            fields = json.loads(line)
            return cls(
                size=int(fields["size"]),
                root=bytes.fromhex(fields["root"]),
                hash=bytes.fromhex(fields["hash"]),
                recorded_at=datetime.fromisoformat(fields["recorded_at"]),
                signed_at=datetime.fromisoformat(fields["signed_at"]),
                key=str(fields["key"]),
                signature=bytes.fromhex(fields["signature"]),
                frontier=tuple(bytes.fromhex(root) for root in fields["frontier"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("the line is no checkpoint") from error


def _words(size: int, root: bytes, hash: bytes, recorded_at: datetime, signed_at: datetime, key: str) -> bytes:
    return _PURPOSE + canonical(
        {
            "size": size,
            "root": root.hex(),
            "hash": hash.hex(),
            "recorded_at": recorded_at.isoformat(),
            "signed_at": signed_at.isoformat(),
            "key": key,
        }
    )


def key_id(public: bytes) -> str:
    """The name of an Ed25519 public key (32 bytes) in checkpoints."""
    return sha256(public).hexdigest()[:16]


class SigningKey:
    """An Ed25519 key (RFC 8032) from 32 secret bytes."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)
        self.public = self._key.public_key().public_bytes_raw()
        self.id = key_id(self.public)

    @classmethod
    def at(cls, path: Path) -> Self:
        """From a file, made on first start. Raises `PermissionError`, `ValueError`."""
        return cls(read_or_make(path))

    def sign_words(self, words: bytes) -> bytes:
        """An Ed25519 signature of anything else that is signed beside the log. The words begin with what they are for,
        so that no signature is ever taken for another kind's."""
        return self._key.sign(words)

    def sign(self, frontier: Frontier, hash: bytes, recorded_at: datetime, signed_at: datetime) -> Checkpoint:
        root = frontier.root()
        signature = self._key.sign(_words(frontier.size, root, hash, recorded_at, signed_at, self.id))
        return Checkpoint(frontier.size, root, hash, recorded_at, signed_at, self.id, signature, tuple(frontier.roots))


def is_signed(checkpoint: Checkpoint, keys: Mapping[str, bytes]) -> bool:
    """Whether one of the public keys, by their ids, signed the checkpoint."""
    public = keys.get(checkpoint.key)
    if public is None:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(checkpoint.signature, checkpoint.signed_words())
    except (InvalidSignature, ValueError):
        return False
    return True


def read_checkpoints(folder: Path) -> Sequence[Checkpoint | None]:
    """Every line of the file, None for one that is no checkpoint. A last line without its end, torn by a crash, is left
    out; a folder without the file has none."""
    try:
        lines = (folder / FILE).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [_read_or_none(line) for line in lines]


def _read_or_none(line: bytes) -> Checkpoint | None:
    try:
        return Checkpoint.read(line)
    except ValueError:
        return None


def public_keys(folder: Path) -> dict[str, bytes]:
    """The public keys that lie beside the checkpoints, by their ids. Good against faults; against someone who may write
    into the folder, an auditor keeps copies."""
    keys = (bytes.fromhex(path.read_text().strip()) for path in sorted(folder.glob("*.pub")))
    return {key_id(public): public for public in keys}


def publish(folder: Path, key: SigningKey) -> None:
    """Lay the public key beside the checkpoints: from then on it may sign them."""
    folder.mkdir(parents=True, exist_ok=True)
    path, words = folder / f"{key.id}.pub", key.public.hex().encode() + b"\n"
    if path.exists() and path.read_bytes() == words:
        return
    # Brought to disk before anything that it signs: without it that would be taken for damaged, or for a stranger's.
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(words)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(folder)


def check_signer(folder: Path, key: SigningKey) -> None:
    """Raises `AnotherSigner` where the log was signed, and this key is unknown beside the checkpoints."""
    try:
        whole = (folder / FILE).read_bytes().rpartition(b"\n")[0]
    except FileNotFoundError:
        return
    last = _read_or_none(whole.rpartition(b"\n")[2])
    if last is not None and key.id not in (last.key, *public_keys(folder)):
        raise AnotherSigner(folder, key.id, last.key)


class CheckpointFile:
    """The file of checkpoints, opened for writing by one process."""

    def __init__(self, folder: Path) -> None:
        """Cuts off a torn last line. Raises `CheckpointsBusy`, and `ValueError` when a whole line is damaged."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CheckpointsBusy(str(folder)) from None
            sync_folder(folder)
            self.last = self._recover()
        except BaseException:
            os.close(self._descriptor)
            raise

    def _recover(self) -> Checkpoint | None:
        written = (self._folder / FILE).read_bytes()
        whole = written[: written.rfind(b"\n") + 1]
        if len(whole) < len(written):
            os.ftruncate(self._descriptor, len(whole))
            os.fsync(self._descriptor)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        lines = whole.splitlines()
        return Checkpoint.read(lines[-1]) if lines else None

    def append(self, checkpoint: Checkpoint) -> None:
        """Write a line and bring it to disk."""
        line = checkpoint.line() + b"\n"
        while line:
            line = line[os.write(self._descriptor, line) :]
        os.fsync(self._descriptor)
        self.last = checkpoint

    def close(self) -> None:
        os.close(self._descriptor)


class Checkpointer:
    """Follows the log and signs it whenever `events` events, or any within `seconds` seconds, are not signed yet.

    `wait(after, timeout)` is the log's own. Where the rows do not continue the last checkpoint it stops and keeps the
    reason as `fault`: an altered log is never signed.
    """

    def __init__(
        self,
        dsn: str,
        folder: Path,
        key: SigningKey,
        wait: Callable[[int, float], Awaitable[int]],
        *,
        events: int = 10_000,
        seconds: float = 60.0,
    ) -> None:
        """Raises `CheckpointsBusy`, `AnotherSigner`, and `ValueError` when the last checkpoint is damaged."""
        self._dsn = dsn
        self._key = key
        self._wait = wait
        self._events = events
        self._seconds = seconds
        self._file = CheckpointFile(folder)
        try:
            check_signer(folder, key)
            publish(folder, key)
            last = self._file.last
            self._frontier = Frontier(last.size, last.frontier) if last else Frontier()
            if last and not (self._frontier.root() == last.root and is_signed(last, public_keys(folder))):
                raise ValueError("the last checkpoint is damaged")
        except BaseException:
            self._file.close()
            raise
        self._hash = last.hash if last else FIRST_HASH
        self._recorded_at = last.recorded_at if last else datetime.now(UTC)
        self._continues = last is None
        self._connection: psycopg.Connection[Any] | None = None
        self._task: asyncio.Task[None] | None = None
        self._signing = asyncio.Lock()
        self.fault: LogAltered | None = None

    @property
    def size(self) -> int:
        """The position up to which the log is signed."""
        return self._file.last.size if self._file.last else 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Sign what is there, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
            self._task = None
        try:
            if self.fault is None:
                await self._sign()
        except (psycopg.Error, OSError, LogAltered) as error:
            _log.warning("the log is not signed to its end (%s)", type(error).__name__)
        finally:
            self._disconnect()
            self._file.close()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _run(self) -> None:
        while True:
            try:
                if await self._wait(self.size + self._events - 1, self._seconds) > self.size or not self._continues:
                    # A thread can't be stopped half-way; `close` waits for it.
                    await asyncio.shield(self._sign())
            except LogAltered as fault:
                self.fault = fault
                _log.critical("the event log was altered: %s", fault)
                return
            except (psycopg.Error, OSError, LogUnavailable) as error:
                _log.warning("the log can't be signed now (%s)", type(error).__name__)
                self._disconnect()
                await asyncio.sleep(_PAUSE)

    async def _sign(self) -> None:
        async with self._signing:
            # In a thread, and in short steps: others want the interpreter too.
            head = await asyncio.to_thread(self._head)
            while self._frontier.size < head:
                await asyncio.to_thread(self._read, min(head, self._frontier.size + _STEP))
            if head > self.size:
                checkpoint = self._key.sign(self._frontier, self._hash, self._recorded_at, datetime.now(UTC))
                await asyncio.to_thread(self._file.append, checkpoint)

    def _head(self) -> int:
        if self._connection is None or self._connection.closed:
            name = application_name(self._dsn, "checkpoints")
            self._connection = psycopg.connect(self._dsn, autocommit=True, connect_timeout=3, application_name=name)
        row = self._connection.execute("SELECT position FROM log_head").fetchone()
        head = int(row[0]) if row else 0
        if head < self._frontier.size:
            raise LogAltered(head + 1, "signed before, and gone")
        if not self._continues:
            found = self._connection.execute(
                _HASH_AT, (self._frontier.size, self._frontier.size), binary=True
            ).fetchone()
            if found != (self._hash,):
                raise LogAltered(self._frontier.size, "does not carry the hash that was signed")
            self._continues = True
        return head

    def _read(self, upto: int) -> None:
        if self._connection is None:
            raise psycopg.OperationalError("not connected")
        for data in tuples(self._connection, self._frontier.size, upto):
            row, hash = row_and_hash(data)
            expected = self._frontier.size + 1
            if position_in(row) != expected:
                raise LogAltered(expected, "gone")
            leaf = leaf_of(row)
            if link(self._hash, leaf) != hash:
                raise LogAltered(expected, "does not continue the chain")
            self._frontier.append(leaf)
            self._hash = hash
            self._recorded_at = instant(recorded_at_in(row))
        if self._frontier.size != upto:
            raise LogAltered(self._frontier.size + 1, "gone")

"""The folder that holds everything of one embedded Daybook. In: its path. Out: its parts, its lock, its sockets.

Three locks (`flock`, which the kernel lets go with the process, however it ends):

- `lock`: the one process that serves or imports, and so holds the ClickHouse engine and the follower.
- `starting`: held for the moments in which embedded servers are brought up or taken down.
- `in-use`: shared by every process that speaks with the embedded servers; the last one out stops them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from infra.troubles import CannotStart, DataInUse

# `sun_path` has 108 bytes on Linux and 104 on macOS, a closing zero included.
LONGEST_SOCKET = 103
_LONGEST_NAME = len("/postgres/.s.PGSQL.5432")

_ACL = "system.posix_acl_access"
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_NOBODY = 0xFFFFFFFF
_SEARCH = 0o1


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the folder: `what` is the command (`serve`, `import`), `url` where it answers HTTP, if it does."""

    what: str
    pid: int
    url: str | None = None


class Claim:
    """The right to be the one serving or importing process. Let go by `close()`, or by the end of the process."""

    def __init__(self, file: IO[str], what: str, url: str | None) -> None:
        self._file = file
        self._what = what
        self._describe(url)

    def announce(self, url: str) -> None:
        self._describe(url)

    def _describe(self, url: str | None) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(json.dumps(asdict(Holder(self._what, os.getpid(), url))))
        self._file.flush()

    def close(self) -> None:
        if not self._file.closed:
            with contextlib.suppress(OSError):
                self._file.truncate(0)
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class DataFolder:
    """The parts of a data folder; made on first use, readable by their owner alone."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.keys = self.path / "keys"
        self.checkpoints = self.path / "checkpoints"
        self.logs = self.path / "logs"
        self.postgres = self.path / "postgres"
        self.redis = self.path / "redis"
        self.clickhouse = self.path / "clickhouse"
        self._sockets: Path | None = None

    @classmethod
    def open(cls, path: Path) -> DataFolder:
        """Make the folder and its parts where they are missing. Raises `CannotStart`."""
        folder = cls(path)
        try:
            if not folder.path.exists():
                folder.path.mkdir(mode=0o700, parents=True)
            elif not (folder.path / "lock").exists() and any(folder.path.iterdir()):
                raise CannotStart(
                    f"{folder.path} holds other things than Daybook's data. Name an empty or a new folder with DATA=…"
                )
            folder.path.joinpath("lock").touch(mode=0o600)
            for part in (folder.keys, folder.checkpoints, folder.logs, folder.redis, folder.clickhouse):
                part.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise CannotStart(
                f"The data folder {folder.path} can't be made: {error.strerror}. Choose another with DATA=…"
            ) from error
        owner = folder.path.stat()
        if owner.st_uid != os.geteuid():
            raise CannotStart(
                f"The data folder {folder.path} belongs to user {owner.st_uid} and this process runs as "
                f"{os.geteuid()}. Run as its owner, or choose another with DATA=…"
            )
        if owner.st_mode & 0o077 and not _has_acl(folder.path):
            folder.path.chmod(0o700)
        return folder

    @property
    def sockets(self) -> Path:
        """Where Unix sockets stand: inside the folder, or where its path is too long for one, in a private folder whose
        name is made from the path."""
        if self._sockets is None:
            inside = self.path / "run"
            if len(os.fsencode(inside)) + _LONGEST_NAME <= LONGEST_SOCKET:
                inside.mkdir(mode=0o700, exist_ok=True)
                self._sockets = inside
            else:
                self._sockets = _private_folder(self.path)
        return self._sockets

    @property
    def control_socket(self) -> Path:
        return self.sockets / "control.sock"

    @property
    def redis_socket(self) -> Path:
        return self.sockets / "redis.sock"

    @property
    def postgres_sockets(self) -> Path:
        return self.sockets / "postgres"

    def claim(self, what: str, url: str | None = None) -> Claim:
        """Become the one process that serves or imports. Raises `DataInUse`, naming the other."""
        file = (self.path / "lock").open("a+", encoding="utf-8")
        try:
            os.chmod(file.fileno(), 0o600)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise DataInUse(self._words(self.holder())) from None
        return Claim(file, what, url)

    def holder(self) -> Holder | None:
        """Who serves or imports on this folder now; None when nobody does."""
        try:
            with (self.path / "lock").open("r", encoding="utf-8") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    text = file.read()
                else:
                    return None
        except FileNotFoundError:
            return None
        try:
            return Holder(**json.loads(text))
        except (ValueError, TypeError):
            return Holder("another command", 0)

    def _words(self, holder: Holder | None) -> str:
        if holder is None or not holder.pid:
            return f"Another process uses the data in {self.path}. Try again when it has ended."
        if holder.what == "serve":
            where = holder.url or str(self.path)
            return (
                f"Daybook already runs on this data: {where}, pid {holder.pid}. Use that one, stop it first, or start "
                "on other data with DATA=…"
            )
        if holder.what == "stack":
            return (
                f"The full stack runs on this data (pid {holder.pid}). To speak with it, take its settings into the "
                f"shell: set -a; . {self.path}/stack.env; set +a. Or stop it: daybook stack down"
            )
        return (
            f"`daybook {holder.what}` (pid {holder.pid}) works on this data: {self.path}. "
            "Try again when it has ended, or use other data with DATA=…"
        )

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Alone with the embedded servers, while they are brought up or taken down."""
        with (self.path / "starting").open("a") as file:
            os.chmod(file.fileno(), 0o600)
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def use(self) -> Use:
        """Say that this process speaks with the embedded servers."""
        file = (self.path / "in-use").open("a")
        os.chmod(file.fileno(), 0o600)
        fcntl.flock(file, fcntl.LOCK_SH)
        return Use(file)


class Use:
    """One process's share in the embedded servers."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def last(self) -> bool:
        """Whether no other process uses them. Ask only while alone by `DataFolder.starting`."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        self._file.close()


def _private_folder(path: Path) -> Path:
    """A short folder of our own for sockets. Refuses one that somebody else put there, which could lend them ours."""
    name = f"daybook-{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:16]}"
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")
    if not (base.is_dir() and base.stat().st_uid == os.geteuid() and len(os.fsencode(base)) < 40):
        base, name = Path("/tmp"), f"{name}-{os.geteuid()}"  # noqa: S108
    folder = base / name
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    open_to_others = found.st_mode & 0o077 and not _has_acl(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or open_to_others:
        raise CannotStart(
            f"{folder}, meant for sockets, is not a private folder of this user. Remove it, or move DATA."
        )
    return folder


def let_in(path: Path, uid: int) -> None:
    """Let one other user walk through the folders down to `path`, and no more: an ACL entry `u:UID:--x` on each folder
    that shuts that user out, which opens it to nobody else. Raises `CannotStart` where the file system has no ACLs."""
    for folder in reversed([path, *path.parents]):
        found = folder.stat()
        if found.st_mode & 0o001 or found.st_uid == uid:
            continue
        try:
            _allow_search(folder, found.st_mode, uid)
        except (OSError, AttributeError) as error:
            raise CannotStart(
                f"Postgres does not run as root, and the user it runs as can't enter {folder}. "
                f"Run Daybook as an ordinary user, or choose a folder that every user can reach, as in "
                f"DATA=/var/lib/daybook."
            ) from error


def _allow_search(folder: Path, mode: int, uid: int) -> None:
    entries: dict[tuple[int, int], int] = {
        (_USER_OBJ, _NOBODY): mode >> 6 & 7,
        (_GROUP_OBJ, _NOBODY): mode >> 3 & 7,
        (_OTHER, _NOBODY): mode & 7,
    }
    if _has_acl(folder):
        value = os.getxattr(folder, _ACL)
        entries = {(tag, who): allowed for tag, allowed, who in struct.iter_unpack("<HHI", value[4:])}
    entries[_USER, uid] = entries.get((_USER, uid), 0) | _SEARCH
    # Widening the mask must not widen what the group entries mean, so each is cut to the old mask first.
    mask = entries.get((_MASK, _NOBODY), 7)
    for key in entries:
        if key[0] in (_GROUP_OBJ, _GROUP) or (key[0] == _USER and key[1] != uid):
            entries[key] &= mask
    entries[_MASK, _NOBODY] = 0
    for key, allowed in entries.items():
        if key[0] in (_GROUP_OBJ, _GROUP, _USER):
            entries[_MASK, _NOBODY] |= allowed
    packed = b"".join(struct.pack("<HHI", tag, allowed, who) for (tag, who), allowed in sorted(entries.items()))
    os.setxattr(folder, _ACL, struct.pack("<I", 2) + packed)


def _has_acl(path: Path) -> bool:
    try:
        os.getxattr(path, _ACL)
    except (OSError, AttributeError):
        return False
    return True

"""Secrets in files that their owner alone may read, made on first start."""

from __future__ import annotations

import os
from pathlib import Path


def read_or_make(path: Path, length: int = 32) -> bytes:
    """The random bytes in the file, made and brought to disk where there is none. Several processes may ask at once.

    Raises `PermissionError` when others may read the file, `ValueError` when it holds something else.
    """
    if not path.exists():
        # Linked into place when whole, so that nobody ever reads half a key.
        draft = _draft(path, length)
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        sync_folder(path.parent)
    return read(path, length, group=False)


def replace(path: Path, length: int = 32) -> bytes:
    """Put new random bytes in the place of the file, there or not, and return them."""
    os.replace(_draft(path, length), path)
    sync_folder(path.parent)
    return read(path, length, group=False)


def _draft(path: Path, length: int) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(os.urandom(length))
        file.flush()
        os.fsync(file.fileno())
    return draft


def read(path: Path, length: int = 32, *, group: bool = True) -> bytes:
    """The bytes in the file. Raises as `read_or_make` does, and `FileNotFoundError`.

    `group` allows the file's group to read it, as a secret that is mounted into a container is shared by its group.
    """
    if path.stat().st_mode & (0o027 if group else 0o077):
        raise PermissionError(f"{path.name} may be read by others; its mode is to be {'0640' if group else '0600'}")
    secret = path.read_bytes()
    if len(secret) != length:
        raise ValueError(f"{path.name} does not hold {length} bytes")
    return secret


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

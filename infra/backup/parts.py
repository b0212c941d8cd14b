"""The files of a backup: items go in, compressed files that never change come out, each known by its SHA-256.

An item is a row as PostgreSQL's binary COPY gives and takes it, or a line of text. A file, unpacked, is the number of
items, the length of each, all as big-endian 32-bit numbers, and then the items one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import Struct, error, unpack_from
from typing import Any, Final, Self

import cramjam

# A part is full with this many items, or this many bytes.
FULL: Final = 1 << 15
HEAVY: Final = 32 << 20
# So many small parts at the end become one.
_MERGED: Final = 16
_LEVEL: Final = 3
_COUNT: Final = Struct(">I")


class Damaged(Exception):
    """A file of the backup is not as it was written. `why` says how; it holds nothing of what the file holds."""

    def __init__(self, file: str, why: str) -> None:
        super().__init__(f"{file}: {why}")
        self.file = file
        self.why = why


@dataclass(frozen=True, slots=True)
class Part:
    """One file with the items from number `first` to `last` of their kind, which for rows are positions; `raw` is its
    length in bytes when unpacked. `hash` is the chain's at the last row; `latest` the greatest `recorded_at` of
    remembered commands, in microseconds since 2000-01-01Z."""

    file: str
    first: int
    last: int
    items: int
    raw: int
    size: int
    sha256: bytes
    hash: bytes = b""
    latest: int = 0

    def as_json(self) -> dict[str, Any]:
        told = {"file": self.file, "first": self.first, "last": self.last, "items": self.items, "raw": self.raw}
        return {
            **told,
            "size": self.size,
            "sha256": self.sha256.hex(),
            "hash": self.hash.hex(),
            "latest": self.latest,
        }

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> Self:
        """Raises `KeyError`, `TypeError`, `ValueError` for what is no part, a path out of the folder among them."""
        file = str(found["file"])
        if Path(file).name != file or file.startswith("."):
            raise ValueError("a part lies in the folder itself")
        first, last, items, raw, size = (int(found[name]) for name in ("first", "last", "items", "raw", "size"))
        return cls(
            file,
            first,
            last,
            items,
            raw,
            size,
            bytes.fromhex(found["sha256"]),
            bytes.fromhex(found["hash"]),
            int(found["latest"]),
        )


def write(
    folder: Path, kind: str, run: int, first: int, items: Sequence[bytes], *, hash: bytes = b"", latest: int = 0
) -> Part:
    """Write a part and bring it to disk. What another run wrote is never written over."""
    last = first + len(items) - 1
    lengths = b"".join((_COUNT.pack(len(items)), *(_COUNT.pack(len(item)) for item in items)))
    raw = b"".join((lengths, *items))
    data = bytes(cramjam.zstd.compress(raw, level=_LEVEL))
    part = Part(
        f"{kind}-{first:012}-{last:012}-{run:08}.zst",
        first,
        last,
        len(items),
        len(raw),
        len(data),
        sha256(data).digest(),
        hash,
        latest,
    )
    put(folder, part.file, data)
    return part


def put(folder: Path, name: str, data: bytes) -> None:
    """Put a file in its place, whole or not at all, readable by its owner alone."""
    draft = folder / f".{name}.tmp"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, folder / name)


@dataclass(frozen=True, slots=True)
class Content:
    """What a part holds. `packed` is all its items, one after the other."""

    items: Sequence[bytes]
    packed: memoryview


def unpack(folder: Path, part: Part, *, trusting: bool = False) -> Content:
    """Read a part. `trusting` leaves its SHA-256 aside, for who looks where the damage is. Raises `Damaged`."""
    try:
        data = (folder / part.file).read_bytes()
    except OSError as missing:
        raise Damaged(part.file, "missing" if isinstance(missing, FileNotFoundError) else "can't be read") from missing
    if not trusting and (len(data) != part.size or sha256(data).digest() != part.sha256):
        raise Damaged(part.file, "altered")
    raw = bytearray(part.raw)
    try:
        if cramjam.zstd.decompress_into(data, raw) != part.raw:
            raise Damaged(part.file, "cut off")
        (count,) = _COUNT.unpack_from(raw)
        if count != part.items:
            raise Damaged(part.file, "holds another number of items")
        lengths = unpack_from(f">{count}I", raw, 4)
    except (cramjam.DecompressionError, error) as broken:
        raise Damaged(part.file, "can't be unpacked") from broken
    start = 4 + 4 * count
    if start + sum(lengths) != part.raw:
        raise Damaged(part.file, "does not hold what it says")
    whole = bytes(raw)
    return Content(tuple(_cut(whole, start, lengths)), memoryview(whole)[start:])


def _cut(whole: bytes, start: int, lengths: Sequence[int]) -> Iterator[bytes]:
    for length in lengths:
        end = start + length
        yield whole[start:end]
        start = end


def merged(folder: Path, kind: str, run: int, parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts, of which the small ones at the end have become one where they were many. Raises `Damaged`."""
    items = raw = count = 0
    for part in reversed(parts):
        items, raw = items + part.items, raw + part.raw
        if items > FULL or raw > HEAVY:
            break
        count += 1
    if count < _MERGED:
        return tuple(parts)
    small = parts[-count:]
    held = [item for part in small for item in unpack(folder, part).items]
    last = small[-1]
    latest = max(part.latest for part in small)
    one = write(folder, kind, run, small[0].first, held, hash=last.hash, latest=latest)
    return (*parts[:-count], one)

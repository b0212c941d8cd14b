"""In which part of a partitioned topic a stream arrives. In: a stream's full name. Out: a partition, and its name."""

from __future__ import annotations

from typing import Final
from zlib import crc32

PARTS: Final = 12


def part_of(organization_stream: str, parts: int) -> int:
    """The part, from 0 on, of a stream by its full name, `organization/kind/id`.

    Read models keep what this gave beside their rows, so it never changes (docs/decisions/0050-relay.md)."""
    return crc32(organization_stream.encode()) % parts


def part_name(number: int, parts: int) -> str:
    """The name under which read models know a part: "3/12"."""
    return f"{number}/{parts}"

"""A part's messages on their way to being a batch: gathered, put in order, repeats dropped, checked by their manifest.

In: messages of one partition, as they come. Out: batches that say whether they are whole. Nothing here trusts the
topic: a batch of which something is missing says so, and is then read from the log.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NamedTuple, Self


@dataclass(frozen=True, slots=True)
class Manifest:
    """ "Of the positions after `after` up to `upto`, exactly `events` events went to this partition.\""""

    after: int
    upto: int
    events: int

    def to_json(self) -> bytes:
        return b'{"after":%d,"upto":%d,"events":%d}' % (self.after, self.upto, self.events)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Raises `ValueError` for what is none."""
        known = json.loads(data)
        if not isinstance(known, dict) or known.keys() != {"after", "upto", "events"}:
            raise ValueError("not a manifest")
        after, upto, events = known["after"], known["upto"], known["events"]
        if not all(type(value) is int for value in (after, upto, events)) or not 0 <= after < upto or events < 0:
            raise ValueError("not a manifest")
        return cls(after, upto, events)


class Arrived(NamedTuple):
    """What arrived at one place of a partition: a `row` of the log with its position and its stream's full name, or a
    manifest, or neither, which is junk. `at` is when it was sent, in seconds since 1970 (UTC)."""

    offset: int
    at: float
    position: int
    stream: str
    row: Any
    manifest: Manifest | None

"""What an auditor asks of the log: who, whose, why, when. In: answers to these. Out: the events that fit them all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from domain.ports import LogUnavailable, Recorded


class InquiryTooLong(LogUnavailable):
    """The answer takes longer than whoever asks may wait. The log is well; asking for less helps, again does not."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """None and empty ask for nothing. `person` is a patient, an account or anybody by id: what they did, what was done
    for them, and what speaks of them. `first` and `last` are instants, both included, of `recorded_at`; `after` and
    `upto` positions, the first one excluded."""

    organization: str | None = None
    person: str | None = None
    actor: str | None = None
    on_behalf_of: str | None = None
    purpose: str | None = None
    names: frozenset[str] = frozenset()
    stream: str | None = None
    first: datetime | None = None
    last: datetime | None = None
    after: int = 0
    upto: int | None = None


class Inquiries(Protocol):
    def answered(self, inquiry: Inquiry) -> AsyncIterator[Recorded]:
        """The events that fit, in the order of their positions. Raises `LogUnavailable`, `InquiryTooLong`,
        `UnreadableEvent`."""

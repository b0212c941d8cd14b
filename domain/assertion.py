"""A client's signed assertion (RFC 7523 §2.2), good once: one stream an assertion, so that the log itself decides who
came first.

In: a client and the hash of the assertion's id. Out: an event.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, NamedTuple
from uuid import UUID

from domain.events import Event


class AssertionId(NamedTuple):
    """`id` is the SHA-256 of what the client called it (`jti`), cut to an id (RFC 9562 §5.8)."""

    client_id: UUID
    id: UUID


class ClientAssertionUsed(Event):
    """A client showed who it is by a signature. `until` is when the assertion would have run out."""

    NAME: ClassVar[str] = "ClientAssertionUsed.v1"
    client_id: UUID
    assertion_id: UUID
    until: datetime


def stream(key: AssertionId) -> str:
    return f"assertion/{key.client_id}/{key.id}"


def evolve(state: ClientAssertionUsed | None, event: Event) -> ClientAssertionUsed:
    if not isinstance(event, ClientAssertionUsed):
        raise TypeError(f"{type(event).__name__} is not an event of an assertion")
    return event

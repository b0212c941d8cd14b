"""From where somebody asks: the address and the programme behind a command or a look.

In: what the connection and its headers say. Out: one event for each origin, written before the first thing that comes
from it. What is asked from there names it as its cause, so the address stands beside every event and is sealed once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from uuid import UUID

from domain.events import Event, Personal


class OriginSeen(Event):
    """`person` is the account that asked, or where a token names none the patient that it is for, or the actor; and
    where there is no token the account that was shown to be theirs, or all strangers of a month. Its key seals where
    they were. `address` is as `ipaddress` writes it, "" where the connection has none or strangers are too many;
    `agent` is the User-Agent, cut short."""

    NAME: ClassVar[str] = "OriginSeen.v1"
    QUIET: ClassVar[bool] = True
    PERSON: ClassVar[str] = "person"
    origin_id: UUID
    person: str
    session_id: UUID | None = None
    client_id: str | None = None
    address: Personal[str]
    agent: Personal[str] | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    id: UUID


def stream(origin_id: UUID) -> str:
    return f"origin/{origin_id}"


def evolve(state: Origin | None, event: Event) -> Origin:
    match event:
        case OriginSeen():
            return Origin(event.origin_id)
    raise TypeError(f"{type(event).__name__} is not an event of an origin")

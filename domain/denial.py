"""Requests that were turned away: tokens that open nothing, doors that are not theirs, too many at once.

In: what the HTTP side refused. Out: one event for many alike, so that whoever knocks all night fills no log.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final
from uuid import UUID

from domain.events import Event, Personal

# Who knocks without a token that tells who they are; what stands in the log's column for the actor.
STRANGER: Final = "stranger"


class AccessRefused(Event):
    """`times` requests for one `operation` were refused with one `code`, between two instants. Where the actor is known
    it stands beside the event. `operation` is the route's name, "" for several, or none.

    `address` is None where so many were refused that addresses were no longer told apart. It is sealed with the key of
    `whose`: the actor's account, or the patient that a token without one is for; the account that a stranger had shown
    to be theirs before they were refused; or all strangers of one month, whose addresses are forgotten together.
    """

    NAME: ClassVar[str] = "AccessRefused.v1"
    QUIET: ClassVar[bool] = True
    PERSON: ClassVar[str] = "whose"
    whose: str
    code: str
    operation: str
    times: int
    first_at: datetime
    last_at: datetime
    address: Personal[str] | None = None


def stream(denial_id: UUID) -> str:
    """`denial_id` is a UUIDv7, so that names are in the order of time."""
    return f"denial/{denial_id}"


STRANGERS: Final = "strangers-"


def strangers(month: datetime | str) -> str:
    """Whose key seals where strangers of that month (`2026-11`), or of an instant's, were."""
    return STRANGERS + (month if isinstance(month, str) else f"{month:%Y-%m}")

"""What must hold of any log, however it came to be."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from domain.availability import PageEvent, ReservationConfirmed, TimeReleased, TimeReserved
from domain.ports import Recorded
from domain.time import Period


@dataclass(slots=True)
class _Stay:
    occupied: Period
    session: UUID
    seats: int
    held_until: datetime | None


def assert_never_double_booked(history: Iterable[Recorded], *, allowance: int = 0) -> int:
    """Walk the log from its start. At every moment at which a time was taken, whatever was live then leaves it room.

    Holds count until their own end by the clock of the event that takes the time. Returns how many were taken."""
    taken = 0
    live: dict[tuple[str, UUID], dict[UUID, _Stay]] = defaultdict(dict)
    for recorded in history:
        event = recorded.event
        if not isinstance(event, PageEvent):
            continue
        stays = live[recorded.organization, event.resource_id]
        match event:
            case TimeReserved():
                stay = _Stay(event.occupied, event.session_id, event.seats, event.held_until)
                if (known := stays.get(event.appointment_id)) is not None and known == stay:
                    continue  # the second page of one that crosses midnight
                taken += 1
                stays[event.appointment_id] = stay
                _assert_room(recorded, event, stays, allowance)
            case ReservationConfirmed():
                stays[event.appointment_id].held_until = None
                _assert_room(recorded, event, stays, allowance)
            case TimeReleased():
                stays.pop(event.appointment_id, None)
    return taken


def _assert_room(
    recorded: Recorded, event: TimeReserved | ReservationConfirmed, stays: dict[UUID, _Stay], allowance: int
) -> None:
    mine = stays[event.appointment_id]
    now = recorded.occurred_at
    rivals = [
        stay
        for key, stay in stays.items()
        if key != event.appointment_id
        and stay.occupied.overlaps(mine.occupied)
        and (stay.held_until is None or now < stay.held_until)
    ]
    mates = [stay for stay in rivals if stay.session == mine.session]
    others = [stay for stay in rivals if stay.session != mine.session]
    assert len(mates) < mine.seats, f"position {recorded.position}: a session is fuller than its seats"
    for at in {mine.occupied.start, *(stay.occupied.start for stay in others)}:
        if mine.occupied.start <= at < mine.occupied.end:
            depth = len({stay.session for stay in others if stay.occupied.start <= at < stay.occupied.end})
            assert depth <= allowance, f"position {recorded.position}: two visits take one time"

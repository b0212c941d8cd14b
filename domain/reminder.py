"""A message about an appointment that left the house. Deciding when to send one comes with messages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar
from uuid import UUID

from domain.events import Event


class Channel(StrEnum):
    SMS = "sms"
    EMAIL = "email"


class ReminderSent(Event):
    NAME: ClassVar[str] = "ReminderSent.v1"
    reminder_id: UUID
    appointment_id: UUID
    patient_id: UUID
    channel: Channel


@dataclass(frozen=True, slots=True)
class Reminder:
    id: UUID
    appointment_id: UUID
    channel: Channel


def stream(reminder_id: UUID) -> str:
    return f"reminder/{reminder_id}"


def evolve(state: Reminder | None, event: Event) -> Reminder:
    match event:
        case ReminderSent():
            return Reminder(event.reminder_id, event.appointment_id, event.channel)
    raise TypeError(f"{type(event).__name__} is not an event of a reminder")

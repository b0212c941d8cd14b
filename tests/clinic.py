"""A plainly invented clinic, opened through the ordinary commands, for tests that need a book to write in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from uuid import UUID, uuid5

from commands.loop import Desk
from commands.patients import RegisterPatient
from commands.providers import Hours, RegisterProvider
from commands.resources import RegisterResource
from domain.access import Actor, Role
from domain.provider import BookingRules, Location, Mode, Money, ResourceKind, VisitType, WallInterval, WeeklyHours
from domain.time import instant_of, zone

_NAMES = UUID("0b8f7f0e-52f0-5c0d-9f65-4d1f4d2d8a11")

ORGANIZATION = "elm-street"
ADMIN = Actor("admin-1", Role.ADMIN)
DESK = Actor("desk-1", Role.FRONT_DESK)
SYSTEM = Actor("sweeper", Role.SYSTEM)

DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def patient_actor(patient_id: UUID) -> Actor:
    return Actor(f"patient-{patient_id}", Role.PATIENT, patient_id=patient_id)


def id_of(word: str) -> UUID:
    """The same id for the same word, so that failures read alike from run to run."""
    return uuid5(_NAMES, word)


def every_day(start: str = "08:00", end: str = "18:00") -> WeeklyHours:
    piece = WallInterval(start=time.fromisoformat(start), end=time.fromisoformat(end))
    return WeeklyHours(**dict.fromkeys(DAYS, (piece,)))


LOCATION = Location(id=id_of("location"), name="Elm Street Practice", time_zone="Europe/Berlin", country="DE")
CHECKUP = VisitType(
    id=id_of("checkup"),
    name="Check-up",
    duration_minutes=30,
    modes=(Mode.IN_PERSON, Mode.TELEMEDICINE),
    fee=Money(amount="80.00", currency="EUR"),
)
BUFFERED = VisitType(
    id=id_of("buffered"), name="Infusion", duration_minutes=30, buffer_before_minutes=10, buffer_after_minutes=20
)
APPROVED = VisitType(id=id_of("approved"), name="Second opinion", duration_minutes=30, approval_needed=True)
GROUP = VisitType(id=id_of("group"), name="Back school", duration_minutes=60, seats=3)
SCAN = VisitType(id=id_of("scan"), name="Scan", duration_minutes=30, needs=(ResourceKind.ROOM,))
VISIT_TYPES = (CHECKUP, BUFFERED, APPROVED, GROUP, SCAN)


@dataclass(frozen=True, slots=True)
class Clinic:
    providers: Sequence[UUID]
    patients: Sequence[UUID]
    rooms: Sequence[UUID]

    @property
    def provider(self) -> UUID:
        return self.providers[0]

    @property
    def patient(self) -> UUID:
        return self.patients[0]


async def open_clinic(
    desk: Desk,
    *,
    organization: str = ORGANIZATION,
    providers: int = 1,
    patients: int = 2,
    rooms: int = 0,
    rules: BookingRules | None = None,
    hours: WeeklyHours | None = None,
    location: Location = LOCATION,
) -> Clinic:
    async def made(command: object, key: str) -> UUID:
        answer = await desk.handle(command, ADMIN, organization)  # type: ignore[arg-type]
        return UUID(answer.content[key])

    opened = RegisterProvider(
        name="Dr. Ada Example",
        locations=(location,),
        visit_types=VISIT_TYPES,
        hours=(Hours(location_id=location.id, hours=hours or every_day()),),
        rules=rules,
    )
    return Clinic(
        [await made(opened, "provider_id") for _ in range(providers)],
        [await made(RegisterPatient(), "patient_id") for _ in range(patients)],
        [
            await made(RegisterResource(kind=ResourceKind.ROOM, name=f"Room {number}"), "resource_id")
            for number in range(rooms)
        ],
    )


def in_days(days: int, hour: int = 9, minute: int = 0) -> datetime:
    """A wall time in Berlin some days from today, as an instant. Days are counted in UTC, far from midnight."""
    day = (datetime.now(UTC) + timedelta(days=days)).date()
    return instant_of(day, time(hour, minute), zone("Europe/Berlin"))

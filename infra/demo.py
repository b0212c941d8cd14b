"""Fills an empty book with an invented clinic. In: a desk, a seed and the present. Out: a book with some weeks of past
and of future, made by the ordinary commands.

The weeks are lived through in order on a clock that is moved along, so that every command is asked when it would have
been, and is refused what it would have been. Names are plainly invented. The same seed and day give the same clinic,
but for the ids.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid5
from zoneinfo import ZoneInfo

from commands.appointments import (
    AcceptAppointment,
    Arrange,
    BookAppointment,
    BookHeldAppointment,
    BookSeries,
    CancelAppointment,
    CheckInPatient,
    CompleteVisit,
    DeclineAppointment,
    HoldAppointment,
    MarkNoShow,
    MoveAppointment,
    StartVisit,
)
from commands.loop import Answer, Command, Desk
from commands.patients import RegisterPatient
from commands.providers import Hours, HoursException, ObservedHolidays, PublishHours, RegisterProvider, TimeOff
from commands.resources import Block, BlockTimes, RegisterResource
from domain.access import Actor, Role
from domain.appointment import CancellationReason, DeclineReason, MoveReason, Outcome, Status
from domain.availability import BlockReason
from domain.patient import HumanName, PatientDetails
from domain.ports import FixedClock
from domain.provider import (
    BookingRules,
    Location,
    Mode,
    Money,
    ResourceKind,
    Specialty,
    TimeOffReason,
    VisitType,
    WallInterval,
    WeeklyHours,
)
from domain.refusals import Refusal
from domain.series import Frequency, Recurrence
from domain.time import DAY, MINUTE, Period, instant_of, zone
from infra.desk import desk_on
from infra.installation import Installation, opened
from infra.settings import Settings
from infra.troubles import Trouble, WrongInput

WEEKS_BEFORE: Final = 4
WEEKS_AFTER: Final = 4
PATIENTS: Final = 60

HOUR: Final = 60 * MINUTE

_NAMES: Final = UUID("5f6d1a0c-2b7e-5d93-8c44-90a1b2c3d4e5")
_ADMIN: Final = Actor("demo-admin", Role.ADMIN)
_DESK: Final = Actor("demo-desk", Role.FRONT_DESK)

# How many of a provider's times in the past and ahead are wanted by somebody.
_BUSY_BEFORE: Final = 0.7
_BUSY_AFTER: Final = 0.35
_MISSED: Final = 0.12
_CALLED_OFF: Final = 0.08
_MOVED: Final = 0.06
_BY_THE_PATIENT: Final = 0.4

_REASONS: Final = (
    "An invented cough that comes and goes",
    "A follow-up that nobody really needs",
    "An invented knee, on stairs above all",
    "A rash that this demonstration made up",
)


class NotEmpty(Trouble):
    """The organization's book has providers or patients already."""

    exit_code = 2


@dataclass(slots=True)
class Summary:
    """What was made. The ids are of a provider, location, visit type and patient to try things with; `day` is a local
    day ahead on which that provider works."""

    organization: str
    locations: int = 0
    providers: int = 0
    resources: int = 0
    patients: int = 0
    appointments: dict[str, int] = field(default_factory=dict)
    provider_id: UUID | None = None
    location_id: UUID | None = None
    visit_type_id: UUID | None = None
    patient_id: UUID | None = None
    day: date | None = None
    position: int = 0


@dataclass(frozen=True, slots=True)
class _Visit:
    id: UUID
    start: datetime
    end: datetime
    patient: UUID


# Gets how much is done, and of how much.
Progress = Callable[[int, int], None]
_Step = Callable[[], Awaitable[None]]


async def fill(
    desk: Desk, organization: str, seed: int, now: datetime, progress: Progress = lambda done, total: None
) -> Summary:
    """Make the clinic, as of `now` (an aware instant, UTC). Raises `NotEmpty`, and what the desk raises."""
    for kind in ("provider", "patient"):
        if await desk.log.streams(organization, f"{kind}/", f"{kind}0"):
            raise NotEmpty(
                f"The book of {organization} is not empty. Name another organization with --organization, or other "
                "data with DATA=…"
            )
    demo = _Demo(desk, organization, random.Random(seed), now)  # noqa: S311 - an invented clinic, no secret
    await demo.open()
    await demo.live(progress)
    return demo.summary


def _id(*words: object) -> UUID:
    return uuid5(_NAMES, "/".join(map(str, words)))


def _open(start: str, end: str) -> WallInterval:
    return WallInterval(start=time.fromisoformat(start), end=time.fromisoformat(end))


_MORNING: Final = _open("08:30", "12:30")
_AFTERNOON: Final = _open("13:30", "17:30")
_EVENING: Final = _open("17:00", "20:00")
_FULL: Final = (_MORNING, _AFTERNOON)


def _locations() -> tuple[Location, Location]:
    return (
        Location(
            id=_id("seaside"),
            name="Seaside House (invented)",
            address="1 Made-up Quay, Lisbon",
            latitude=Decimal("38.707750"),
            longitude=Decimal("-9.136592"),
            time_zone="Europe/Lisbon",
            country="PT",
        ),
        Location(
            id=_id("hillside"),
            name="Hillside House (invented)",
            address="2 Nowhere Street, New York",
            latitude=Decimal("40.712776"),
            longitude=Decimal("-74.005974"),
            time_zone="America/New_York",
            country="US",
            subdivision="NY",
        ),
    )


def _euros(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="EUR")


def _dollars(amount: str) -> Money:
    return Money(amount=Decimal(amount), currency="USD")


_CONSULTATION: Final = VisitType(
    id=_id("consultation"),
    name="Consultation",
    duration_minutes=25,
    buffer_after_minutes=5,
    modes=(Mode.IN_PERSON, Mode.TELEMEDICINE),
    fee=_euros("60.00"),
)
_FIRST_VISIT: Final = VisitType(
    id=_id("first visit"), name="First visit", duration_minutes=45, fee=_euros("90.00"), approval_needed=True
)
_EXERCISE: Final = VisitType(id=_id("exercise"), name="Exercises", duration_minutes=30, fee=_dollars("70.00"))
_BACK_SCHOOL: Final = VisitType(
    id=_id("back school"), name="Back school", duration_minutes=60, seats=6, fee=_dollars("25.00")
)
_SCAN: Final = VisitType(
    id=_id("scan"),
    name="Ultrasound",
    duration_minutes=30,
    fee=_euros("120.00"),
    self_bookable=False,
    needs=(ResourceKind.ROOM, ResourceKind.DEVICE),
)
_TALK: Final = VisitType(
    id=_id("talk"),
    name="Talk from home",
    duration_minutes=50,
    buffer_after_minutes=10,
    modes=(Mode.TELEMEDICINE,),
    fee=_dollars("150.00"),
)


@dataclass(frozen=True, slots=True)
class _Person:
    """A provider to be, the usual visit type first."""

    name: str
    specialty: Specialty
    languages: tuple[str, ...]
    insurers: tuple[str, ...]
    place: int
    visit_types: tuple[VisitType, ...]
    hours: WeeklyHours
    rules: BookingRules


def _people() -> Sequence[_Person]:
    every_day = WeeklyHours(monday=_FULL, tuesday=_FULL, wednesday=_FULL, thursday=_FULL, friday=(_MORNING,))
    mornings = WeeklyHours(
        monday=(_MORNING,), wednesday=_FULL, thursday=(_MORNING,), saturday=(_open("09:00", "13:00"),)
    )
    evenings = WeeklyHours(monday=(_EVENING,), tuesday=(_EVENING,), thursday=(_EVENING,), sunday=(_EVENING,))
    return (
        _Person(
            "Dr. Ada Example",
            Specialty(code="207Q00000X", name="Family doctor"),
            ("pt", "en"),
            ("Example Mutual", "Invented Health"),
            0,
            (_CONSULTATION, _FIRST_VISIT),
            every_day,
            BookingRules(
                minimum_notice_minutes=60,
                horizon_days=180,
                slot_step_minutes=15,
                cancel_notice_minutes=240,
                hold_minutes=120,
            ),
        ),
        _Person(
            "Dr. Bela Sample",
            Specialty(code="208000000X", name="Children's doctor"),
            ("pt", "es", "en"),
            ("Example Mutual",),
            0,
            (_CONSULTATION,),
            mornings,
            BookingRules(slot_step_minutes=30, cap_per_day=9, cap_per_week=30),
        ),
        _Person(
            "Dr. Chi Placeholder",
            Specialty(code="2085R0202X", name="Radiologist"),
            ("pt", "fr"),
            ("Invented Health",),
            0,
            (_SCAN,),
            every_day,
            BookingRules(slot_step_minutes=30, overbooking_allowance=0),
        ),
        _Person(
            "Dana Pretend",
            Specialty(code="225100000X", name="Physiotherapist"),
            ("en", "es"),
            ("Nowhere Insurance",),
            1,
            (_EXERCISE, _BACK_SCHOOL),
            every_day,
            BookingRules(slot_step_minutes=30, move_notice_minutes=120),
        ),
        _Person(
            "Dr. Eli Madeup",
            Specialty(code="2084P0800X", name="Psychiatrist"),
            ("en", "de"),
            ("Nowhere Insurance", "Example Mutual"),
            1,
            (_TALK,),
            evenings,
            BookingRules(minimum_notice_minutes=24 * 60, slot_step_minutes=60, cancel_notice_minutes=24 * 60),
        ),
    )


class _Demo:
    """One run. `_steps` are what is to happen, each at its instant."""

    def __init__(self, desk: Desk, organization: str, rng: random.Random, now: datetime) -> None:
        self.summary = Summary(organization)
        self._now = now.astimezone(UTC).replace(microsecond=0)
        self._start = self._now - timedelta(weeks=WEEKS_BEFORE) - 2 * DAY
        self._clock = FixedClock(self._start)
        self._desk = Desk(desk.log, self._clock, desk.ids, desk.holidays, desk.video_url_template)
        self._rng = rng
        self._places = _locations()
        self._people = _people()
        self._providers: list[UUID] = []
        self._patients: list[UUID] = []
        self._rooms: list[UUID] = []
        self._devices: list[UUID] = []
        self._steps: list[tuple[datetime, int, _Step]] = []
        self._numbers = count()
        self._statuses: dict[str, str] = {}

    # Opening

    async def open(self) -> None:
        for person in self._people:
            self._providers.append(await self._made(_registered(person, self._places), "provider_id"))
        for number in (1, 2):
            self._rooms.append(
                await self._made(RegisterResource(kind=ResourceKind.ROOM, name=f"Room {number}"), "resource_id")
            )
        self._devices.append(
            await self._made(RegisterResource(kind=ResourceKind.DEVICE, name="Ultrasound device"), "resource_id")
        )
        for number in range(1, PATIENTS + 1):
            name = HumanName(family="Invented", given=(f"Patient {number:03}",))
            registered = RegisterPatient(
                reference=f"Invented Patient {number:03}", details=PatientDetails(names=(name,))
            )
            self._patients.append(await self._made(registered, "patient_id"))
        for person, provider_id in zip(self._people, self._providers, strict=True):
            await self._ask(self._exceptions(person, provider_id), _ADMIN)
        await self._ask(self._blocks(), _DESK)
        first = self._people[0]
        summary = self.summary
        summary.locations, summary.providers, summary.patients = len(self._places), len(self._people), PATIENTS
        summary.resources = len(self._rooms) + len(self._devices)
        summary.provider_id, summary.location_id = self._providers[0], self._places[first.place].id
        summary.visit_type_id, summary.patient_id = first.visit_types[0].id, self._patients[0]
        summary.day = next(day for day in _days(self._now.date() + DAY, 14) if first.hours.on(day))

    def _exceptions(self, person: _Person, provider_id: UUID) -> PublishHours:
        place = self._places[person.place]
        today = self._now.date()
        late, closed = (_weekday(today + timedelta(days=ahead)) for ahead in (9, 16))
        time_off: tuple[TimeOff, ...] = ()
        if provider_id == self._providers[1]:
            away = _weekday(today + timedelta(days=20))
            bounds = Period(
                instant_of(away, time.min, zone(place.time_zone)),
                instant_of(away + 3 * DAY, time.min, zone(place.time_zone)),
            )
            time_off = (TimeOff(period=bounds, reason=TimeOffReason.VACATION),)
        return PublishHours(
            provider_id=provider_id,
            exceptions=(
                HoursException(location_id=place.id, day=late, hours=(_open("10:00", "19:00"),)),
                HoursException(location_id=place.id, day=closed),
            ),
            holidays=(
                ObservedHolidays(
                    location_id=place.id, first=self._start.date(), last=self._now.date() + timedelta(days=365)
                ),
            ),
            time_off=time_off,
        )

    def _blocks(self) -> BlockTimes:
        """A meeting each week, and the device's maintenance."""
        place = zone(self._places[0].time_zone)
        wednesday = self._start.date() + timedelta(days=(2 - self._start.weekday()) % 7)
        blocks = [
            Block(
                resource_id=self._providers[0],
                period=_between(day, "09:00", "10:00", place),
                reason=BlockReason.MEETING,
            )
            for day in (wednesday + week * 7 * DAY for week in range(WEEKS_BEFORE + WEEKS_AFTER))
        ]
        ahead = _weekday(self._now.date() + timedelta(days=6))
        blocks.append(
            Block(
                resource_id=self._devices[0],
                period=_between(ahead, "08:00", "12:00", place),
                reason=BlockReason.MAINTENANCE,
            )
        )
        return BlockTimes(block=tuple(blocks))

    # Living through the weeks

    async def live(self, progress: Progress) -> None:
        self._plan_visits()
        self._plan_special()
        done = 0
        while self._steps:
            # A step may bring more: a visit that was booked ends somehow.
            self._clock.instant, _, step = heappop(self._steps)
            await step()
            done += 1
            progress(done, done + len(self._steps))
        self.summary.appointments = dict(sorted(Counter(self._statuses.values()).items()))

    def _plan_visits(self) -> None:
        today = self._now.date()
        first = today - timedelta(weeks=WEEKS_BEFORE)
        for person, provider_id in zip(self._people, self._providers, strict=True):
            place = self._places[person.place]
            usual = person.visit_types[0]
            for day in _days(first, 7 * (WEEKS_BEFORE + WEEKS_AFTER)):
                for start in _starts(person, place, day, usual):
                    if self._rng.random() < (_BUSY_BEFORE if start < self._now else _BUSY_AFTER):
                        self._plan_visit(provider_id, place, usual, start)

    def _plan_visit(self, provider_id: UUID, place: Location, usual: VisitType, start: datetime) -> None:
        rng = self._rng
        asked = min(
            start - timedelta(hours=rng.uniform(26, 24 * 21)), self._now - timedelta(minutes=rng.uniform(5, 2000))
        )
        asked = max(asked, self._start + timedelta(minutes=rng.uniform(1, 600)))
        patient = rng.choice(self._patients)
        mode = rng.choice(usual.modes)
        by_patient = usual.self_bookable and rng.random() < _BY_THE_PATIENT
        booking = BookAppointment(
            patient_id=patient,
            provider_id=provider_id,
            location_id=place.id,
            visit_type_id=usual.id,
            start=start,
            mode=mode,
            resources=(rng.choice(self._rooms), self._devices[0]) if usual.needs else (),
            reason=rng.choice(_REASONS) if rng.random() < 0.3 else None,
        )
        actor = _as_patient(patient) if by_patient else _DESK

        async def book() -> None:
            answer = await self._tried(booking, actor)
            if answer is not None:
                self._plan_end(_visit(answer, patient))

        self._at(asked, book)

    def _plan_end(self, visit: _Visit) -> None:
        """What comes of a booked visit, as far as it has come by now."""
        rng = self._rng
        luck = rng.random()
        if luck < _CALLED_OFF:
            at = self._clock.instant + (visit.start - self._clock.instant) * rng.uniform(0.1, 0.6)
            reason = rng.choice((CancellationReason.PATIENT_REQUEST, CancellationReason.PATIENT_ILL))
            self._at(at, self._trying(CancelAppointment(appointment_id=visit.id, reason=reason), _DESK))
        elif luck < _CALLED_OFF + _MOVED:
            at = self._clock.instant + (visit.start - self._clock.instant) * rng.uniform(0.1, 0.5)
            later = MoveAppointment(
                appointment_id=visit.id, start=visit.start + 7 * DAY, reason=MoveReason.PATIENT_REQUEST
            )

            async def move() -> None:
                answer = await self._tried(later, _DESK)
                self._plan_visiting(visit if answer is None else _visit(answer, visit.patient))

            self._at(at, move)
        else:
            self._plan_visiting(visit)

    def _plan_visiting(self, visit: _Visit) -> None:
        rng = self._rng
        if rng.random() < _MISSED:
            missed = MarkNoShow(appointment_id=visit.id)
            self._at(visit.start + timedelta(minutes=rng.uniform(15, 40)), self._trying(missed, _DESK))
            return
        late = timedelta(minutes=rng.uniform(-12, 6))
        ended = CompleteVisit(
            appointment_id=visit.id,
            outcome=rng.choice((Outcome.DONE, Outcome.DONE, Outcome.FOLLOW_UP, Outcome.REFERRED)),
        )
        self._at(visit.start + late, self._trying(CheckInPatient(appointment_id=visit.id), _DESK))
        began = visit.start + max(late, timedelta()) + timedelta(minutes=rng.uniform(0, 8))
        self._at(began, self._trying(StartVisit(appointment_id=visit.id), _DESK))
        self._at(visit.end + timedelta(minutes=rng.uniform(0, 9)), self._trying(ended, _DESK))

    def _plan_special(self) -> None:
        """A series, group visits, a request with its answer, a pending one, and a hold that still runs."""
        physio, hillside = self._providers[3], self._places[1]
        place = zone(hillside.time_zone)
        ahead = _weekday(self._now.date() + timedelta(days=2))
        for week in (-1, 0, 1):
            start = instant_of(_weekday(self._now.date() + timedelta(days=3 + 7 * week)), time(15, 30), place)
            for patient in self._patients[12 + week : 16 + week]:
                booking = BookAppointment(**_arranged(physio, hillside, _BACK_SCHOOL, patient, start))
                # Early, before others take the hour.
                self._at(self._start + MINUTE, self._booking(booking, _DESK, patient))
        series = BookSeries(
            **_arranged(physio, hillside, _EXERCISE, self._patients[5], instant_of(ahead, time(8, 30), place)),
            recurrence=Recurrence(frequency=Frequency.WEEKLY, count=4),
        )
        self._at(self._start + 2 * MINUTE, self._then(series))
        self._plan_requests()

    def _plan_requests(self) -> None:
        wanted = zip(self._patients[20:25], (_FIRST_VISIT,) * 3 + (_CONSULTATION,) * 2, strict=True)
        accepted, declined, waiting, held, firm = (
            _arranged(self._providers[0], self._places[0], visit_type, patient, self._early(3))
            for patient, visit_type in wanted
        )
        reason = DeclineReason.MORE_INFORMATION_NEEDED
        self._at(
            self._now - 20 * HOUR,
            self._then(BookAppointment(**accepted), lambda key: AcceptAppointment(appointment_id=key)),
        )
        self._at(
            self._now - 15 * HOUR,
            self._then(BookAppointment(**declined), lambda key: DeclineAppointment(appointment_id=key, reason=reason)),
        )
        self._at(self._now - HOUR, self._then(BookAppointment(**waiting)))
        self._at(
            self._now - 10 * HOUR,
            self._then(HoldAppointment(**firm), lambda key: BookHeldAppointment(appointment_id=key), by_patient=True),
        )
        self._at(self._now, self._then(HoldAppointment(**held)))

    def _early(self, days: int) -> datetime:
        """The first time of a weekday ahead, at the seaside."""
        return instant_of(_weekday(self._now.date() + days * DAY), _MORNING.start, zone(self._places[0].time_zone))

    def _then(
        self, asked: Arrange, reply: Callable[[UUID], Command] | None = None, *, by_patient: bool = False
    ) -> _Step:
        """A patient asks, day after day until one is free; half an hour later the desk answers, or the patient makes up
        their mind."""
        patient = _as_patient(asked.patient_id)

        async def ask() -> None:
            for ahead in range(30):
                wish = asked.model_copy(update={"start": asked.start + ahead * DAY})
                answer = await self._tried(wish, patient)
                if answer is not None:
                    break
            else:
                return
            if reply is not None:
                command = reply(UUID(answer.content["appointment_id"]))
                self._at(self._clock.instant + HOUR / 2, self._trying(command, patient if by_patient else _DESK))

        return ask

    # Asking

    def _at(self, instant: datetime, step: _Step) -> None:
        """What lies ahead of the present has not happened."""
        if instant <= self._now:
            heappush(self._steps, (max(instant, self._clock.instant), next(self._numbers), step))

    def _booking(self, booking: BookAppointment, actor: Actor, patient: UUID) -> _Step:
        async def book() -> None:
            answer = await self._tried(booking, actor)
            if answer is not None:
                self._plan_visiting(_visit(answer, patient))

        return book

    def _trying(self, command: Command, actor: Actor) -> _Step:
        async def step() -> None:
            await self._tried(command, actor)

        return step

    async def _tried(self, command: Command, actor: Actor) -> Answer | None:
        """An invented wish may be refused like any other: the time is taken, the patient is elsewhere."""
        try:
            return await self._ask(command, actor)
        except Refusal:
            return None

    async def _made(self, command: Command, key: str) -> UUID:
        return UUID((await self._ask(command, _ADMIN)).content[key])

    async def _ask(self, command: Command, actor: Actor) -> Answer:
        answer = await self._desk.handle(command, actor, self.summary.organization)
        self.summary.position = max(self.summary.position, answer.position)
        if "status" in answer.content:
            self._statuses[answer.content["appointment_id"]] = answer.content["status"]
        for booked in answer.content.get("appointments", ()):
            self._statuses[booked["appointment_id"]] = Status.BOOKED.value
        return answer


def _registered(person: _Person, places: Sequence[Location]) -> RegisterProvider:
    place = places[person.place]
    return RegisterProvider(
        name=person.name,
        specialties=(person.specialty,),
        languages=person.languages,
        insurers=person.insurers,
        locations=(place,),
        visit_types=person.visit_types,
        hours=(Hours(location_id=place.id, hours=person.hours),),
        rules=person.rules,
    )


def _arranged(
    provider_id: UUID, place: Location, visit_type: VisitType, patient: UUID, start: datetime
) -> dict[str, Any]:
    return {
        "provider_id": provider_id,
        "location_id": place.id,
        "visit_type_id": visit_type.id,
        "patient_id": patient,
        "start": start,
    }


def _visit(answer: Answer, patient: UUID) -> _Visit:
    told = answer.content
    return _Visit(UUID(told["appointment_id"]), told["start"], told["end"], patient)


def _as_patient(patient: UUID) -> Actor:
    return Actor(f"demo-patient-{patient}", Role.PATIENT, patient_id=patient)


def _starts(person: _Person, place: Location, day: date, visit_type: VisitType) -> Iterator[datetime]:
    """Times that lie one after the other in the weekly hours, whatever exceptions say: some wishes are refused."""
    length = visit_type.buffer_before_minutes + visit_type.duration_minutes + visit_type.buffer_after_minutes
    step = person.rules.slot_step_minutes
    for piece in person.hours.on(day):
        start = instant_of(day, piece.start, zone(place.time_zone))
        for offset in range(0, piece.length_minutes - length + 1, -(-length // step) * step):
            yield start + offset * MINUTE


def _between(day: date, start: str, end: str, place: ZoneInfo) -> Period:
    return Period(instant_of(day, time.fromisoformat(start), place), instant_of(day, time.fromisoformat(end), place))


def _days(first: date, number: int) -> Iterator[date]:
    return (first + ahead * DAY for ahead in range(number))


def _weekday(day: date) -> date:
    """The day, or the Monday after a weekend."""
    return day if day.weekday() < 5 else day + (7 - day.weekday()) * DAY


def try_next(summary: Summary, url: str, data: Path) -> Iterator[str]:
    """What somebody new may want to do with it, as shell lines."""
    visits = sum(summary.appointments.values())
    told = ", ".join(f"{number} {status.replace('_', ' ')}" for status, number in summary.appointments.items())
    day = summary.day
    of_data = "" if data == Path("data") else f" --data {data}"
    of_book = f"--org {summary.organization}{of_data}"
    slots = f"visit_type_id={summary.visit_type_id}&provider_id={summary.provider_id}&from={day}&to={day}"
    body = {
        "patient_id": str(summary.patient_id),
        "provider_id": str(summary.provider_id),
        "location_id": str(summary.location_id),
        "visit_type_id": str(summary.visit_type_id),
        "start": "A-START-FROM-ABOVE",
    }
    yield f"{summary.providers} providers at {summary.locations} places, {summary.patients} patients."
    yield f"{visits} appointments: {told}."
    yield ""
    yield "While Daybook runs (`daybook serve`):"
    yield ""
    yield f"  TOKEN=$(uv run daybook token --role front_desk {of_book})"
    yield f'  curl -H "Authorization: Bearer $TOKEN" "{url}/read/providers"'
    yield f'  curl -H "Authorization: Bearer $TOKEN" "{url}/read/providers/{summary.provider_id}/week"'
    yield f'  curl -H "Authorization: Bearer $TOKEN" "{url}/read/slots?{slots}"'
    yield '  curl -H "Authorization: Bearer $TOKEN" -H "Idempotency-Key: try-1" -H "Content-Type: application/json" \\'
    yield f"    -d '{json.dumps(body)}' {url}/write/appointments"


def run(settings: Settings, organization: str, seed: int, progress: Progress) -> Summary:
    """Fill the book in a data folder, beside a server that runs on it or alone. Raises `Trouble`."""

    async def filled(place: Installation) -> Summary:
        async with desk_on(place) as desk:
            try:
                return await fill(desk, organization, seed, datetime.now(UTC), progress)
            except Refusal as refusal:
                raise WrongInput(f"Nothing can be written for {organization!r}: {refusal.message}.") from refusal

    with opened(settings, redis=False) as place:
        return asyncio.run(filled(place))

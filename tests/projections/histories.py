"""Invented histories: random things asked of a small clinic, those that the rules allow written down."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any

from hypothesis import strategies as st

from domain import appointment, provider, resource
from domain.appointment import DeclineReason, Outcome, Party
from domain.provider import BookingRules, HoursExceptionCleared, TimeOffCancelled, VisitTypeWithdrawn
from domain.reminder import Channel, ReminderSent
from tests.domain import clinic
from tests.domain.clinic import DOCTOR, NOW, span, uid
from tests.given import Book, Decision
from tests.projections.story import Chronicle, MemoryLog

PATIENTS = (clinic.ANNA, clinic.BEN, clinic.CARL)
VISIT_TYPES = (clinic.CHECKUP, clinic.LONG, clinic.BUFFERED, clinic.GROUP, clinic.REQUESTABLE)
APPOINTMENTS = tuple(uid(0x300 + number) for number in range(1, 9))
ORGANIZATIONS = ("elm", "oak")

# One thing that may happen: what, which appointment, which patient, when, and a free number.
Step = tuple[str, int, int, int, int]

OFTEN = ("hold", "book", "firm", "move", "lapse", "accept", "decline", "later")
SELDOM = ("cancel", "check in", "start", "complete", "no show", "error", "block", "unblock", "remind", "away", "back")
WORDS = (*OFTEN, *OFTEN, *SELDOM, "hours", "retire")

steps = st.lists(
    st.tuples(
        st.sampled_from(WORDS),
        st.integers(0, len(APPOINTMENTS) - 1),
        st.integers(0, len(PATIENTS) - 1),
        st.integers(0, 60),
        st.integers(0, 9),
    ),
    max_size=40,
)


def at_random(seed: int, length: int = 40) -> list[Step]:
    """The same long history for the same seed."""
    chance = random.Random(seed)
    return [
        (chance.choice(WORDS), *(chance.randrange(below) for below in (len(APPOINTMENTS), len(PATIENTS), 61, 10)))
        for _ in range(length)
    ]


# Short ones that shrink, and long ones in which much has come about.
histories = st.one_of(steps, st.integers(0, 10**6).map(at_random))


def written(told: list[Step]) -> MemoryLog:
    """The log of a clinic in which these were asked, one after the other, in two organizations by turns."""
    log = MemoryLog()
    chronicles = []
    for organization in ORGANIZATIONS:
        chronicle = Chronicle(Book(NOW), log, organization)
        rules = BookingRules(overbooking_allowance=1, hold_minutes=10)
        round_the_clock = clinic.every_day("00:00-00:00")
        told_first = [*clinic.clinic(rules=rules, weekly=round_the_clock), *clinic.rooms()]
        if organization == ORGANIZATIONS[0]:
            told_first += clinic.clinic(provider_id=clinic.COLLEAGUE, place="America/New_York", weekly=round_the_clock)
        chronicles.append(chronicle.happens(told_first))
    for number, step in enumerate(told):
        chronicle = chronicles[number % 3 == 2]
        if step[0] == "later":
            chronicle.later(timedelta(minutes=7 * step[4]))
        else:
            chronicle.may_happen(_asked(step, number, chronicle.book))
    return log


def _asked(step: Step, number: int, book: Book) -> Decision:
    what, which, who, when, some = step
    key, patient = APPOINTMENTS[which], PATIENTS[who]
    if what not in ("hold", "book") and (known := _those(book, what)):
        key = known[which % len(known)].id
    start = NOW + timedelta(minutes=45 * when + (15 if what == "move" else 0), hours=1)
    room: dict[str, Any] = {"resources": (clinic.ROOM,)} if some > 6 else {}
    visit_type = VISIT_TYPES[some % len(VISIT_TYPES)]
    by = Party.PATIENT if visit_type == clinic.REQUESTABLE else list(Party)[some % 4]

    def fresh(decide: Any) -> Decision:
        def asked(book: Book) -> object:
            if appointment.stream(key) in book.states:
                return []
            return decide(start, patient, key, visit_type_id=visit_type, by=by, **room)(book)

        return asked

    def state(book: Book) -> Any:
        return book.appointment(key)

    match what:
        case "hold":
            return fresh(clinic.hold)
        case "book":
            return fresh(clinic.book)
        case "firm":
            return clinic.book_held(key, by=by)
        case "move":
            return clinic.move(start, key, by=by, **({"provider_id": clinic.COLLEAGUE} if some == 0 else room))
        case "cancel":
            return clinic.cancel(key, by=by)
        case "lapse":
            return clinic.lapse(key)
        case "accept":
            return lambda book: appointment.accept(state(book), by)
        case "decline":
            return lambda book: appointment.decline(state(book), by, DeclineReason.NO_CAPACITY)
        case "check in":
            return lambda book: appointment.PatientCheckedIn(**_who(state(book)))
        case "start":
            return lambda book: appointment.VisitStarted(**_who(state(book)))
        case "complete":
            return lambda book: appointment.VisitCompleted(
                **_who(state(book)), outcome=Outcome.FOLLOW_UP, note="private words"
            )
        case "no show":
            return lambda book: appointment.PatientDidNotCome(**_who(state(book)))
        case "error":
            return lambda book: appointment.enter_in_error(state(book), by)
        case "block":
            return clinic.block(span("12:00", "13:00"), over_visits=True, block_id=uid(0x400 + which))
        case "unblock":
            return clinic.unblock(span("12:00", "13:00"), block_id=uid(0x400 + which))
        case "remind":
            return lambda book: ReminderSent(
                reminder_id=uid(0x900 + number),
                appointment_id=state(book).id,
                patient_id=patient,
                channel=Channel.SMS if some % 2 else Channel.EMAIL,
            )
        case "away":
            return lambda book: provider.plan_time_off(
                book.provider(DOCTOR), uid(0x600 + some), span("16:00", "17:00"), provider.TimeOffReason.TRAINING
            )
        case "back":
            return lambda book: TimeOffCancelled(provider_id=DOCTOR, time_off_id=uid(0x600 + some))
        case "hours":
            if some % 3 == 0:
                return lambda book: HoursExceptionCleared(
                    provider_id=DOCTOR, location_id=clinic.CLINIC, day=clinic.MONDAY
                )
            if some % 3 == 1:
                return lambda book: VisitTypeWithdrawn(provider_id=DOCTOR, visit_type_id=clinic.REMOTE)
            return lambda book: clinic.open_on(clinic.MONDAY, "08:00-18:00")
    return lambda book: resource.retire(book.resource(clinic.OTHER_ROOM))


def _those(book: Book, what: str) -> list[appointment.Appointment]:
    """Appointments to which this may happen, where there are any."""
    known = book.appointments()
    fits = {"firm": "held", "lapse": "held", "accept": "requested", "decline": "requested", "move": "booked"}
    return [state for state in known if state.status == fits.get(what)] or known


def _who(state: Any) -> dict[str, Any]:
    return {"appointment_id": state.id, "patient_id": state.patient_id, "provider_id": state.provider_id}

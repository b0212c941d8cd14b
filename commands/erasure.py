"""A person is to be forgotten, or may not be yet: the request, what holds it up, and how long records are kept.

The decision is an event. Whoever follows the log destroys the key then (`streams/erasure.py`), so that a crash between
the two leaves something to finish and nothing to regret.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints

from commands.access import reach
from commands.disclosures import DISCLOSURES
from commands.loop import NOTHING, PATIENT, RETENTION, Command, Decision, Desk, Reading, handles
from domain import patient, retention
from domain.access import Actor
from domain.availability import Page, page_stream
from domain.patient import ARTICLE, ErasureGround, ErasureRefused, HoldReason
from domain.provider import WRITABLE
from domain.retention import Days, Month, Months, RetentionPolicySet, StrangersForgotten, Years
from domain.step_up import fresh_enough

# So many days of a patient's are looked through at once, from the latest on.
_BITE = 50


class ErasePerson(Command):
    patient_id: UUID
    ground: ErasureGround


class PlaceLegalHold(Command):
    """`matter` says what for, such as a file number; it is sealed."""

    patient_id: UUID
    reason: HoldReason
    matter: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), WRITABLE] | None = (
        None
    )


class LiftLegalHold(Command):
    patient_id: UUID
    hold_id: UUID


class SetRetention(Command):
    """Where `months_of_strangers` or `days_of_unverified` is left out, it stays as it is."""

    years_after_last_visit: Years
    months_of_strangers: Months | None = None
    days_of_unverified: Days | None = None


class ForgetStrangers(Command):
    """Where the strangers of a month were, once that is kept long enough. → `outcome`: `forgotten`, or `kept`."""

    month: Month


@handles(ErasePerson, "erase_person")
async def erase_person(command: ErasePerson, reading: Reading, actor: Actor) -> Decision:
    """A refusal is an answer with an event, since it is owed to the person with its reason (GDPR 12(4))."""
    await reach(reading, actor, "erase_person", patient_id=command.patient_id)
    fresh_enough(actor, reading.now)
    state = await reading.get(PATIENT, command.patient_id)
    policy = await reading.find(RETENTION, command.patient_id) or retention.AS_SHIPPED
    last = await last_visit(reading.desk, reading.organization, command.patient_id, reading.now)
    disclosures = await reading.find(DISCLOSURES, command.patient_id)
    disclosed = made_on(disclosures[-1]) if disclosures else None
    event = patient.erase(state, command.ground, policy, last, reading.now.date(), disclosed)
    answer: dict[str, object] = {"patient_id": str(state.id), "outcome": "erased"}
    if isinstance(event, ErasureRefused):
        answer["outcome"] = "refused"
        answer |= {"reason": event.reason.value, "article": ARTICLE[event.reason]}
        answer["until"] = event.until.isoformat() if event.until is not None else None
    return Decision([(patient.stream(state.id), event)], answer)


@handles(PlaceLegalHold, "hold_legally")
async def place_legal_hold(command: PlaceLegalHold, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "hold_legally", patient_id=command.patient_id)
    state = await reading.get(PATIENT, command.patient_id)
    hold_id = reading.desk.ids.new()
    event = patient.hold(state, hold_id, command.reason, command.matter)
    return Decision([(patient.stream(state.id), event)], {"patient_id": str(state.id), "hold_id": str(hold_id)})


@handles(LiftLegalHold, "hold_legally")
async def lift_legal_hold(command: LiftLegalHold, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "hold_legally", patient_id=command.patient_id)
    fresh_enough(actor, reading.now)
    state = await reading.get(PATIENT, command.patient_id)
    event = patient.lift(state, command.hold_id)
    answer = {"patient_id": str(state.id), "hold_id": str(command.hold_id)}
    return Decision([(patient.stream(state.id), event)], answer)


@handles(SetRetention, "set_retention")
async def set_retention(command: SetRetention, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "set_retention")
    fresh_enough(actor, reading.now)
    # Read, so that two who set it at once follow one upon the other.
    policy = await reading.find(RETENTION, UUID(int=0)) or retention.AS_SHIPPED
    event = RetentionPolicySet(
        years_after_last_visit=command.years_after_last_visit,
        months_of_strangers=command.months_of_strangers or policy.months_of_strangers,
        days_of_unverified=command.days_of_unverified or policy.days_of_unverified,
    )
    return Decision([(retention.STREAM, event)], event.model_dump(mode="json"))


@handles(ForgetStrangers, "forget_strangers")
async def forget_strangers(command: ForgetStrangers, reading: Reading, actor: Actor) -> Decision:
    policy = await reading.find(RETENTION, UUID(int=0)) or retention.AS_SHIPPED
    kept = retention.strangers_kept_until(policy, command.month) > reading.now.date()
    if kept or command.month in policy.forgotten:
        return Decision([], {"month": command.month, "outcome": "kept" if kept else "forgotten"})
    event = StrangersForgotten(month=command.month)
    return Decision([(retention.STREAM, event)], {"month": command.month, "outcome": "forgotten"})


def made_on(key: UUID) -> date:
    """The UTC day on which a UUIDv7 was made (RFC 9562 §5.7)."""
    return datetime.fromtimestamp((key.int >> 80) / 1000, UTC).date()


async def last_visit(desk: Desk, organization: str, patient_id: UUID, now: datetime) -> date | None:
    """The UTC day of a patient's latest visit, past or to come, by the log: the last of their pages that something
    stands on. A cancelled visit stands on none."""
    names = await desk.log.streams(organization, page_stream(patient_id, date.min), page_stream(patient_id, date.max))
    for end in range(len(names), 0, -_BITE):
        bite = names[max(0, end - _BITE) : end]
        # As the log has them, not as this process remembers them: a visit that another took must not be missed.
        pages = await desk.catch_up(organization, dict.fromkeys(bite, NOTHING))
        for name in reversed(bite):
            page: Page = pages[name][1]
            if any(entry.live(now) for entry in page.entries.values()):
                return page.day
    return None

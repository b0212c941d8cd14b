"""Disclosures of a patient's data that were made by other means than the book's own: written down."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints

from commands.access import reach
from commands.loop import PATIENT, Aggregate, Command, Decision, Reading, handles
from domain import disclosure, patient
from domain.access import Actor
from domain.disclosure import DisclosureRecorded, Means
from domain.provider import WRITABLE
from domain.purpose import Purpose
from domain.refusals import Invalid
from domain.time import Instant

DISCLOSURES: Aggregate[tuple[UUID, ...]] = Aggregate(disclosure.stream, disclosure.evolve)

Line = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=500), WRITABLE]


class RecordDisclosure(Command):
    """What an accounting tells of it (45 CFR 164.528(b)(2)): `made_at`, to whom and where they are, what in brief, and
    why."""

    patient_id: UUID
    made_at: Instant
    purpose: Purpose
    means: Means
    recipient: Line
    address: Line | None = None
    what: Line
    why: Line


@handles(RecordDisclosure, "record_disclosure")
async def record_disclosure(command: RecordDisclosure, reading: Reading, actor: Actor) -> Decision:
    await reach(reading, actor, "record_disclosure", patient_id=command.patient_id)
    patient.present(await reading.get(PATIENT, command.patient_id))
    if command.made_at > reading.now:
        raise Invalid("a disclosure is written down when it has been made")
    await reading.find(DISCLOSURES, command.patient_id)
    disclosure_id = reading.desk.ids.new()
    told = command.model_dump(exclude={"made_at"})
    event = DisclosureRecorded(disclosure_id=disclosure_id, **told)
    answer = {"patient_id": str(command.patient_id), "disclosure_id": str(disclosure_id)}
    return Decision([(disclosure.stream(command.patient_id), event)], answer, occurred_at=[command.made_at])

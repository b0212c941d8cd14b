"""Breaking the glass: reach over a patient who is not one's own, for a stated reason (45 CFR 164.312(a)(2)(ii))."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import StringConstraints

from commands.access import glass_of, reach
from commands.loop import PATIENT, Command, Decision, Reading, handles
from domain import glass, patient
from domain.access import Actor
from domain.glass import GlassReason
from domain.provider import WRITABLE


class BreakGlass(Command):
    """`words` say why in this case; they are sealed with the patient's key, and read by the privacy officer."""

    patient_id: UUID
    reason: GlassReason
    words: Annotated[str, StringConstraints(strip_whitespace=True, min_length=10, max_length=2000), WRITABLE]


@handles(BreakGlass, "break_glass")
async def break_glass(command: BreakGlass, reading: Reading, actor: Actor) -> Decision:
    """Broken again while it is open, it lasts anew from then on, and is told of anew."""
    await reach(reading, actor, "break_glass", patient_id=command.patient_id)
    patient.present(await reading.get(PATIENT, command.patient_id))
    await reading.find(glass_of(actor), command.patient_id)
    broken = glass.break_(command.patient_id, command.reason, command.words, reading.now)
    answer = {"patient_id": str(command.patient_id), "until": broken.until}
    return Decision([(glass.stream(actor.person, command.patient_id), broken)], answer)

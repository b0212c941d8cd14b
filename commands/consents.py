"""Consents: given and withdrawn."""

from __future__ import annotations

from uuid import UUID

from commands.access import reach
from commands.loop import CONSENTS, PATIENT, Command, Decision, Reading, handles
from domain import consent, patient
from domain.access import Actor
from domain.consent import ConsentMeans, ConsentPurpose, Consents, TextVersion


class GiveConsent(Command):
    """`text_version` names the words that the person was shown."""

    patient_id: UUID
    purpose: ConsentPurpose
    text_version: TextVersion
    means: ConsentMeans


class WithdrawConsent(Command):
    patient_id: UUID
    purpose: ConsentPurpose
    means: ConsentMeans


@handles(GiveConsent, "change_consents")
async def give_consent(command: GiveConsent, reading: Reading, actor: Actor) -> Decision:
    state = await _consents(command, reading, actor)
    event = consent.give(state, command.patient_id, command.purpose, command.text_version, command.means, actor.party)
    return _decided(command, event)


@handles(WithdrawConsent, "change_consents")
async def withdraw_consent(command: WithdrawConsent, reading: Reading, actor: Actor) -> Decision:
    state = await _consents(command, reading, actor)
    return _decided(command, consent.withdraw(state, command.patient_id, command.purpose, command.means, actor.party))


async def _consents(command: GiveConsent | WithdrawConsent, reading: Reading, actor: Actor) -> Consents | None:
    await reach(reading, actor, "change_consents", patient_id=command.patient_id)
    await reading.both((PATIENT, command.patient_id), (CONSENTS, command.patient_id))
    patient.present(await reading.get(PATIENT, command.patient_id))
    return await reading.find(CONSENTS, command.patient_id)


def _decided(
    command: GiveConsent | WithdrawConsent, event: consent.ConsentGiven | consent.ConsentWithdrawn
) -> Decision:
    answer = {"patient_id": str(command.patient_id), "purpose": command.purpose.value}
    return Decision([(consent.stream(command.patient_id), event)], answer)

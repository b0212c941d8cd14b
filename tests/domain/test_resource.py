"""Rooms and devices, and the small streams beside them."""

from __future__ import annotations

from uuid import UUID

import pytest

from domain import patient, reminder, resource
from domain.patient import Patient, PatientRegistered
from domain.provider import ResourceKind
from domain.reminder import Channel, ReminderSent
from domain.resource import AlreadyRetired, ResourceRetiredFromUse
from tests.domain.clinic import ANNA, FIRST, ROOM, a_clinic, uid
from tests.given import Book


def retire(seen: Book) -> object:
    return resource.retire(seen.resource(ROOM))


def test_a_resource_retires_once() -> None:
    retired = a_clinic().when(retire).then(ResourceRetiredFromUse).and_then()
    assert retired.book.resource(ROOM).retired
    assert retired.book.resource(ROOM).kind is ResourceKind.ROOM
    retired.when(retire).refused(AlreadyRetired)


def test_a_patient_is_an_opaque_reference() -> None:
    known = PatientRegistered(patient_id=ANNA, reference="record 17", background={"sms": "yes"})
    assert patient.evolve(None, known) == Patient(ANNA)


def test_a_reminder_knows_its_appointment() -> None:
    sent = ReminderSent(reminder_id=uid(1), appointment_id=FIRST, patient_id=ANNA, channel=Channel.SMS)
    assert reminder.evolve(None, sent).appointment_id == FIRST


def test_streams_are_told_apart_by_their_kind() -> None:
    one = UUID(int=7)
    names = {module.stream(one) for module in (patient, reminder, resource)}
    assert names == {f"patient/{one}", f"reminder/{one}", f"resource/{one}"}


def test_events_of_others_are_a_fault() -> None:
    gone = ResourceRetiredFromUse(resource_id=ROOM)
    for evolve in (patient.evolve, reminder.evolve, resource.evolve):
        with pytest.raises(TypeError):
            evolve(None, gone)

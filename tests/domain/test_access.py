"""Who may ask for what: the table, written out once more from the reader's side."""

from __future__ import annotations

import pytest

from domain.access import POLICY, Actor, Role, require, require_patient, require_provider
from domain.appointment import Party
from domain.refusals import NotAllowed, Unknown
from tests.domain.clinic import ANNA, BEN, COLLEAGUE, DOCTOR

BOOK = {"hold_appointment", "book_appointment", "book_series", "move_appointment", "cancel_appointment"}
READ = {"read_slots", "read_provider", "read_appointment", "read_patient"}
CARE = {
    "answer_request",
    "attend_visit",
    "block_time",
    "change_provider",
    "enter_in_error",
    "override_rule",
    "publish_hours",
    "read_diary",
    "register_patient",
}
MAY: dict[Role, set[str]] = {
    Role.PATIENT: BOOK | READ,
    Role.PROVIDER: BOOK | READ | CARE,
    Role.FRONT_DESK: BOOK | READ | CARE | {"register_resource"},
    Role.ADMIN: BOOK | READ | CARE | {"register_resource", "register_provider", "read_figures"},
    Role.SYSTEM: BOOK | READ | CARE | {"register_resource", "register_provider", "read_figures", "lapse_hold"},
    Role.AUDITOR: READ | {"read_diary", "read_figures"},
    Role.ANALYST: {"read_figures"},
}
# What only some roles reach and these stories say nothing of belongs to other features.
TOLD = BOOK | READ | CARE | {"register_resource", "register_provider", "read_figures", "lapse_hold"}


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("what", sorted(TOLD))
def test_each_role_reaches_what_the_table_says_and_no_more(role: Role, what: str) -> None:
    actor = Actor("somebody", role)
    if what in MAY[role]:
        require(actor, what)
    else:
        with pytest.raises(NotAllowed) as refused:
            require(actor, what)
        assert refused.value.details == {"action": what}


def test_nothing_in_the_table_is_open_to_patients_but_booking_and_reading_their_own() -> None:
    assert {what for what, roles in POLICY.items() if Role.PATIENT in roles} == BOOK | READ


def test_another_patient_reads_as_unknown() -> None:
    anna = Actor("anna", Role.PATIENT, patient_id=ANNA)
    require_patient(anna, ANNA)
    for stranger in (Actor("anna", Role.PATIENT, patient_id=BEN), Actor("nobody", Role.PATIENT)):
        with pytest.raises(Unknown):
            require_patient(stranger, ANNA)
    require_patient(Actor("desk", Role.FRONT_DESK), ANNA)


def test_a_provider_manages_their_own_hours() -> None:
    require_provider(Actor("doctor", Role.PROVIDER, provider_id=DOCTOR), DOCTOR)
    for other in (Actor("colleague", Role.PROVIDER, provider_id=COLLEAGUE), Actor("nobody", Role.PROVIDER)):
        with pytest.raises(NotAllowed):
            require_provider(other, DOCTOR)
    require_provider(Actor("desk", Role.FRONT_DESK), DOCTOR)


@pytest.mark.parametrize(
    ("role", "party"),
    [
        (Role.PATIENT, Party.PATIENT),
        (Role.PROVIDER, Party.PROVIDER),
        (Role.FRONT_DESK, Party.FRONT_DESK),
        (Role.ADMIN, Party.FRONT_DESK),
        (Role.SYSTEM, Party.SYSTEM),
    ],
)
def test_the_record_names_the_party_that_asked(role: Role, party: Party) -> None:
    assert Actor("somebody", role).party is party

"""Every kind of event is told in a sentence: what happened, whose it is, who did it, for whom and why."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest

from domain.access import Role
from domain.denial import STRANGER
from domain.events import Event
from domain.look import RecordSeen, Screen
from domain.ports import Recorded
from domain.purpose import Purpose
from infra.audit.telling import told
from tests.domain.clinic import uid
from tests.domain.test_events import ONE_OF_EACH

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)

# Of the examples in tests/domain/test_events.py, done by desk-7; ids without their zeros.
SENTENCES: Final = dict(
    line.split(": ", 1) for line in Path(__file__).with_name("sentences.txt").read_text("utf-8").splitlines()
)
LOOKS: Final = {
    Screen.APPOINTMENT: "Front desk desk-7 looked at appointment #3 of patient #2.",
    Screen.APPOINTMENTS: "Front desk desk-7 looked at the list of appointments of patient #2.",
    Screen.PROVIDER_DAY: "Front desk desk-7 saw a visit of patient #2 in a day of provider #3.",
    Screen.PROVIDER_WEEK: "Front desk desk-7 saw a visit of patient #2 in a week of provider #3.",
    Screen.PAGE: "Front desk desk-7 looked at the times that are taken on a day of patient #2.",
    Screen.FREE_TIMES: "Front desk desk-7 looked for free times beside the visits of patient #2.",
    Screen.PATIENT: "Front desk desk-7 looked at who patient #2 is.",
    Screen.PATIENT_SEARCH: "Front desk desk-7 was shown patient #2 in a search.",
    Screen.PRIVATE_WORDS: "Front desk desk-7 read the words of appointment #3 of patient #2.",
    Screen.CONSENTS: "Front desk desk-7 looked at the consents of patient #2.",
    Screen.PROXIES: "Front desk desk-7 looked at who stands for patient #2.",
    Screen.GLASS: "Front desk desk-7 read why the glass was broken for patient #2.",
    Screen.PERSONAL_EXPORT: "Front desk desk-7 took a copy of all data of patient #2.",
    Screen.LOOKS: "Front desk desk-7 looked at who had looked at the record of patient #2.",
    Screen.DISCLOSURES: "Front desk desk-7 looked at the accounting of disclosures of patient #2.",
    Screen.SUSPICIOUS: "Front desk desk-7 was shown patient #2 in a report of suspicious looks.",
    Screen.LOG: "Front desk desk-7 read events of patient #2 in the log with their seals open.",
    Screen.LOG_EXPORT: "Front desk desk-7 exported events of patient #2 from the log with their seals open.",
}


def said(event: Event, **columns: str) -> str:
    recorded = Recorded(1, "clinic", "a/1", 1, uid(1), event, NOON, NOON, "desk-7", uid(1), uid(1))
    return re.sub(r"0{8}-(?:0{4}-){3}0*([0-9a-f]+)", r"#\1", told(replace(recorded, **columns)))


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH))
def test_every_kind_of_event_is_told_in_a_sentence_of_its_own(name: str) -> None:
    wanted = SENTENCES.get(name)
    assert wanted, "write its sentence in infra/audit/telling.py, and what it is to say in sentences.txt beside this"
    assert said(ONE_OF_EACH[name]) == wanted


@pytest.mark.parametrize("screen", list(Screen))
def test_each_look_is_told_in_plain_english(screen: Screen) -> None:
    look = RecordSeen(patient_id=uid(2), screen=screen, role=Role.FRONT_DESK, resource_id=uid(3))
    assert said(look) == LOOKS[screen]


@pytest.mark.parametrize("name", sorted(ONE_OF_EACH))
def test_no_sealed_word_is_told(name: str) -> None:
    event = ONE_OF_EACH[name]
    sealed = [getattr(event, field) for field in event.SEALED_FIELDS]
    assert not [words for words in sealed if isinstance(words, str) and len(words) > 3 and words in said(event)]


def test_for_whom_and_why_are_told() -> None:
    locked = ONE_OF_EACH["AccountLockedByAdministrator.v1"]
    behalf = str(uid(5))
    assert said(locked, purpose="OPERATIONS") == "Account #1 was locked (by desk-7, to run the clinic)."
    assert said(locked, on_behalf_of=behalf, purpose="of old") == (
        "Account #1 was locked (by desk-7 on behalf of patient #5, for the purpose of old)."
    )
    assert said(locked, on_behalf_of=behalf, actor="sign-in") == (
        "Account #1 was locked (by sign-in on behalf of account #5)."
    )
    look = RecordSeen(patient_id=uid(5), screen=Screen.APPOINTMENTS, role=Role.PATIENT)
    assert said(look, on_behalf_of=behalf, purpose="REQUEST") == (
        "Patient desk-7 on behalf of patient #5 looked at the list of appointments of patient #5, "
        "at the patient's request."
    )
    refused = ONE_OF_EACH["AccessRefused.v1"]
    assert said(refused, actor=STRANGER).startswith("3 requests of a stranger to book appointment were refused")
    for purpose in Purpose:
        assert "purpose" not in said(locked, purpose=purpose.value)


def test_a_look_at_nothing_single_says_no_more() -> None:
    look = RecordSeen(patient_id=uid(2), screen=Screen.APPOINTMENT, role=Role.SYSTEM, client_id="portal")
    assert said(look) == "System desk-7, with the programme portal, looked at an appointment of patient #2."


def test_a_look_behind_a_broken_glass_says_so() -> None:
    look = RecordSeen(patient_id=uid(2), screen=Screen.PATIENT, role=Role.PROVIDER, behind_glass=True)
    assert said(look, purpose="EMERGENCY") == (
        "Provider desk-7 looked at who patient #2 is, behind a broken glass, in an emergency."
    )

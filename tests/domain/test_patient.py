"""A patient: what is told of them, what holds an erasure up, and what being forgotten comes to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given as supposing
from hypothesis import strategies as st
from pydantic import ValidationError

from domain import consent, patient, retention
from domain.appointment import Party
from domain.consent import ConsentMeans, ConsentPurpose
from domain.events import ERASED, Event
from domain.patient import (
    AlreadyErased,
    CorrectionSource,
    Email,
    ErasureGround,
    ErasureRefused,
    HoldReason,
    HumanName,
    LegalHoldLifted,
    LegalHoldPlaced,
    Patient,
    PatientDetails,
    PatientDetailsCorrected,
    PatientRegistered,
    PersonErased,
    Phone,
    RefusalReason,
    UnknownHold,
)
from domain.retention import AS_SHIPPED, RetentionPolicy, kept_until
from tests.domain.clinic import ANNA, uid
from tests.given import Book, Decision, given

NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)
TODAY = NOW.date()
REGISTERED = PatientRegistered(patient_id=ANNA)
HELD = LegalHoldPlaced(patient_id=ANNA, hold_id=uid(40), reason=HoldReason.LITIGATION)
ERASED_ANNA = PersonErased(patient_id=ANNA, ground=ErasureGround.OBJECTION)
DETAILS = PatientDetails(names=(HumanName(family="Example", given=("Anna",)),))


def anna(book: Book) -> Patient:
    found: Patient = book.states[patient.stream(ANNA)]
    return found


def erase(
    ground: ErasureGround = ErasureGround.CONSENT_WITHDRAWN,
    last: date | None = None,
    policy: RetentionPolicy = AS_SHIPPED,
) -> Decision:
    return lambda book: patient.erase(anna(book), ground, policy, last, TODAY)


def refusal(reason: RefusalReason, until: date | None = None) -> ErasureRefused:
    return ErasureRefused(patient_id=ANNA, ground=ErasureGround.CONSENT_WITHDRAWN, reason=reason, until=until)


def test_who_never_came_may_be_forgotten_at_once() -> None:
    given(REGISTERED, now=NOW).when(erase()).then(PersonErased(patient_id=ANNA, ground=ErasureGround.CONSENT_WITHDRAWN))


def test_a_medical_record_is_kept_as_long_as_the_policy_says_and_the_no_is_recorded() -> None:
    story = given(REGISTERED, now=NOW)
    story.when(erase(last=date(2016, 3, 3))).then(refusal(RefusalReason.RETENTION, date(2026, 3, 3)))
    story.when(erase(last=date(2016, 3, 2))).then(PersonErased)
    seven = RetentionPolicy(7)
    story.when(erase(last=date(2019, 3, 2), policy=seven)).then(PersonErased)


def test_what_was_never_to_be_held_is_not_kept_for_the_sake_of_keeping() -> None:
    story = given(REGISTERED, now=NOW)
    story.when(erase(ErasureGround.UNLAWFUL, date(2026, 3, 1))).then(PersonErased)


def test_who_was_told_of_somebody_can_be_asked_for_six_years_whatever_the_ground() -> None:
    story = given(REGISTERED, now=NOW)

    def decide(ground: ErasureGround, disclosed: date) -> Decision:
        return lambda book: patient.erase(anna(book), ground, AS_SHIPPED, None, TODAY, disclosed)

    told = story.when(decide(ErasureGround.UNLAWFUL, date(2020, 3, 3))).then(ErasureRefused).events[0]
    assert (told.reason, told.until) == (RefusalReason.RETENTION, date(2026, 3, 3))
    story.when(decide(ErasureGround.UNLAWFUL, date(2020, 3, 2))).then(PersonErased)


def test_a_visit_of_today_or_to_come_stands_against_it() -> None:
    for last in (TODAY, TODAY + timedelta(days=30)):
        given(REGISTERED, now=NOW).when(erase(last=last)).then(refusal(RefusalReason.VISITS_TO_COME))


def test_a_legal_hold_stands_against_it_until_it_is_lifted() -> None:
    story = given(REGISTERED, HELD, now=NOW)
    story.when(erase()).then(refusal(RefusalReason.LEGAL_CLAIMS))
    story.when(lambda book: patient.lift(anna(book), uid(41))).refused(UnknownHold)
    lifted = story.when(lambda book: patient.lift(anna(book), uid(40))).then(LegalHoldLifted).and_then()
    lifted.when(erase()).then(PersonErased)


def test_who_was_forgotten_is_told_nothing_more_of() -> None:
    story = given(REGISTERED, ERASED_ANNA, now=NOW)
    story.when(erase()).refused(AlreadyErased)
    story.when(lambda book: patient.hold(anna(book), uid(42), HoldReason.AUTHORITY, None)).refused(AlreadyErased)
    story.when(lambda book: patient.correct(anna(book), DETAILS, CorrectionSource.PATIENT, Party.FRONT_DESK)).refused(
        AlreadyErased
    )


@supposing(
    last=st.dates(date(1950, 1, 1), date(2090, 12, 31)),
    today=st.dates(date(1950, 1, 1), date(2190, 12, 31)),
    years=st.integers(retention.SHORTEST_YEARS, 100),
    holds=st.booleans(),
    ground=st.sampled_from(ErasureGround),
)
def test_nobody_is_forgotten_too_soon_and_no_refusal_names_a_day_that_refuses_again(
    last: date, today: date, years: int, holds: bool, ground: ErasureGround
) -> None:
    state = Patient(ANNA, holds=frozenset({uid(40)} if holds else ()))
    policy = RetentionPolicy(years)
    decided = patient.erase(state, ground, policy, last, today)
    if isinstance(decided, PersonErased):
        assert not holds
        assert last < today
        assert ground is ErasureGround.UNLAWFUL or today >= last.replace(day=1, year=last.year + years)
    elif decided.until is not None:
        assert decided.until > today
        assert isinstance(patient.erase(state, ground, policy, last, decided.until), PersonErased)


def test_a_leap_day_is_kept_to_the_first_of_march() -> None:
    assert kept_until(RetentionPolicy(10), date(2016, 2, 29)) == date(2026, 3, 1)
    assert kept_until(RetentionPolicy(8), date(2016, 2, 29)) == date(2024, 2, 29)


def test_the_state_that_decisions_rest_on_holds_no_word_of_the_person() -> None:
    words = PatientDetails(names=(HumanName(family="Quackenbush"),))
    told: list[Event] = [
        PatientRegistered(patient_id=ANNA, reference="Quackenbush", details=words),
        PatientDetailsCorrected(patient_id=ANNA, details=words, source=CorrectionSource.PATIENT, by=Party.PATIENT),
        HELD.model_copy(update={"matter": "Quackenbush v. Elm Street"}),
    ]
    assert "Quackenbush" not in repr(Book(NOW).apply(told).states)


def test_a_record_tells_what_was_known_when_and_who_said_so() -> None:
    before = PatientDetails(names=(HumanName(family="Exampel"),))
    record = patient.tell(None, PatientRegistered(patient_id=ANNA, details=before), NOW)
    later = NOW + timedelta(days=1)
    correction = PatientDetailsCorrected(
        patient_id=ANNA, details=DETAILS, source=CorrectionSource.DOCUMENT, by=Party.FRONT_DESK
    )
    record = patient.tell(record, correction, later)
    record = patient.tell(record, refusal(RefusalReason.RETENTION, TODAY), later)
    assert [(one.since, one.source, one.details) for one in record.tellings] == [
        (NOW, None, before),
        (later, CorrectionSource.DOCUMENT, DETAILS),
    ]
    assert record.details == DETAILS
    forgotten = patient.tell(record, correction.model_copy(update={"details": ERASED}), later)
    assert patient.tell(forgotten, ERASED_ANNA, later).erased == later
    assert forgotten.details is ERASED


@pytest.mark.parametrize("number", ["030 123456", "+0301234567", "+49 30 123456", "+4930123", "+1234567890123456", "+"])
def test_a_phone_number_is_e164(number: str) -> None:
    assert Phone(number="+4930123456").number == "+4930123456"
    with pytest.raises(ValidationError):
        Phone(number=number if number != "+4930123" else "+49301")


@pytest.mark.parametrize("address", ["anna", "anna@", "@example.org", "anna@example", "an na@example.org", "a@b@c.org"])
def test_an_e_mail_address_has_its_parts(address: str) -> None:
    assert Email(address="anna@example.org").address == "anna@example.org"
    with pytest.raises(ValidationError):
        Email(address=address)


def test_a_name_names_somebody() -> None:
    assert str(HumanName(prefix="Dr.", given=("Anna", "Maria"), family="Example")) == "Dr. Anna Maria Example"
    with pytest.raises(ValidationError):
        HumanName(prefix="Dr.")


def give(version: str = "1/en", purpose: ConsentPurpose = ConsentPurpose.RESEARCH) -> Decision:
    return lambda book: consent.give(
        book.states.get(consent.stream(ANNA)), ANNA, purpose, version, ConsentMeans.ONLINE, Party.PATIENT
    )


def withdraw(purpose: ConsentPurpose = ConsentPurpose.RESEARCH) -> Decision:
    return lambda book: consent.withdraw(
        book.states.get(consent.stream(ANNA)), ANNA, purpose, ConsentMeans.SPOKEN, Party.FRONT_DESK
    )


def test_a_consent_is_to_one_thing_and_to_the_words_that_were_shown() -> None:
    story = given(REGISTERED, now=NOW)
    story.when(withdraw()).refused(consent.NoConsent, purpose="research")
    given_once = story.when(give()).then(consent.ConsentGiven).and_then()
    given_once.when(give()).refused(consent.ConsentStands, purpose="research")
    given_once.when(withdraw(ConsentPurpose.SMS_MESSAGES)).refused(consent.NoConsent)
    newer = given_once.when(give("2/en")).then(consent.ConsentGiven).and_then()
    assert newer.book.states[consent.stream(ANNA)].given == {ConsentPurpose.RESEARCH: "2/en"}
    gone = newer.when(withdraw()).then(consent.ConsentWithdrawn).and_then()
    assert gone.book.states[consent.stream(ANNA)].given == {}
    gone.when(withdraw()).refused(consent.NoConsent)
    gone.when(give()).then(consent.ConsentGiven)

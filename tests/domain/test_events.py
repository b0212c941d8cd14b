"""The registry of events, and a golden file for each: its shape, and a payload that must stay readable for ever.

`uv run python -m tests.domain.test_events` writes the golden files of events that have none yet, and of those that
changed. A golden file that a release has seen is only ever changed in a way that old payloads survive.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

import domain
from domain import (
    access,
    appointment,
    availability,
    consent,
    denial,
    disclosure,
    glass,
    look,
    origin,
    patient,
    provider,
    proxy,
    purpose,
    reminder,
    resource,
    retention,
    series,
    slots,
)
from domain.events import ERASED, EVENTS, Event, Personal
from domain.time import Period
from domain.upcasters import upcast
from tests.domain import account_events, session_events
from tests.domain.clinic import every_day, hours, uid

GOLDEN = Path(__file__).parent / "golden"

for _module in pkgutil.iter_modules(domain.__path__):
    importlib.import_module(f"domain.{_module.name}")
# Tests elsewhere may register events of their own; the book's are those of its modules.
BOOK = {name: kind for name, kind in EVENTS.items() if kind.__module__.startswith("domain.")}

START = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
VISIT = Period(START, START + timedelta(minutes=30))
WIDE = VISIT.widened(timedelta(minutes=15), timedelta(minutes=30))
DAY = date(2026, 3, 2)
OVERRIDE = appointment.Override(rules=("too_soon",), reason=slots.OverrideReason.URGENT_NEED)
FEE = provider.Money(amount=Decimal("80.10"), currency="EUR")
WHO: dict[str, Any] = {"appointment_id": uid(1), "patient_id": uid(2), "provider_id": uid(3)}
WHERE: dict[str, Any] = {
    "location_id": uid(4),
    "visit_type_id": uid(5),
    "mode": provider.Mode.TELEMEDICINE,
    "period": VISIT,
    "occupied": WIDE,
    "time_zone": "Europe/Berlin",
    "session_id": uid(6),
    "seats": 4,
    "resources": (uid(7), uid(8)),
    "by": appointment.Party.FRONT_DESK,
    "override": OVERRIDE,
    "video_url": "https://video.example.org/room",
}
ARRANGED: dict[str, Any] = {**WHO, **WHERE, "fee": FEE, "series_id": uid(9), "reason": "my knee, naïvely ✓"}
PAGE: dict[str, Any] = {"resource_id": uid(3), "day": DAY}
PROFILE: dict[str, Any] = {
    "provider_id": uid(3),
    "name": "Dr. Example",
    "specialties": (provider.Specialty(code="207R00000X", name="internal medicine"),),
    "languages": ("de", "pt-BR"),
    "insurers": ("Example Health",),
}
PLACE = provider.Location(
    id=uid(4),
    name="Clinic",
    address="1 Example Street",
    latitude=Decimal("52.520008"),
    longitude=Decimal("13.404954"),
    time_zone="Europe/Berlin",
    country="DE",
    subdivision="BE",
)
OFFER = provider.VisitType(
    id=uid(5),
    name="first visit",
    duration_minutes=30,
    buffer_before_minutes=15,
    buffer_after_minutes=30,
    modes=(provider.Mode.IN_PERSON, provider.Mode.TELEMEDICINE),
    fee=FEE,
    self_bookable=False,
    approval_needed=True,
    seats=4,
    needs=("room",),
)
RULES = provider.BookingRules(
    minimum_notice_minutes=60,
    horizon_days=90,
    slot_step_minutes=20,
    cap_per_day=30,
    cap_per_week=120,
    cancel_notice_minutes=1440,
    move_notice_minutes=720,
    overbooking_allowance=1,
    hold_minutes=5,
)
DETAILS = patient.PatientDetails(
    names=(
        patient.HumanName(family="Exämple", given=("Anna", "Maria"), prefix="Dr.", suffix="jr."),
        patient.HumanName(use=patient.NameUse.NICKNAME, given=("Annie",)),
    ),
    birth_date=date(1987, 5, 4),
    gender=patient.AdministrativeGender.FEMALE,
    phones=(patient.Phone(number="+4930123456", use=patient.ContactUse.HOME),),
    emails=(patient.Email(address="anna@example.org"),),
    addresses=(
        patient.Address(lines=("1 Example Street",), postal_code="10115", city="Berlin", state="BE", country="DE"),
    ),
    language="de-AT",
)

# One of each, every field told.
EXAMPLES: list[Event] = [
    appointment.AppointmentHeld(**ARRANGED, held_until=START),
    appointment.AppointmentRequested(**ARRANGED),
    appointment.AppointmentBooked(**ARRANGED),
    appointment.AppointmentDeclined(
        **WHO, reason=appointment.DeclineReason.NOT_SUITABLE, by=appointment.Party.PROVIDER
    ),
    appointment.HoldLapsed(**WHO, held_until=START),
    appointment.AppointmentRescheduled(
        **WHO,
        **WHERE,
        fee=FEE,
        previous=VISIT,
        previous_provider_id=uid(10),
        reason=appointment.MoveReason.CLINIC_CLOSED,
    ),
    appointment.AppointmentCancelled(
        **WHO,
        reason=appointment.CancellationReason.PATIENT_ILL,
        by=appointment.Party.PATIENT,
        note="a cold",
        override=OVERRIDE,
    ),
    appointment.PatientCheckedIn(**WHO),
    appointment.VisitStarted(**WHO),
    appointment.VisitCompleted(**WHO, outcome=appointment.Outcome.FOLLOW_UP, note="again in June"),
    appointment.PatientDidNotCome(**WHO),
    appointment.AppointmentEnteredInError(**WHO, by=appointment.Party.SYSTEM),
    availability.TimeReserved(
        **PAGE, appointment_id=uid(1), visit=VISIT, occupied=WIDE, session_id=uid(6), seats=4, held_until=START
    ),
    availability.ReservationConfirmed(**PAGE, appointment_id=uid(1)),
    availability.TimeReleased(**PAGE, appointment_id=uid(1), reason=availability.ReleaseReason.MOVED),
    availability.TimeBlocked(**PAGE, block_id=uid(11), period=VISIT, reason=availability.BlockReason.EXTERNAL),
    availability.TimeUnblocked(**PAGE, block_id=uid(11)),
    provider.ProviderRegistered(**PROFILE),
    provider.ProviderProfileChanged(**PROFILE),
    provider.LocationSet(provider_id=uid(3), location=PLACE),
    provider.VisitTypeSet(provider_id=uid(3), visit_type=OFFER),
    provider.VisitTypeWithdrawn(provider_id=uid(3), visit_type_id=uid(5)),
    provider.WeeklyHoursPublished(
        provider_id=uid(3), location_id=uid(4), valid_from=DAY, hours=every_day("09:00-12:00", "22:00-02:00")
    ),
    provider.HoursExceptionSet(provider_id=uid(3), location_id=uid(4), day=DAY, hours=hours("10:00-11:00")),
    provider.HoursExceptionCleared(provider_id=uid(3), location_id=uid(4), day=DAY),
    provider.PublicHolidaysObserved(
        provider_id=uid(3),
        location_id=uid(4),
        first=DAY,
        last=DAY,
        holidays=(provider.Holiday(day=DAY, name="Founders' Day"),),
    ),
    provider.TimeOffPlanned(
        provider_id=uid(3), time_off_id=uid(12), period=VISIT, reason=provider.TimeOffReason.TRAINING
    ),
    provider.TimeOffCancelled(provider_id=uid(3), time_off_id=uid(12)),
    provider.BookingRulesSet(provider_id=uid(3), rules=RULES),
    resource.ResourceRegistered(resource_id=uid(7), kind=provider.ResourceKind.ROOM, name="Room 1"),
    resource.ResourceRetiredFromUse(resource_id=uid(7)),
    series.SeriesBooked(
        series_id=uid(9),
        patient_id=uid(2),
        provider_id=uid(3),
        recurrence=series.Recurrence(frequency=series.Frequency.MONTHLY, interval=2, count=3),
        appointments=(uid(1), uid(13), uid(14)),
    ),
    patient.PatientRegistered(
        patient_id=uid(2), reference="record 17", background={"age_band": "40-49"}, details=DETAILS
    ),
    patient.PatientDetailsCorrected(
        patient_id=uid(2),
        details=DETAILS,
        source=patient.CorrectionSource.DOCUMENT,
        by=appointment.Party.FRONT_DESK,
    ),
    patient.LegalHoldPlaced(
        patient_id=uid(2), hold_id=uid(16), reason=patient.HoldReason.LITIGATION, matter="4 O 1/26"
    ),
    patient.LegalHoldLifted(patient_id=uid(2), hold_id=uid(16)),
    patient.ErasureRefused(
        patient_id=uid(2),
        ground=patient.ErasureGround.CONSENT_WITHDRAWN,
        reason=patient.RefusalReason.RETENTION,
        until=DAY,
    ),
    patient.PersonErased(patient_id=uid(2), ground=patient.ErasureGround.NO_LONGER_NECESSARY),
    consent.ConsentGiven(
        patient_id=uid(2),
        purpose=consent.ConsentPurpose.RESEARCH,
        text_version="2026-03/en",
        means=consent.ConsentMeans.IN_WRITING,
        by=appointment.Party.PATIENT,
    ),
    consent.ConsentWithdrawn(
        patient_id=uid(2),
        purpose=consent.ConsentPurpose.RESEARCH,
        means=consent.ConsentMeans.SPOKEN,
        by=appointment.Party.FRONT_DESK,
    ),
    retention.RetentionPolicySet(years_after_last_visit=12, months_of_strangers=13, days_of_unverified=14),
    retention.StrangersForgotten(month="2026-03"),
    proxy.ProxyGranted(
        patient_id=uid(2),
        proxy_id=uid(20),
        account_id=uid(21),
        proxy_patient_id=uid(22),
        basis=proxy.Basis.PARENT_OF_MINOR,
        allows=(proxy.Allowance.BOOK, proxy.Allowance.READ),
        period=VISIT,
        by=appointment.Party.FRONT_DESK,
        document="birth certificate seen",
    ),
    proxy.ProxyEnded(
        patient_id=uid(2), proxy_id=uid(20), reason=proxy.EndReason.OF_AGE, by=appointment.Party.FRONT_DESK
    ),
    proxy.ProxyTakenOn(holder_id=uid(21), patient_id=uid(2)),
    glass.GlassBroken(patient_id=uid(2), reason=glass.GlassReason.EMERGENCY, words="found unconscious", until=START),
    reminder.ReminderSent(reminder_id=uid(15), appointment_id=uid(1), patient_id=uid(2), channel=reminder.Channel.SMS),
    *account_events.EXAMPLES,
    *session_events.EXAMPLES,
    denial.AccessRefused(
        whose=denial.strangers(START),
        code="token_expired",
        operation="book_appointment",
        times=3,
        first_at=START,
        last_at=START + timedelta(seconds=20),
        address="192.0.2.7",
    ),
    origin.OriginSeen(
        origin_id=uid(60), person=str(uid(61)), session_id=uid(62), client_id="portal", address="192.0.2.7", agent="x/1"
    ),
    look.RecordSeen(
        patient_id=uid(2),
        screen=look.Screen.APPOINTMENT,
        role=access.Role.PROVIDER,
        client_id="portal",
        resource_id=uid(1),
        behind_glass=True,
    ),
    look.LogUnsealed(unsealing_id=uid(64), screen=look.Screen.LOG, events=9, persons=4, first=3, last=17),
    disclosure.DisclosureRecorded(
        patient_id=uid(2),
        disclosure_id=uid(63),
        purpose=purpose.Purpose.PUBLIC_HEALTH,
        means=disclosure.Means.FAX,
        recipient="Health Office",
        address="1 Example Square",
        what="a positive test",
        why="a notifiable disease",
    ),
]
ONE_OF_EACH = {event.NAME: event for event in EXAMPLES}


class _Shape(GenerateJsonSchema):
    """A schema in which what is sealed shows, and words about it don't."""

    def is_instance_schema(self, schema: core_schema.IsInstanceSchema) -> JsonSchemaValue:
        return {"const": schema["cls"].__name__}


def shape_of(kind: type[Event]) -> dict[str, Any]:
    schema = _bare(kind.model_json_schema(schema_generator=_Shape))
    return {"person": kind.PERSON if kind.SEALED_FIELDS else None, "sealed": list(kind.SEALED_FIELDS), **schema}


def _bare(schema: Any, *, names: bool = False) -> Any:
    """Without titles and descriptions: a docstring is not a shape. Under `properties` every key is a field's name."""
    if isinstance(schema, list):
        return [_bare(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _bare(part, names=key in {"properties", "$defs"})
        for key, part in schema.items()
        if names or key not in {"title", "description"}
    }


def golden_of(name: str) -> dict[str, Any]:
    return {"shape": shape_of(BOOK[name]), "example": json.loads(ONE_OF_EACH[name].model_dump_json())}


def write_golden_files() -> None:
    for name in BOOK:
        text = json.dumps(golden_of(name), indent=1, ensure_ascii=False, sort_keys=True)
        (GOLDEN / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def test_every_event_has_an_example() -> None:
    assert set(ONE_OF_EACH) == set(BOOK), "add what is missing to EXAMPLES, every field told"
    for name, event in ONE_OF_EACH.items():
        untold = [field for field in BOOK[name].model_fields if getattr(event, field) is None]
        assert untold == [], f"the example of {name} leaves fields untold"


@pytest.mark.parametrize("name", sorted(BOOK))
def test_an_event_survives_its_way_through_json(name: str) -> None:
    event = ONE_OF_EACH[name]
    assert BOOK[name].model_validate_json(event.model_dump_json()) == event
    assert BOOK[name].model_validate(event.model_dump()) == event


@pytest.mark.parametrize("name", sorted(BOOK))
def test_the_shape_of_an_event_changes_only_with_its_version(name: str) -> None:
    path = GOLDEN / f"{name}.json"
    regenerate = "`uv run python -m tests.domain.test_events`"
    if not path.exists():
        pytest.fail(f"{name} is new: write its golden file with {regenerate}")
    if json.loads(path.read_text(encoding="utf-8"))["shape"] != shape_of(BOOK[name]):
        pytest.fail(
            f"the shape of {name} changed, and the log is full of the old one. Give the event a new name "
            f"({name.rsplit('.v', 1)[0]}.v{int(name.rsplit('.v', 1)[1]) + 1}), add a step from the old name to "
            f"domain/upcasters.py, keep the old golden file, and write the new one with {regenerate}. Only before a "
            f"first release, or for a change that every old payload survives as it is (an optional field with a "
            f"default, a further code), is {regenerate} enough."
        )


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_every_payload_that_was_ever_golden_is_still_read(path: Path) -> None:
    """Also those whose event has a newer version: they arrive through the upcasters."""
    payload = json.loads(path.read_text(encoding="utf-8"))["example"]
    name, payload = upcast(path.stem, payload)
    assert name in BOOK, f"{path.stem} is no event any more: add a step to domain/upcasters.py, never drop one"
    read = BOOK[name].model_validate_json(json.dumps(payload))
    if name == path.stem:
        assert read == ONE_OF_EACH[name]


def test_names_carry_a_version() -> None:
    for name, kind in BOOK.items():
        assert re.fullmatch(r"[A-Z][A-Za-z]+\.v[1-9][0-9]*", name), name
        assert name.split(".")[0] == kind.__name__.removesuffix(f"V{name.rsplit('.v', 1)[1]}")


def test_what_is_sealed_names_the_person_whose_key_seals_it() -> None:
    sealed = {name: kind.SEALED_FIELDS for name, kind in BOOK.items() if kind.SEALED_FIELDS}
    assert sealed == {
        "AppointmentHeld.v1": ("video_url", "reason"),
        "AppointmentRequested.v1": ("video_url", "reason"),
        "AppointmentBooked.v1": ("video_url", "reason"),
        "AppointmentRescheduled.v1": ("video_url",),
        "AppointmentCancelled.v1": ("note",),
        "VisitCompleted.v1": ("note",),
        "PatientRegistered.v1": ("reference", "background", "details"),
        "PatientDetailsCorrected.v1": ("details",),
        "LegalHoldPlaced.v1": ("matter",),
        **account_events.SEALED,
        **session_events.SEALED,
        "ProxyGranted.v1": ("document",),
        "GlassBroken.v1": ("words",),
        "OriginSeen.v1": ("address", "agent"),
        "AccessRefused.v1": ("address",),
        "DisclosureRecorded.v1": ("recipient", "address", "what", "why"),
    }
    others = {
        "OriginSeen.v1": "person",
        "AccessRefused.v1": "whose",
        **dict.fromkeys({**account_events.SEALED, **session_events.SEALED}, "account_id"),
    }
    for name in sealed:
        assert others.get(name, "patient_id") == BOOK[name].PERSON


# What proves who somebody is, or is compared with such a proof.
CREDENTIALS = {
    "ClientRegistered.v1": {"secret"},
    "ClientSecretRotated.v1": {"secret"},
    "LinkIssued.v1": {"nonce"},
    "PasskeyAdded.v1": {"credential_id", "public_key"},
    "PasswordChanged.v1": {"password_hash"},
    "PasswordRehashed.v1": {"password_hash"},
    "RecoveryCodesMade.v1": {"hashes"},
    "SessionRefreshed.v1": {"secret"},
    "SessionStarted.v1": {"secret"},
    "TotpEnrolled.v1": {"secret"},
}
# By these a field of an event that is new gives itself away.
TELLTALE = re.compile(
    r"secret|hash|password|passphrase|credential|nonce|otp|pin(_|$)|verifier|signature|seed|salt|pepper|bearer"
    r"|(^|_)(tokens?|codes?|keys?|proofs?)$"
)
# AccessRefused's code is that of a refusal.
NO_CREDENTIALS = {("AccessRefused.v1", "code")}


def test_no_credential_goes_unmarked() -> None:
    assert {name: set(kind.CREDENTIALS) for name, kind in BOOK.items() if kind.CREDENTIALS} == CREDENTIALS
    for name, kind in BOOK.items():
        telling = {
            field
            for field, info in kind.model_fields.items()
            if TELLTALE.search(field) and info.annotation not in (UUID, UUID | None, int, datetime)
        }
        unmarked = {field for field in telling - kind.CREDENTIALS if (name, field) not in NO_CREDENTIALS}
        assert not unmarked, f"{name} tells {unmarked}: mark them as `Credential`, or say here that they are none"


@pytest.mark.parametrize("name", [name for name, kind in sorted(BOOK.items()) if kind.SEALED_FIELDS])
def test_a_sealed_field_may_be_erased(name: str) -> None:
    event = ONE_OF_EACH[name]
    for field in BOOK[name].SEALED_FIELDS:
        told = {key: getattr(event, key) for key in BOOK[name].model_fields} | {field: ERASED}
        assert getattr(BOOK[name].model_validate(told), field) is ERASED


def test_free_text_of_or_about_a_person_is_never_left_open() -> None:
    """A plain string in an event that names a patient would lie readable in the log."""
    coded = {"time_zone", "client_id", "text_version"}
    for name, kind in BOOK.items():
        if "patient_id" in kind.model_fields:
            plain = {
                field
                for field, info in kind.model_fields.items()
                if info.annotation in {str, str | None} and field not in kind.SEALED_FIELDS
            }
            assert plain <= coded, f"{name} tells {plain - coded} in plain words"


def test_personal_fields_need_a_person() -> None:
    with pytest.raises(TypeError, match="PERSON"):

        class Nameless(Event):
            words: Personal[str]


def test_two_events_can_not_share_a_name() -> None:
    with pytest.raises(TypeError, match="two events"):

        class Twin(Event):
            NAME = "AppointmentBooked.v1"


@pytest.mark.parametrize("name", sorted(BOOK))
def test_an_event_can_not_be_changed_and_takes_nothing_unknown(name: str) -> None:
    event = ONE_OF_EACH[name]
    field = next(iter(BOOK[name].model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(event, field, uid(99))
    with pytest.raises(ValueError, match="extra"):
        BOOK[name].model_validate({**event.model_dump(), "surprise": 1})


if __name__ == "__main__":
    write_golden_files()

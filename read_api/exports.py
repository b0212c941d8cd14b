"""All that is held of a person, as one document: for machines (GDPR 20) and as a page for people (GDPR 15).

In: the log, opened with the person's key at this moment. Out: what is known, what happened, who was told of it, what it
is for, how long it is kept and what the person may ask for. Secrets of their account are no part of it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Query
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from domain import account, appointment, consent, holder, patient, proxy, retention
from domain.account import Account
from domain.appointment import Status
from domain.consent import ConsentGiven, ConsentWithdrawn
from domain.disclosure import REACHES_BACK
from domain.events import Erased
from domain.holder import HolderNamed
from domain.look import Screen
from domain.patient import CorrectionSource, ErasureRefused, PatientDetails
from domain.ports import EventLog, Recorded
from domain.proxy import ProxyEnded, ProxyGranted
from projections import looks
from projections.as_of import AsOf
from read_api.appointments import Appointment, shown
from read_api.asking import Asked, unknown
from read_api.consents import ConsentEntry, entry
from read_api.describing import answers
from read_api.words import AppointmentWords, words_of

router = APIRouter(tags=["personal data"])

_EVERY: Final = 1_000_000
_BITE: Final = 500
# Visits that made a medical record, or will.
_NO_VISIT: Final = frozenset({Status.DECLINED, Status.LAPSED, Status.CANCELLED, Status.ENTERED_IN_ERROR})

PURPOSES: Final = (
    "Care: arranging and keeping appointments (GDPR 6(1)(b), 9(2)(h)).",
    "Keeping the record that the law asks for (GDPR 6(1)(c)).",
    "Protecting the record: who saw or changed what is written down (GDPR 6(1)(c), 32; 45 CFR 164.312(b)).",
    "What was agreed to besides, as listed under consents (GDPR 6(1)(a)).",
)
RIGHTS: Final = (
    "To have what is wrong put right (GDPR 16).",
    "To be forgotten where nothing stands against it (GDPR 17), and to be told why where something does.",
    "To have the use of your data restricted, and to object to it (GDPR 18, 21).",
    "To take your data elsewhere in a form that machines read (GDPR 20).",
    "To withdraw any consent at any time (GDPR 7(3)).",
    "To complain to a supervisory authority (GDPR 77).",
)


class Telling(BaseModel):
    """What was known from then on, and who said so; at registration whoever registered them did."""

    since: datetime
    source: CorrectionSource | None
    details: PatientDetails | None


class ExportedAppointment(Appointment):
    words: AppointmentWords
    history: list[str]


class ExportedAccount(BaseModel):
    account_id: UUID
    email: str | None
    role: str
    status: str


class ExportedProxy(BaseModel):
    """Who may act for the person, or for a time could."""

    since: datetime
    until: datetime
    basis: str
    allows: list[str]
    document: str | None
    ended: datetime | None


class ExportedLook(BaseModel):
    """By somebody of that role; who it was, the clinic answers for (GDPR 15(1)(c) asks for recipients)."""

    at: datetime
    role: str
    what: str
    purpose: str | None


class ExportedDisclosure(BaseModel):
    at: datetime
    recipient: str | None
    address: str | None
    what: str | None
    why: str | None


class Kept(BaseModel):
    """`until` is the first day on which the record need not be kept any more; null where there was no visit."""

    years_after_last_visit: int
    last_visit: date | None
    until: date | None
    on_legal_hold: bool


class RefusedErasure(BaseModel):
    at: datetime
    reason: str
    article: str
    until: date | None


class PersonExport(BaseModel):
    """`source` says where the data come from where it was not the person (GDPR 15(1)(g))."""

    made_at: datetime
    organization: str
    patient_id: UUID
    registered_at: datetime
    erased_at: datetime | None
    reference: str | None
    background: dict[str, str] | None
    tellings: list[Telling]
    appointments: list[ExportedAppointment]
    accounts: list[ExportedAccount]
    proxies: list[ExportedProxy]
    consents: list[ConsentEntry]
    looks: list[ExportedLook]
    disclosures: list[ExportedDisclosure]
    refused_erasures: list[RefusedErasure]
    purposes: list[str]
    source: str
    kept: Kept
    rights: list[str]


class Format(StrEnum):
    JSON = "json"
    HTML = "html"


@router.get(
    "/patients/{patient_id}/export",
    response_model=PersonExport,
    **answers(404, pages=True),
)
async def export_person(
    patient_id: UUID, asked: Asked, format: Annotated[Format, Query(description="`html` is for people")] = Format.JSON
) -> Response:
    """All that is held of a person. Administrators, and patients their own."""
    asked.may("export_person")
    await asked.reach(patient_id=patient_id)
    library = asked.library
    position = await library.log.head()
    found = await of_person(library.log, asked.organization, patient_id, position, library.clock.now())
    if found is None:
        raise unknown(patient_id)
    asked.shows(Screen.PERSONAL_EXPORT, patient_id)
    if format is Format.JSON:
        return asked.written(await document(found), "application/json", position)
    html = await _in_turns(pieces(found))
    return asked.written(html, "text/html; charset=utf-8", position, {"Content-Security-Policy": _POLICY})


async def of_person(
    log: EventLog, organization: str, patient_id: UUID, position: int, now: datetime
) -> PersonExport | None:
    """What the log holds of a patient up to a position; None where it knows of none. Raises `LogUnavailable`."""
    streams = {
        "patient": patient.stream(patient_id),
        "consents": consent.stream(patient_id),
        "proxies": proxy.stream(patient_id),
        "holder": holder.stream(patient_id),
        "retention": retention.STREAM,
    }
    loaded = await log.load(organization, dict.fromkeys(streams.values(), 0), upto=position)
    told = {name: loaded[stream] for name, stream in streams.items()}
    state: patient.Patient | None = None
    record: patient.Record | None = None
    for one in told["patient"]:
        state = patient.evolve(state, one.event)
        record = patient.tell(record, one.event, one.recorded_at)
    if state is None or record is None:
        return None
    appointments = await _appointments(log, organization, patient_id, position, now)
    seen = [
        ExportedLook(
            at=one.recorded.occurred_at,
            role=one.look.role.value,
            what=looks.said(one.look.screen),
            purpose=one.recorded.purpose,
        )
        async for some in looks.every(log, organization, patient_id, upto=position)
        for one in some
    ]
    disclosed = await looks.written_down(log, organization, patient_id, now - REACHES_BACK, now, upto=position)
    return PersonExport(
        made_at=now,
        organization=organization,
        patient_id=patient_id,
        registered_at=record.registered,
        erased_at=record.erased,
        reference=_readable(record.reference),
        background=None if isinstance(record.background, Erased) else record.background,
        tellings=[
            Telling(
                since=one.since,
                source=one.source,
                details=None if isinstance(one.details, Erased) else one.details,
            )
            for one in record.tellings
        ],
        appointments=appointments,
        accounts=await _accounts(log, organization, patient_id, told["holder"], position),
        proxies=_proxies(told["proxies"]),
        consents=[
            entry(one.event, one.recorded_at)
            for one in told["consents"]
            if isinstance(one.event, ConsentGiven | ConsentWithdrawn)
        ],
        looks=seen,
        disclosures=[
            ExportedDisclosure(at=one.at, recipient=one.recipient, address=one.address, what=one.what, why=one.why)
            for one in disclosed
        ],
        refused_erasures=[_refused(event, at) for at, event in record.refused],
        purposes=list(PURPOSES),
        source=_source(record),
        kept=_kept(told["retention"], appointments, bool(state.holds)),
        rights=list(RIGHTS),
    )


async def _appointments(
    log: EventLog, organization: str, patient_id: UUID, position: int, now: datetime
) -> list[ExportedAppointment]:
    then = AsOf(log, organization, position)
    rows = (await then.of_patient(patient_id, limit=_EVERY)).appointments
    streams = {row.appointment_id: appointment.stream(row.appointment_id) for row in rows}
    told = await log.load(organization, dict.fromkeys(streams.values(), 0), upto=position)
    found = []
    for row in rows:
        words = words_of(told[streams[row.appointment_id]])
        lines = await then.history(row.appointment_id)
        if words is not None:
            said = {"words": words, "history": [f"{line.at:%Y-%m-%d %H:%M} UTC: {line.sentence}" for line in lines]}
            found.append(ExportedAppointment.model_validate(shown(row, now) | said))
    return found


async def _accounts(
    log: EventLog, organization: str, patient_id: UUID, told: Sequence[Recorded], position: int
) -> list[ExportedAccount]:
    named = dict.fromkeys(one.event.account_id for one in told if isinstance(one.event, HolderNamed))
    loaded = await log.load(organization, {account.stream(key): 0 for key in named}, upto=position)
    found = []
    for events in loaded.values():
        state: Account | None = None
        for one in events:
            state = account.evolve(state, one.event)
        # One that has become somebody else's is no longer theirs to see.
        if state is not None and state.person == patient_id:
            found.append(
                ExportedAccount(
                    account_id=state.id,
                    email=_readable(state.email),
                    role=state.role.value,
                    status=state.status.value,
                )
            )
    return found


def _proxies(told: Sequence[Recorded]) -> list[ExportedProxy]:
    found: dict[UUID, ExportedProxy] = {}
    for one in told:
        match one.event:
            case ProxyGranted() as event:
                found[event.proxy_id] = ExportedProxy(
                    since=event.period.start,
                    until=event.period.end,
                    basis=event.basis.value,
                    allows=[allowed.value for allowed in event.allows],
                    document=_readable(event.document),
                    ended=None,
                )
            case ProxyEnded() as event if event.proxy_id in found:
                found[event.proxy_id].ended = one.occurred_at
    return list(found.values())


def _refused(event: ErasureRefused, at: datetime) -> RefusedErasure:
    return RefusedErasure(at=at, reason=event.reason.value, article=patient.ARTICLE[event.reason], until=event.until)


def _source(record: patient.Record) -> str:
    if record.background is not None:
        return "Registered by the clinic, with what was taken over from another system."
    return "Registered by the clinic; since then as each entry says."


def _kept(told: Sequence[Recorded], appointments: Sequence[ExportedAppointment], held: bool) -> Kept:
    policy = retention.AS_SHIPPED
    for one in told:
        policy = retention.evolve(policy, one.event)
    days = [one.start.date() for one in appointments if one.status not in _NO_VISIT]
    last = max(days, default=None)
    return Kept(
        years_after_last_visit=policy.years_after_last_visit,
        last_visit=last,
        until=retention.kept_until(policy, last) if last is not None else None,
        on_legal_hold=held,
    )


def _readable(words: str | Erased | None) -> str | None:
    return None if isinstance(words, Erased) else words


_FOLDER = Path(__file__).parent
_STYLE = (_FOLDER / "export.css").read_text("utf-8")
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


async def document(found: PersonExport) -> bytes:
    """As `model_dump_json` writes it. Whoever was looked at a hundred thousand times keeps nobody waiting."""
    members = []
    for name, value in found:
        if isinstance(value, list):
            bites = (to_json(value[start : start + _BITE])[1:-1].decode() for start in range(0, len(value), _BITE))
            members.append(f'"{name}":[{await _in_turns(bites, ",", 1)}]')
        else:
            members.append(f'"{name}":{to_json(value).decode()}')
    return f"{{{','.join(members)}}}".encode()


def pieces(found: PersonExport) -> Iterator[str]:
    """The same for people: one file that fetches nothing, in its order."""
    return _PAGE.generate(person=found, style=Markup(_STYLE))  # noqa: S704 - ours


async def _in_turns(made: Iterator[str], between: str = "", at_once: int = _BITE) -> str:
    """What is made piece by piece, as one; others have their turn in between."""
    parts = []
    while some := list(islice(made, at_once)):
        parts += some
        await asyncio.sleep(0)
    return between.join(parts)


def _facts(details: PatientDetails) -> Mapping[str, str]:
    """What is known, in words, by what it is."""
    addresses = [
        ", ".join(part for part in (*one.lines, one.postal_code, one.city, one.state, one.country) if part)
        for one in details.addresses
    ]
    told: dict[str, Any] = {
        "Name": "; ".join(map(str, details.names)),
        "Born": details.birth_date,
        "Gender": details.gender,
        "Phone": ", ".join(one.number for one in details.phones),
        "E-mail": ", ".join(one.address for one in details.emails),
        "Address": "; ".join(addresses),
        "Language": details.language,
    }
    return {name: str(value) for name, value in told.items() if value}


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["facts"] = _facts
    made.filters["words"] = lambda code: str(code).replace("_", " ")
    made.filters["moment"] = lambda at: f"{at:%Y-%m-%d %H:%M} UTC"
    return made


_PAGE = _environment().get_template("export.html")

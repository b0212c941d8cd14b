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

from domain import appointment, consent, glass, holder, patient, proxy, retention
from domain.access import Role
from domain.appointment import Status
from domain.consent import ConsentGiven, ConsentWithdrawn
from domain.disclosure import REACHES_BACK
from domain.events import Erased
from domain.glass import GlassBroken, GlassReason
from domain.look import Screen
from domain.patient import (
    CorrectionSource,
    ErasureRefused,
    HoldReason,
    LegalHoldLifted,
    LegalHoldPlaced,
    PatientDetails,
)
from domain.ports import EventLog, Recorded
from domain.proxy import ProxyEnded, ProxyGranted
from projections import looks
from projections.as_of import AsOf
from read_api.appointments import Appointment, shown
from read_api.asking import Asked, unknown
from read_api.consents import ConsentEntry, entry
from read_api.describing import answers
from read_api.exported_accounts import ExportedAccount, ExportedOrigin, accounts_of, origins_of
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
WITHHELD: Final = (
    "The matter of a legal hold: it is written down for legal claims (GDPR 15(4), 23(1)(j); 45 CFR 164.524(a)(1)(ii)).",
    "What was said where the record was opened to protect somebody: it may put another at risk. Ask the clinic, where a"
    " professional decides (GDPR 15(4), 23(1)(i); 45 CFR 164.524(a)(3)).",
    "The names of those who looked, or opened the record in an emergency: the clinic answers for them (GDPR 15(4)).",
    "Hashes and keys by which you sign in: whoever had them could come in as you (GDPR 32).",
    "Where somebody was who registered your account, guessed at your password or asked for a link: it may not have been"
    " you (GDPR 11, 15(4)).",
)


class Telling(BaseModel):
    """What was known from then on, and who said so; at registration whoever registered them did."""

    since: datetime
    source: CorrectionSource | None
    details: PatientDetails | None


class ExportedAppointment(Appointment):
    words: AppointmentWords
    history: list[str]


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


class ExportedEmergency(BaseModel):
    """The record was opened without a visit, for a stated reason. `words` are what was said of the person then; null
    where they were erased, or are withheld."""

    at: datetime
    until: datetime
    reason: GlassReason
    words: str | None


class ExportedHold(BaseModel):
    """What keeps the record from being erased. The matter is withheld."""

    placed: datetime
    lifted: datetime | None
    reason: HoldReason


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
    """`source` says where the data come from where it was not the person (GDPR 15(1)(g)). `withheld` says what is held
    and not told here, and why."""

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
    origins: list[ExportedOrigin]
    proxies: list[ExportedProxy]
    consents: list[ConsentEntry]
    looks: list[ExportedLook]
    disclosures: list[ExportedDisclosure]
    emergencies: list[ExportedEmergency]
    holds: list[ExportedHold]
    refused_erasures: list[RefusedErasure]
    withheld: list[str]
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
    html = await page(found)
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
    accounts, causes = await accounts_of(log, organization, patient_id, told["holder"], position)
    causes |= {one.causation_id for events in told.values() for one in events if one.causation_id is not None}
    appointments = await _appointments(log, organization, patient_id, position, now, causes)
    seen = []
    async for some in looks.every(log, organization, patient_id, upto=position):
        for by in some:
            seen.append(
                ExportedLook(
                    at=by.recorded.occurred_at,
                    role=by.look.role.value,
                    what=looks.said(by.look.screen),
                    purpose=by.recorded.purpose,
                )
            )
            if by.look.role is Role.PATIENT and by.recorded.causation_id is not None:
                causes.add(by.recorded.causation_id)
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
        accounts=accounts,
        origins=await origins_of(
            log, organization, [patient_id, *(one.account_id for one in accounts)], causes, position
        ),
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
        emergencies=await _emergencies(log, organization, patient_id, position),
        holds=_holds(told["patient"]),
        refused_erasures=[_refused(event, at) for at, event in record.refused],
        withheld=list(WITHHELD),
        purposes=list(PURPOSES),
        source=_source(record),
        kept=_kept(told["retention"], appointments, bool(state.holds)),
        rights=list(RIGHTS),
    )


async def _appointments(
    log: EventLog, organization: str, patient_id: UUID, position: int, now: datetime, causes: set[UUID]
) -> list[ExportedAppointment]:
    """What they come from is added to `causes`."""
    then = AsOf(log, organization, position)
    rows = (await then.of_patient(patient_id, limit=_EVERY)).appointments
    streams = {row.appointment_id: appointment.stream(row.appointment_id) for row in rows}
    told = await log.load(organization, dict.fromkeys(streams.values(), 0), upto=position)
    causes |= {one.causation_id for events in told.values() for one in events if one.causation_id is not None}
    found = []
    for row in rows:
        words = words_of(told[streams[row.appointment_id]])
        lines = await then.history(row.appointment_id)
        if words is not None:
            said = {"words": words, "history": [f"{line.at:%Y-%m-%d %H:%M} UTC: {line.sentence}" for line in lines]}
            found.append(ExportedAppointment.model_validate(shown(row, now) | said))
    return found


async def _emergencies(log: EventLog, organization: str, patient_id: UUID, position: int) -> list[ExportedEmergency]:
    # Breaking the glass is rare, and each stream is one person's over one patient: the log itself is the list.
    names = [name for name in await log.streams(organization, *glass.streams()) if name.endswith(f"/{patient_id}")]
    loaded = await log.load(organization, dict.fromkeys(names, 0), upto=position)
    found = [
        ExportedEmergency(
            at=one.occurred_at,
            until=one.event.until,
            reason=one.event.reason,
            words=None if one.event.reason is GlassReason.SAFEGUARDING else _readable(one.event.words),
        )
        for events in loaded.values()
        for one in events
        if isinstance(one.event, GlassBroken)
    ]
    return sorted(found, key=lambda one: one.at)


def _holds(told: Sequence[Recorded]) -> list[ExportedHold]:
    found: dict[UUID, ExportedHold] = {}
    for one in told:
        match one.event:
            case LegalHoldPlaced() as event:
                found[event.hold_id] = ExportedHold(placed=one.occurred_at, lifted=None, reason=event.reason)
            case LegalHoldLifted() as event if event.hold_id in found:
                found[event.hold_id].lifted = one.occurred_at
    return list(found.values())


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


async def page(found: PersonExport) -> str:
    """All the pieces; they keep nobody waiting either."""
    return await _in_turns(pieces(found))


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

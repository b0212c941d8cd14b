"""Every route of every API, asked by every role in every relationship, against a table written by hand.

A route that is not in the table fails; the failure says which line to add. A new route needs, besides its line in
`WALK`, a line in `ASKED` where it takes a body or an id that is not there yet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from starlette.routing import Route

import write_api.oauth.app
from commands.accounts import CreateAccount, InviteAccount
from commands.appointments import BookAppointment
from commands.clients import RegisterClient
from commands.erasure import PlaceLegalHold
from commands.glass import BreakGlass
from commands.loop import Command
from commands.patients import RegisterPatient
from commands.providers import PublishHours, TimeOff
from commands.proxies import EndProxy, GrantProxy
from commands.resources import RegisterResource
from commands.sessions import StartSession
from domain.access import Actor, Role
from domain.client import Details, Grant, Kind
from domain.glass import GlassReason
from domain.patient import HoldReason
from domain.provider import ResourceKind, TimeOffReason
from domain.proxy import Allowance, Basis
from domain.time import Period
from infra.embedded.clickhouse import ClickHouse
from tests.clinic import (
    ADMIN,
    APPROVED,
    CHECKUP,
    DESK,
    LOCATION,
    ORGANIZATION,
    SYSTEM,
    Clinic,
    in_days,
    open_clinic,
    patient_actor,
)
from tests.conftest import Database
from tests.people import OTHER_PASSWORD, PASSWORD
from tests.served import Served, at, served, someone

# How Anna, the patient that all is about, and a visit of hers with a third provider, are reached.
#   self       Anna                           own_dr    a provider with whom she has another visit
#   proxy      stands in for her              other_dr  a provider with whom she has none
#   ended      stood in until a moment ago    glass_dr  the same, having broken the glass
#   stranger   another patient                elsewhere an administrator of another organization
# The statuses: 2 is done, 9 (409) is let through and refused by a rule of the book; 403 and 404 in full.
WALK = """
                                                            self proxy ended stranger own_dr other_dr glass_dr desk admin system auditor analyst elsewhere
POST   /write/appointments                                  2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/appointments/hold                             2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/series                                        2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/appointments/{appointment_id}/book            2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/appointments/{appointment_id}/accept          403  403   403   403      2      404      2        2    2     2      403     403     404
POST   /write/appointments/{appointment_id}/decline         403  403   403   403      2      404      2        2    2     2      403     403     404
POST   /write/appointments/{appointment_id}/move            2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/appointments/{appointment_id}/cancel          2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/appointments/{appointment_id}/check-in        403  403   403   403      9      404      9        9    9     9      403     403     404
POST   /write/appointments/{appointment_id}/start           403  403   403   403      9      404      9        9    9     9      403     403     404
POST   /write/appointments/{appointment_id}/complete        403  403   403   403      9      404      9        9    9     9      403     403     404
POST   /write/appointments/{appointment_id}/no-show         403  403   403   403      9      404      9        9    9     9      403     403     404
POST   /write/appointments/{appointment_id}/entered-in-error 403 403   403   403      2      404      2        2    2     2      403     403     404
POST   /write/providers                                     403  403   403   403      403    403      403      403  2     2      403     403     2
PUT    /write/providers/{provider_id}/profile               403  403   403   403      2      403      403      2    2     2      403     403     404
PUT    /write/providers/{provider_id}/locations/{location_id} 403 403  403   403      2      403      403      2    2     2      403     403     404
PUT    /write/providers/{provider_id}/visit-types/{visit_type_id} 403 403 403 403     2      403      403      2    2     2      403     403     404
DELETE /write/providers/{provider_id}/visit-types/{visit_type_id} 403 403 403 403     2      403      403      2    2     2      403     403     404
PUT    /write/providers/{provider_id}/rules                 403  403   403   403      2      403      403      2    2     2      403     403     404
POST   /write/providers/{provider_id}/hours                 403  403   403   403      2      403      403      2    2     2      403     403     404
DELETE /write/providers/{provider_id}/time-off/{time_off_id} 403 403   403   403      2      403      403      2    2     2      403     403     404
POST   /write/resources                                     403  403   403   403      403    403      403      2    2     2      403     403     2
POST   /write/resources/{resource_id}/retire                403  403   403   403      403    403      403      2    2     2      403     403     404
POST   /write/blocks                                        403  403   403   403      2      403      403      2    2     2      403     403     404
POST   /write/patients                                      403  403   403   403      2      2        2        2    2     2      403     403     2
PUT    /write/patients/{patient_id}/details                 2    2     404   404      2      404      2        2    2     2      403     403     404
POST   /write/patients/{patient_id}/consents                2    404   404   404      403    403      403      2    2     403    403     403     404
POST   /write/patients/{patient_id}/consents/withdraw       2    404   404   404      403    403      403      2    2     403    403     403     404
POST   /write/patients/{patient_id}/erasure                 403  403   403   403      403    403      403      403  2     2      403     403     404
POST   /write/patients/{patient_id}/holds                   403  403   403   403      403    403      403      403  2     403    403     403     404
POST   /write/patients/{patient_id}/holds/{hold_id}/lift    403  403   403   403      403    403      403      403  2     403    403     403     404
PUT    /write/retention                                     403  403   403   403      403    403      403      403  2     403    403     403     2
POST   /write/patients/{patient_id}/proxies                 2    404   404   404      403    403      403      2    2     403    403     403     404
POST   /write/patients/{patient_id}/proxies/{proxy_id}/end  2    404   404   404      403    403      403      2    2     403    403     403     404
POST   /write/patients/{patient_id}/proxies/{proxy_id}/give-up 404 2   404   404      403    403      403      403  403   403    403     403     403
POST   /write/patients/{patient_id}/disclosures             403  403   403   403      2      404      2        2    2     403    403     403     404
POST   /write/accounts/me/password                          2    2     2     2        2      2        2        2    2     403    2       2       403
POST   /write/accounts/me/totp                              2    2     2     2        2      2        2        2    2     403    2       2       403
POST   /write/accounts/me/totp/confirm                      422  422   422   422      422    422      422      422  422   403    422     422     403
DELETE /write/accounts/me/totp                              2    2     2     2        2      2        2        2    9     403    9       2       403
POST   /write/accounts/me/recovery-codes                    2    2     2     2        2      2        2        2    2     403    2       2       403
POST   /write/accounts/me/passkey-options                   2    2     2     2        2      2        2        2    2     403    2       2       403
POST   /write/accounts/me/passkeys                          422  422   422   422      422    422      422      422  422   403    422     422     403
DELETE /write/accounts/me/passkeys/{passkey_id}             9    9     9     9        9      9        9        9    9     403    9       9       403
POST   /write/accounts/invitations                          403  403   403   403      403    403      403      2    2     2      403     403     404
POST   /write/accounts/{account_id}/invitations             403  403   403   403      403    403      403      2    2     2      403     403     404
POST   /write/accounts/{account_id}/role                    403  403   403   403      403    403      403      403  2     2      403     403     404
POST   /write/accounts/{account_id}/lock                    403  403   403   403      403    403      403      403  2     2      403     403     404
POST   /write/accounts/{account_id}/unlock                  403  403   403   403      403    403      403      403  2     2      403     403     404
POST   /write/accounts/{account_id}/reset-factors           403  403   403   403      403    403      403      403  9     9      403     403     404
POST   /write/accounts/{account_id}/close                   403  403   403   403      403    403      403      403  2     2      403     403     404
PUT    /write/accounts/mfa-policy                           403  403   403   403      403    403      403      403  2     2      403     403     2
DELETE /write/accounts/{account_id}/sessions/{session_id}   404  404  404   404      404    404      404      404  2     2      404     404     404
DELETE /write/accounts/{account_id}/sessions                404  404  404   404      404    404      404      404  2     2      404     404     404
GET    /read/accounts/{account_id}/sessions                 404  404  404   404      404    404      404      404  2     2      404     404     404
POST   /write/clients                                       403  403  403   403      403    403      403      403  2     2      403     403     2
POST   /write/clients/{client_id}/secret                    403  403  403   403      403    403      403      403  2     2      403     403     404
DELETE /write/clients/{client_id}                           403  403  403   403      403    403      403      403  2     2      403     403     404
GET    /read/clients                                        403  403  403   403      403    403      403      403  2     2      403     403     2
POST   /write/patients/{patient_id}/glass                   403  403   403   403      2      2        2        2    403   403    403     403     403
GET    /read/accounts/{account_id}                          404  404  404   404      404    404      404      404  2     2      404     404     404
GET    /read/slots                                          2    2     404   404      2      404      2        2    2     2      2       403     404
GET    /read/appointments/{appointment_id}                  2    2     404   404      2      404      2        2    2     2      2       403     404
GET    /read/appointments/{appointment_id}/words            2    2     404   404      2      404      2        403  2     2      403     403     404
GET    /read/providers/directory                            2    2     2     2        2      2        2        2    2     2      2       403     2
GET    /read/providers                                      2    2     2     2        2      2        2        2    2     2      2       403     2
GET    /read/providers/{provider_id}                        2    2     2     2        2      2        2        2    2     2      2       403     404
GET    /read/providers/{provider_id}/day                    403  403   403   403      2      403      403      2    2     2      2       403     404
GET    /read/providers/{provider_id}/week                   403  403   403   403      2      403      403      2    2     2      2       403     404
GET    /read/patients/{patient_id}                          2    2     404   404      2      404      2        2    2     2      403     403     404
GET    /read/patients/{patient_id}/appointments             2    2     404   404      2      404      2        2    2     2      2       403     404
GET    /read/patients/{patient_id}/consents                 2    2     404   404      2      404      2        2    2     2      2       403     404
GET    /read/patients/{patient_id}/export                   2    404   404   404      403    403      403      403  2     403    403     403     404
GET    /read/patients/{patient_id}/looks                    2    404   404   404      403    403      403      403  2     403    2       403     404
GET    /read/suspicious                                     403  403   403   403      403    403      403      403  2     403    2       403     2
GET    /read/patients/{patient_id}/disclosures              2    404   404   404      403    403      403      403  2     403    2       403     404
GET    /read/patients/{patient_id}/holds                    403  403   403   403      403    403      403      403  2     403    2       403     404
GET    /read/retention                                      403  403   403   403      403    403      403      2    2     403    2       403     2
POST   /read/patients/search                                403  403   403   403      2      2        2        2    2     2      403     403     2
GET    /read/patients/{patient_id}/proxies                  2    2     404   404      2      404      2        2    2     2      2       403     404
GET    /read/proxies                                        2    2     2     2        403    403      403      403  403   403    403     403     403
GET    /read/glass                                          403  403   403   403      403    403      403      403  2     403    2       403     2
GET    /read/resources                                      2    2     2     2        2      2        2        2    2     2      2       403     2
GET    /read/resources/{resource_id}                        2    2     2     2        2      2        2        2    2     2      2       403     404
GET    /read/resources/{resource_id}/page                   403  403   403   403      2      404      2        2    2     2      2       403     404
GET    /read/facts/weekdays                                 403  403   403   403      403    403      403      403  2     2      2       2       2
GET    /read/facts/lead-times                               403  403   403   403      403    403      403      403  2     2      2       2       2
GET    /read/facts/hours                                    403  403   403   403      403    403      403      403  2     2      2       2       2
GET    /read/facts/statuses                                 403  403   403   403      403    403      403      403  2     2      2       2       2
DELETE /write/accounts/me                                   2    2     2     2        2      2        2        2    2     403    2       2       403
"""  # noqa: E501 - a line is a row

# Routes that anybody may ask, without a token.
PUBLIC: frozenset[str] = frozenset(
    {
        "POST /write/accounts",
        "POST /write/accounts/verify",
        "POST /write/accounts/reset/ask",
        "POST /write/accounts/reset",
    }
)
# What stands in no description: pages, files, and the doors of OAuth 2.1 and OpenID Connect, each with a way of its own
# of knowing who asks (a cookie of the sign-in, a client's secret, a code), shown in tests/write_api/oauth.
UNDESCRIBED = """
GET  /write/openapi.json      GET  /write/docs        GET  /read/openapi.json       GET  /read/docs
GET  /oauth/authorize         POST /oauth/authorize   POST /oauth/token             POST /oauth/revoke
POST /oauth/introspect        GET  /oauth/userinfo    POST /oauth/userinfo          GET  /oauth/jwks
GET  /.well-known/openid-configuration                GET  /.well-known/oauth-authorization-server
GET  /.well-known/smart-configuration                 GET  /oauth/assets/{name}     GET  /oauth/continue
GET  /oauth/sign-in           POST /oauth/sign-in     POST /oauth/second-factor     POST /oauth/passkey
POST /oauth/enrol             POST /oauth/consent     GET  /oauth/end-session       POST /oauth/end-session
POST /oauth/sign-out          GET  /oauth/sessions    POST /oauth/sessions/end
GET  /oauth/account/register  POST /oauth/account/register
GET  /oauth/account/forgotten POST /oauth/account/forgotten
GET  /oauth/account/{purpose} POST /oauth/account/{purpose}
POST /oauth/outside/{name}    GET  /oauth/outside/{name}/back
POST /oauth/outside/{name}/link                       POST /oauth/outside/{name}/unlink
"""
# Routes that ask no scope of a bounded token, since no app is kept from what concerns its own session.
UNSCOPED: frozenset[str] = frozenset()

ELSEWHERE = "oak-street"
_WAYS, *_ROWS = (line.split() for line in WALK.strip().splitlines())
EXPECTED = {f"{method} {path}": dict(zip(_WAYS, cells, strict=True)) for method, path, *cells in _ROWS}


def _times() -> Iterator[datetime]:
    for number in count():
        yield in_days(3 + number // 18, 8 + number % 18 // 2, 30 * (number % 2))


@dataclass
class Walk:
    """A clinic in which everything is ready to be asked for; what a route uses up is made anew for each asker."""

    book: Served
    clinic: Clinic
    who: dict[str, Actor]
    times: Iterator[datetime] = field(default_factory=_times)

    @property
    def anna(self) -> UUID:
        return self.clinic.patient

    @property
    def own_dr(self) -> UUID:
        return self.clinic.providers[0]

    async def made(self, command: Command, key: str, who: Actor = ADMIN) -> str:
        answer = await self.book.desk.handle(command, who, ORGANIZATION)
        return str(answer.content[key])

    async def visit(self, visit_type: UUID = CHECKUP.id, who: Actor = DESK) -> str:
        """A visit of Anna's with the third provider: nobody's here but hers."""
        return await self.made(BookAppointment(**self.arranging(visit_type)), "appointment_id", who)

    def arranging(self, visit_type: UUID = CHECKUP.id) -> dict[str, Any]:
        return {
            "patient_id": self.anna,
            "provider_id": self.clinic.providers[2],
            "location_id": LOCATION.id,
            "visit_type_id": visit_type,
            "start": next(self.times),
        }


@dataclass(frozen=True)
class Question:
    """What stands in the place of a path's braces, the body, and the query."""

    ids: dict[str, str] = field(default_factory=dict)
    body: Any = None
    params: dict[str, str] = field(default_factory=dict)


def plain(body: dict[str, Any]) -> dict[str, Any]:
    return {name: at(value) if isinstance(value, datetime) else str(value) for name, value in body.items()}


async def _arrange(walk: Walk) -> Question:
    return Question(body=plain(walk.arranging()))


async def _series(walk: Walk) -> Question:
    # Both days lie behind everybody else's.
    start = next(walk.times) + timedelta(days=60)
    again = {"recurrence": {"frequency": "weekly", "interval": 8, "count": 2}}
    return Question(body={**plain(walk.arranging()), "start": at(start), **again})


def _visit(body: Any = None) -> Callable[[Walk], Awaitable[Question]]:
    async def ask(walk: Walk) -> Question:
        return Question({"appointment_id": await walk.visit()}, body)

    return ask


async def _held(walk: Walk) -> Question:
    held = await walk.book.post("/appointments/hold", DESK, plain(walk.arranging()))
    return Question({"appointment_id": held.json()["appointment_id"]})


def _requested(body: Any = None) -> Callable[[Walk], Awaitable[Question]]:
    async def ask(walk: Walk) -> Question:
        return Question({"appointment_id": await walk.visit(APPROVED.id, walk.who["self"])}, body)

    return ask


async def _move(walk: Walk) -> Question:
    return Question({"appointment_id": await walk.visit()}, {"start": at(next(walk.times))})


def _body(body: Any) -> Callable[[Walk], Awaitable[Question]]:
    async def ask(walk: Walk) -> Question:
        return Question(body=body)

    return ask


async def _new_visit_type(walk: Walk) -> Question:
    return Question({"visit_type_id": str(uuid4())}, {"name": "Vaccination", "duration_minutes": 10})


async def _withdrawn(walk: Walk) -> Question:
    kind = str(uuid4())
    path = f"/providers/{walk.own_dr}/visit-types/{kind}"
    made = await walk.book.put(path, ADMIN, {"name": "Vaccination", "duration_minutes": 10})
    assert made.status_code == 200, made.text
    return Question({"visit_type_id": kind})


async def _time_off(walk: Walk) -> Question:
    start = next(walk.times) + timedelta(days=200)
    away = TimeOff(period=Period(start, start + timedelta(minutes=20)), reason=TimeOffReason.TRAINING)
    command = PublishHours(provider_id=walk.own_dr, time_off=(away,))
    answer = await walk.book.desk.handle(command, ADMIN, ORGANIZATION)
    return Question({"time_off_id": answer.content["time_off"][0]["time_off_id"]})


async def _room(walk: Walk) -> Question:
    room = RegisterResource(kind=ResourceKind.ROOM, name="Another room")
    return Question({"resource_id": await walk.made(room, "resource_id")})


async def _block(walk: Walk) -> Question:
    start = next(walk.times) + timedelta(days=200)
    period = {"start": at(start), "end": at(start + timedelta(minutes=20))}
    return Question(body={"block": [{"resource_id": str(walk.own_dr), "period": period}]})


async def _withdraw_consent(walk: Walk) -> Question:
    agreed = {"purpose": "research", "text_version": f"v{uuid4().hex[:8]}", "means": "online"}
    given = await walk.book.post(f"/patients/{walk.anna}/consents", ADMIN, agreed)
    assert given.status_code == 201, given.text
    return Question(body={"purpose": "research", "means": "online"})


async def _give_consent(walk: Walk) -> Question:
    return Question(body={"purpose": "sms_messages", "text_version": f"v{uuid4().hex[:8]}", "means": "online"})


async def _erase(walk: Walk) -> Question:
    gone = await walk.made(RegisterPatient(), "patient_id")
    return Question({"patient_id": gone}, {"ground": "consent_withdrawn"})


async def _hold_to_lift(walk: Walk) -> Question:
    command = PlaceLegalHold(patient_id=walk.anna, reason=HoldReason.LITIGATION)
    return Question({"hold_id": await walk.made(command, "hold_id")})


async def _proxy_to_grant(walk: Walk) -> Question:
    until = at(datetime.now(UTC) + timedelta(days=2))
    somebody = str(walk.clinic.patients[4])
    return Question(body={"proxy_patient_id": somebody, "basis": "consent", "allows": ["read"], "until": until})


async def _proxy_to_end(walk: Walk) -> Question:
    """Another one of those who stand in for Anna, granted beside the one that the walk goes on with."""
    return Question({"proxy_id": await walk.made(standing_in(walk.anna, walk.clinic.patients[1]), "proxy_id")})


async def _disclosure(walk: Walk) -> Question:
    told = {"recipient": "Health Office of Example", "what": "a positive test", "why": "a notifiable disease"}
    return Question(body={"made_at": "2026-03-02T10:00:00Z", "purpose": "PUBLICHEALTH", "means": "fax", **told})


async def _account(walk: Walk) -> Question:
    made = CreateAccount(email=f"{uuid4().hex}@example.org", role=Role.FRONT_DESK, password=PASSWORD)
    return Question({"account_id": await walk.made(made, "account_id", SYSTEM)})


async def _role(walk: Walk) -> Question:
    return replace(await _account(walk), body={"role": "auditor"})


async def _invite(walk: Walk) -> Question:
    somebody = await walk.made(RegisterPatient(), "patient_id")
    return Question(body={"email": f"{uuid4().hex}@example.org", "role": "patient", "patient_id": somebody})


async def _invited(walk: Walk) -> Question:
    somebody = UUID(await walk.made(RegisterPatient(), "patient_id"))
    invited = InviteAccount(email=f"{uuid4().hex}@example.org", role=Role.PATIENT, patient_id=somebody)
    return Question({"account_id": await walk.made(invited, "account_id", SYSTEM)})


async def _session(walk: Walk) -> Question:
    """Somebody else's. One's own is ended in tests/write_api/oauth."""
    question = await _account(walk)
    account_id, session_id = UUID(question.ids["account_id"]), uuid4()
    (state,) = [state for _, state in (await walk.book.desk.states(ORGANIZATION, [f"account/{account_id}"])).values()]
    started = StartSession(
        account_id=account_id,
        session_id=session_id,
        era=state.era,
        factors=("pwd",),
        authenticated_at=datetime.now(UTC),
    )
    await walk.made(started, "outcome", SYSTEM)
    return Question({"account_id": str(account_id), "session_id": str(session_id)})


async def _client(walk: Walk) -> Question:
    details = Details(
        name="A laboratory",
        kind=Kind.CONFIDENTIAL,
        grants=(Grant.CLIENT_CREDENTIALS,),
        scopes=("system/Appointment.rs",),
    )
    return Question({"client_id": await walk.made(RegisterClient(details=details, secret="0" * 64), "client_id")})


async def _passkey(walk: Walk) -> Question:
    return Question({"passkey_id": str(uuid4())})


async def _break_glass(walk: Walk) -> Question:
    # Not Anna's, who would be within reach of all who broke it from then on.
    body = {"reason": "emergency", "words": "Unconscious in the hall."}
    return Question({"patient_id": str(walk.clinic.patients[4])}, body)


async def _slots(walk: Walk) -> Question:
    kind, who = str(CHECKUP.id), str(walk.anna)
    return Question(params={"visit_type_id": kind, "provider_id": str(walk.own_dr), "patient_id": who})


async def _page(walk: Walk) -> Question:
    return Question({"resource_id": str(walk.anna)})


_DAYS = {"first": "2027-01-01", "last": "2027-01-31"}


async def _figures(walk: Walk) -> Question:
    return Question(params=_DAYS)


async def _nothing(walk: Walk) -> Question:
    return Question()


ASKED: dict[str, Callable[[Walk], Awaitable[Question]]] = {
    "POST /write/appointments": _arrange,
    "POST /write/appointments/hold": _arrange,
    "POST /write/series": _series,
    "POST /write/appointments/{appointment_id}/book": _held,
    "POST /write/appointments/{appointment_id}/accept": _requested(),
    "POST /write/appointments/{appointment_id}/decline": _requested({"reason": "no_capacity"}),
    "POST /write/appointments/{appointment_id}/move": _move,
    "POST /write/appointments/{appointment_id}/cancel": _visit(),
    "POST /write/appointments/{appointment_id}/check-in": _visit(),
    "POST /write/appointments/{appointment_id}/start": _visit(),
    "POST /write/appointments/{appointment_id}/complete": _visit(),
    "POST /write/appointments/{appointment_id}/no-show": _visit(),
    "POST /write/appointments/{appointment_id}/entered-in-error": _visit(),
    "POST /write/providers": _body({"name": "Dr. New"}),
    "PUT /write/providers/{provider_id}/profile": _body({"name": "Dr. Ada Example"}),
    "PUT /write/providers/{provider_id}/locations/{location_id}": _body(
        {"name": LOCATION.name, "time_zone": LOCATION.time_zone, "country": "DE"}
    ),
    "PUT /write/providers/{provider_id}/visit-types/{visit_type_id}": _new_visit_type,
    "DELETE /write/providers/{provider_id}/visit-types/{visit_type_id}": _withdrawn,
    "PUT /write/providers/{provider_id}/rules": _body({}),
    "POST /write/providers/{provider_id}/hours": _body(
        {"exceptions": [{"location_id": str(LOCATION.id), "day": "2028-05-01"}]}
    ),
    "DELETE /write/providers/{provider_id}/time-off/{time_off_id}": _time_off,
    "POST /write/resources": _body({"kind": "room", "name": "Room 9"}),
    "POST /write/resources/{resource_id}/retire": _room,
    "POST /write/blocks": _block,
    "POST /write/patients": _body({}),
    "PUT /write/patients/{patient_id}/details": _body({"details": {"language": "de"}}),
    "POST /write/patients/{patient_id}/consents": _give_consent,
    "POST /write/patients/{patient_id}/consents/withdraw": _withdraw_consent,
    "POST /write/patients/{patient_id}/erasure": _erase,
    "POST /write/patients/{patient_id}/holds": _body({"reason": "litigation"}),
    "POST /write/patients/{patient_id}/holds/{hold_id}/lift": _hold_to_lift,
    "PUT /write/retention": _body({"years_after_last_visit": 10}),
    "POST /write/patients/{patient_id}/proxies": _proxy_to_grant,
    "POST /write/patients/{patient_id}/proxies/{proxy_id}/end": _proxy_to_end,
    "POST /write/patients/{patient_id}/proxies/{proxy_id}/give-up": _proxy_to_end,
    "POST /write/patients/{patient_id}/glass": _break_glass,
    "POST /write/patients/{patient_id}/disclosures": _disclosure,
    "POST /write/accounts/me/password": _body({"present": PASSWORD, "password": OTHER_PASSWORD}),
    "POST /write/accounts/me/totp/confirm": _body({"code": "000000"}),
    "POST /write/accounts/me/passkeys": _body({"response": {}, "challenge": "x", "name": "Key"}),
    "DELETE /write/accounts/me/passkeys/{passkey_id}": _passkey,
    "POST /write/accounts/invitations": _invite,
    "POST /write/accounts/{account_id}/invitations": _invited,
    "POST /write/accounts/{account_id}/role": _role,
    "POST /write/accounts/{account_id}/lock": _account,
    "POST /write/accounts/{account_id}/unlock": _account,
    "GET /read/accounts/{account_id}": _account,
    "POST /write/accounts/{account_id}/reset-factors": _account,
    "POST /write/accounts/{account_id}/close": _account,
    "DELETE /write/accounts/{account_id}/sessions/{session_id}": _session,
    "DELETE /write/accounts/{account_id}/sessions": _session,
    "GET /read/accounts/{account_id}/sessions": _session,
    "POST /write/clients": _body(
        {
            "name": "A portal",
            "kind": "public",
            "grants": ["authorization_code"],
            "redirect_uris": ["https://a.example/"],
        }
    ),
    "POST /write/clients/{client_id}/secret": _client,
    "DELETE /write/clients/{client_id}": _client,
    "PUT /write/accounts/mfa-policy": _body({"roles": {"front_desk": "optional"}}),
    "POST /read/patients/search": _body({"name": "Anna"}),
    "GET /read/slots": _slots,
    "GET /read/resources/{resource_id}/page": _page,
    "GET /read/facts/weekdays": _figures,
    "GET /read/facts/lead-times": _figures,
    "GET /read/facts/hours": _figures,
    "GET /read/facts/statuses": _figures,
}


def standing_in(patient_id: UUID, proxy_patient_id: UUID) -> GrantProxy:
    return GrantProxy(
        patient_id=patient_id,
        proxy_patient_id=proxy_patient_id,
        basis=Basis.CONSENT,
        allows=tuple(Allowance),
        until=datetime.now(UTC) + timedelta(days=1),
    )


async def with_account(walk: Walk, way: str, actor: Actor) -> Actor:
    """The same person, just signed in to an account of theirs."""
    persons = {"patient_id": actor.patient_id, "provider_id": actor.provider_id}
    made = CreateAccount(email=f"{way}@example.org".replace("_", "-"), role=actor.role, password=PASSWORD, **persons)
    account_id = UUID(await walk.made(made, "account_id", SYSTEM))
    return replace(actor, account_id=account_id, authenticated_at=datetime.now(UTC))


@pytest.fixture
async def walk(database: Database, redis_server: str, clickhouse: ClickHouse, tmp_path: Path) -> Any:
    async with served(database.app, redis_server, clickhouse, tmp_path) as book:
        clinic = await book.clinic(providers=5, patients=5, rooms=1)
        await open_clinic(book.desk, organization=ELSEWHERE)
        anna, proxy, ended, stranger = (patient_actor(one) for one in clinic.patients[:4])
        own_dr, other_dr, _, glass_dr = (
            Actor(f"dr-{number}", Role.PROVIDER, provider_id=clinic.providers[number]) for number in range(4)
        )
        who = {
            "self": anna,
            "proxy": proxy,
            "ended": ended,
            "stranger": stranger,
            "own_dr": own_dr,
            "other_dr": other_dr,
            "glass_dr": glass_dr,
            "desk": DESK,
            "admin": ADMIN,
            "system": SYSTEM,
            "auditor": someone(Role.AUDITOR),
            "analyst": someone(Role.ANALYST),
            "elsewhere": replace(ADMIN, id="admin-elsewhere"),
        }
        walk = Walk(book, clinic, who)
        assert clinic.patient == anna.patient_id
        await walk.made(standing_in(clinic.patient, clinic.patients[1]), "proxy_id")
        over = UUID(await walk.made(standing_in(clinic.patient, clinic.patients[2]), "proxy_id"))
        await walk.made(EndProxy(patient_id=clinic.patient, proxy_id=over), "proxy_id")
        with_own = {**walk.arranging(), "provider_id": clinic.providers[0]}
        await walk.made(BookAppointment(**with_own), "appointment_id", DESK)
        for way, actor in who.items():
            if way not in ("system", "elsewhere"):
                who[way] = await with_account(walk, way, actor)
        words = "Covers for a colleague who was taken ill."
        reason = GlassReason.COVERING_COLLEAGUE
        broken = BreakGlass(patient_id=clinic.patient, reason=reason, words=words)
        await walk.made(broken, "until", who["glass_dr"])
        yield walk


async def ask(walk: Walk, route: str, way: str, who: Actor | None = None) -> tuple[httpx.Response, str]:
    """The answer, and all that was said in asking."""
    method, path = route.split()
    question = await ASKED.get(route, _nothing)(walk)
    ids = {
        "patient_id": str(walk.anna),
        "provider_id": str(walk.own_dr),
        "location_id": str(LOCATION.id),
        "resource_id": str(walk.clinic.rooms[0]),
        **question.ids,
    }
    if "{appointment_id}" in path and "appointment_id" not in ids:
        ids["appointment_id"] = await walk.visit()
    headers = {}
    if method == "GET":
        headers["Read-After"] = walk.book.positions.show(await walk.book.log.head())
    answer = await walk.book.send(
        method,
        path.format_map(ids),
        who or walk.who[way],
        organization=ELSEWHERE if way == "elsewhere" else ORGANIZATION,
        headers=headers,
        params=question.params,
        **({} if question.body is None else {"json": question.body}),
    )
    return answer, f"{ids} {question.body} {question.params}"


def told(answer: httpx.Response) -> str:
    """As the table writes it."""
    if answer.is_success:
        return "2"
    return "9" if answer.status_code == 409 else str(answer.status_code)


async def routes_of(book: Served) -> dict[str, bool]:
    """Every described route, and whether it asks for a token."""
    found = {}
    for api in ("write", "read"):
        document = (await book.http.get(f"/{api}/openapi.json")).json()
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                found[f"{method.upper()} {path}"] = bool(operation.get("security"))
    return found


async def test_the_table_knows_every_route(walk: Walk) -> None:
    routes = await routes_of(walk.book)
    closed = {route for route, secured in routes.items() if secured}
    missing = sorted(closed - EXPECTED.keys())
    assert not missing, (
        "nobody has said who may ask for these. Add a line to WALK in tests/test_walk.py for each, with the statuses "
        f"of {' '.join(_WAYS)}, and one to ASKED where it takes a body:\n" + "\n".join(missing)
    )
    assert EXPECTED.keys() - closed == set(), "these are no routes any more, or need no token"
    opened = {route for route, secured in routes.items() if not secured}
    assert opened == PUBLIC, "a route without a token is named in PUBLIC, by somebody who meant it"


def every(routes: Iterable[Any]) -> Iterator[Any]:
    """Routes, those of included routers too."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is None:
            yield route
        else:
            yield from every(inner.routes)


async def test_what_no_description_shows_is_known_too(walk: Walk) -> None:
    nothing: Any = None
    oauth = write_api.oauth.app.build(
        nothing, nothing, nothing, bytes(32), issuer="https://book.example.org", organization=ORGANIZATION, audiences={}
    )
    found = {
        f"{method} {route.path}"
        for app in (walk.book.writes, walk.book.reads, oauth)
        for route in every(app.routes)
        if isinstance(route, Route) and not route.include_in_schema
        for method in (route.methods or set()) - {"HEAD"}
    }
    words = UNDESCRIBED.split()
    known = {f"{method} {path}" for method, path in zip(words[::2], words[1::2], strict=True)}
    assert found - known == set(), "a door that nobody described: name it in UNDESCRIBED, and say how it knows who asks"
    assert known - found == set(), "these are no doors any more"


async def test_every_route_by_every_role_and_relationship(walk: Walk) -> None:
    wrong = []
    for route, expected in EXPECTED.items():
        for way, wanted in expected.items():
            answer, said = await ask(walk, route, way)
            if told(answer) != wanted:
                wrong.append(f"{route} as {way}: {answer.status_code}, not {wanted}: {answer.text[:200]}")
            elif wanted == "404":
                # Beyond reach reads as never there: the same words, about an id that was asked for.
                problem = answer.json()
                if problem["code"] != "unknown" or problem["id"] not in said:
                    wrong.append(f"{route} as {way} tells more than that the id is unknown: {answer.text[:200]}")
            elif way == "elsewhere" and answer.is_success:
                ours = {str(one) for some in (walk.clinic.patients, walk.clinic.providers) for one in some}
                if any(one in answer.text for one in ours):
                    wrong.append(f"{route} shows another organization what is ours")
    assert not wrong, "\n".join(wrong)


async def test_without_a_token_no_route_answers(walk: Walk) -> None:
    for route in EXPECTED:
        method, path = route.split()
        ids = dict.fromkeys(("appointment_id", "patient_id", "provider_id", "location_id", "visit_type_id"), uuid4())
        ids |= dict.fromkeys(("resource_id", "time_off_id", "hold_id", "proxy_id", "account_id", "passkey_id"), uuid4())
        ids |= dict.fromkeys(("session_id", "client_id"), uuid4())
        answer = await walk.book.http.request(method, path.format_map(ids))
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), route


async def test_a_token_without_a_scope_reaches_nothing(walk: Walk) -> None:
    """Whatever the role: `openid` says who somebody is and opens no record (RFC 6750 §3.1)."""
    for route, expected in EXPECTED.items():
        if route in UNSCOPED:
            continue
        way = next((way for way, wanted in expected.items() if wanted in ("2", "9") and way != "elsewhere"), None)
        if way is None:
            continue
        answer, _ = await ask(walk, route, way, replace(walk.who[way], scopes=frozenset({"openid"})))
        assert (answer.status_code, answer.json()["code"]) == (403, "insufficient_scope"), (route, answer.text)
        assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]

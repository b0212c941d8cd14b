"""Who asks: bearer tokens are checked here, for both APIs, and minted for development.

In: an `Authorization` header. Out: a `Caller`. A token is a JWT (RFC 7519) signed with Ed25519 (RFC 8037); which key
signed it is said by `kid`, and nothing else in its header is believed. Accounts replace the minting later, not the
checking.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, ClassVar, Final
from uuid import UUID, uuid4

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Depends
from fastapi.openapi.models import HTTPBearer as HTTPBearerModel
from fastapi.security.base import SecurityBase
from starlette.requests import Request

from domain.access import Actor, Role
from infra.http.limits import RateLimit
from infra.http.problems import Refused

# Where a request's scope keeps who asks, for whoever records what became of it.
CALLER: Final = "daybook.caller"

WRITE = "daybook-write"
READ = "daybook-read"

_ALGORITHM: Final = "EdDSA"
_TYPE: Final = "at+jwt"
_REQUIRED: Final = ("iss", "aud", "sub", "org", "role", "exp", "iat", "jti")
_LONGEST_TOKEN = 4096
_ORGANIZATION = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
# What is written into the log beside every event: an opaque id, never a name or an address.
_SUBJECT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:|-]{0,127}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever holds the token, inside one organization. `era` and `client_era` are those of the account and the client
    when it was given, where it says so."""

    organization: str
    actor: Actor
    era: int | None = None
    client_era: int | None = None


class Unauthenticated(Refused):
    """No usable token. The answer says which kind of fault, and no more than helps an honest client (RFC 6750 §3.1)."""

    code: ClassVar[str] = "unauthenticated"
    status = 401

    def __init__(self, detail: str) -> None:
        challenge = 'Bearer realm="daybook"'
        if type(self) is not Unauthenticated:
            challenge += f', error="invalid_token", error_description="{detail}"'
        super().__init__(detail, {"WWW-Authenticate": challenge})


class TokenInvalid(Unauthenticated):
    code = "token_invalid"


class TokenExpired(Unauthenticated):
    code = "token_expired"


class TokenRevoked(Unauthenticated):
    """The session was ended, or the account closed or changed, after the token was made. `caller` held it."""

    code = "token_revoked"

    def __init__(self, detail: str, caller: Caller) -> None:
        super().__init__(detail)
        self.caller = caller


class SigningKey:
    """An Ed25519 key made of 32 secret bytes. Its id is the RFC 7638 thumbprint of its public half."""

    def __init__(self, seed: bytes) -> None:
        self.private = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self.private.public_key()
        self.id = thumbprint(self.public)


def thumbprint(key: Ed25519PublicKey) -> str:
    """RFC 7638 §3, with the members that RFC 8037 §2 names."""
    x = base64.urlsafe_b64encode(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).rstrip(b"=").decode()
    members = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return base64.urlsafe_b64encode(hashlib.sha256(members.encode()).digest()).rstrip(b"=").decode()


def mint(
    key: SigningKey,
    *,
    role: Role,
    organization: str,
    subject: str,
    now: datetime,
    lifetime: timedelta,
    audiences: tuple[str, ...] = (WRITE, READ),
    issuer: str = "daybook",
    patient_id: UUID | None = None,
    provider_id: UUID | None = None,
    account_id: UUID | None = None,
    session_id: UUID | None = None,
    client_id: str | None = None,
    scopes: Iterable[str] | None = None,
    factors: Iterable[str] = (),
    authenticated_at: datetime | None = None,
    era: int | None = None,
    client_era: int | None = None,
) -> str:
    """A token. `patient_id` and `provider_id` name the person that the caller is; the rest are as `Actor` has them, and
    stand under the names that RFC 9068, RFC 8176 and OpenID Connect give them. `era` and `client_era` are as `Caller`
    has them: in a later one the token is refused.

    Raises `ValueError` for an organization or subject that no token may carry.
    """
    if not _ORGANIZATION.fullmatch(organization):
        raise ValueError("an organization is a short slug of a-z, 0-9 and '-'")
    if not _SUBJECT.fullmatch(subject):
        raise ValueError("a subject is an opaque id of letters, digits and . _ : | -")
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": list(audiences),
        "sub": subject,
        "org": organization,
        "role": role.value,
        # To the fraction: a token of the very second in which its account changed is not taken for a later one.
        "iat": round(now.timestamp(), 6),
        "exp": int((now + lifetime).timestamp()),
        "jti": str(uuid4()),
    }
    if patient_id is not None:
        claims["patient"] = str(patient_id)
    if provider_id is not None:
        claims["provider"] = str(provider_id)
    if account_id is not None:
        claims["account"] = str(account_id)
    if session_id is not None:
        claims["sid"] = str(session_id)
    if client_id is not None:
        claims["client_id"] = client_id
    if scopes is not None:
        claims["scope"] = " ".join(sorted(scopes))
    if amr := sorted(factors):
        claims["amr"] = amr
    if authenticated_at is not None:
        claims["auth_time"] = int(authenticated_at.timestamp())
    if era is not None:
        claims["era"] = era
    if client_era is not None:
        claims["client_era"] = client_era
    # RFC 9068 §2.1: no other token of ours can be taken for one that opens an API.
    return jwt.encode(claims, key.private, algorithm=_ALGORITHM, headers={"kid": key.id, "typ": _TYPE})


class Bearers:
    """Checks the tokens of one service, which `service(bearers=…)` is given.

    `keys` maps key ids to public keys; it may change while this lives. `audience` is for whom the token may be, and
    `issuer` who may have made it, one or several. `ended` says of a verified caller and the
    instant their token was made whether what it rests on has ended since. Verified tokens are remembered by their hash
    until they expire, at most `remembered` of them. `limit` is spent by whoever is let in. `clock` gives seconds since
    the epoch.
    """

    def __init__(
        self,
        keys: Mapping[str, Ed25519PublicKey],
        audience: str | Sequence[str],
        *,
        issuer: str | Sequence[str] = "daybook",
        leeway: int = 30,
        limit: RateLimit | None = None,
        remembered: int = 10_000,
        clock: Callable[[], float] = time.time,
        ended: Callable[[Caller, float], bool] | None = None,
    ) -> None:
        self._keys = keys
        self._ended = ended
        self._audience = audience
        self._issuer = issuer
        self._leeway = leeway
        self._limit = limit
        self._remembered = remembered
        self._clock = clock
        # Who it is, from when and until when the token holds.
        self._known: OrderedDict[bytes, tuple[Caller, float, float]] = OrderedDict()

    async def let_in(self, request: Request) -> Caller:
        """Raises `Unauthenticated` and its kinds, and `TooManyRequests`."""
        try:
            caller = self.check(request.headers.get("authorization"))
        except TokenRevoked as revoked:
            request.scope[CALLER] = revoked.caller
            raise
        request.scope[CALLER] = caller
        if self._limit is not None:
            await self._limit.spend(request.scope, f"{caller.organization}/{caller.actor.id}")
        return caller

    def check(self, header: str | None) -> Caller:
        """The caller named by an `Authorization` header. Raises `Unauthenticated` and its kinds."""
        if header is None:
            raise Unauthenticated("Send a token: Authorization: Bearer ….")
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("Send a token: Authorization: Bearer ….")
        fingerprint = hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
        known = self._known.get(fingerprint)
        if known is not None:
            caller, made, until = known
            if self._clock() < until:
                self._known.move_to_end(fingerprint)
                return self._going_on(caller, made)
            del self._known[fingerprint]
        caller, made, until = self._verified(token.strip())
        self._known[fingerprint] = (caller, made, until)
        if len(self._known) > self._remembered:
            self._known.popitem(last=False)
        return self._going_on(caller, made)

    def _going_on(self, caller: Caller, made: float) -> Caller:
        if self._ended is not None and self._ended(caller, made):
            raise TokenRevoked("What this token rests on has ended; sign in again.", caller)
        return caller

    def _verified(self, token: str) -> tuple[Caller, float, float]:
        if len(token) > _LONGEST_TOKEN:
            raise TokenInvalid("The token is too long.")
        try:
            header = jwt.get_unverified_header(token)
            if str(header.get("typ")).lower().removeprefix("application/") != _TYPE:
                raise TokenInvalid("The token is not an access token.")
            key = self._keys.get(header.get("kid", ""))
            if key is None:
                raise TokenInvalid("The token is not signed by a known key.")
            claims = jwt.decode(
                token,
                key,
                algorithms=[_ALGORITHM],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway,
                options={
                    "require": list(_REQUIRED),
                    # The times are checked below, by our own clock.
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
            until = self._in_time(claims)
        except jwt.InvalidAudienceError:
            raise TokenInvalid("The token is meant for another service.") from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, AttributeError):
            raise TokenInvalid("The token is not valid.") from None
        return self._caller(claims), float(claims["iat"]), until

    def _in_time(self, claims: Mapping[str, Any]) -> float:
        now = self._clock()
        times = {name: claims[name] for name in ("exp", "iat", "nbf") if name in claims}
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in times.values()):
            raise TokenInvalid("The token is not valid.")
        if not now < times["exp"] + self._leeway:
            raise TokenExpired("The token has expired.")
        if max(times["iat"], times.get("nbf", 0)) > now + self._leeway:
            raise TokenInvalid("The token is not valid yet.")
        return float(times["exp"])

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        organization, subject = claims["org"], claims["sub"]
        if not (isinstance(organization, str) and _ORGANIZATION.fullmatch(organization)):
            raise TokenInvalid("The token names no organization.")
        if not (isinstance(subject, str) and _SUBJECT.fullmatch(subject)):
            raise TokenInvalid("The token names no subject.")
        try:
            role = Role(claims["role"])
            patient_id, provider_id, account_id, session_id = (
                UUID(claims[name]) if name in claims else None for name in ("patient", "provider", "account", "sid")
            )
            actor = Actor(
                subject,
                role,
                patient_id,
                provider_id,
                account_id,
                session_id,
                client_id=_words(claims.get("client_id")),
                scopes=frozenset((_words(claims["scope"]) or "").split()) if "scope" in claims else None,
                factors=frozenset(_words(one) or "" for one in claims.get("amr", ())),
                authenticated_at=datetime.fromtimestamp(claims["auth_time"], UTC) if "auth_time" in claims else None,
            )
        except (ValueError, TypeError, AttributeError, OverflowError, OSError):
            raise TokenInvalid("The token's role or one of the persons it names is not known.") from None
        return Caller(organization, actor, _era(claims, "era"), _era(claims, "client_era"))


def _words(claim: Any) -> str | None:
    if claim is not None and not isinstance(claim, str):
        raise TypeError("not text")
    return claim


def _era(claims: Mapping[str, Any], name: str) -> int | None:
    era = claims.get(name)
    if era is not None and (isinstance(era, bool) or not isinstance(era, int)):
        raise TokenInvalid("The token is not valid.")
    return era


class _WhoAsks(SecurityBase):
    def __init__(self) -> None:
        self.model = HTTPBearerModel(
            bearerFormat="JWT", description="An EdDSA-signed token; see `daybook token --help`."
        )
        self.scheme_name = "bearer"

    async def __call__(self, request: Request) -> Caller:
        bearers: Bearers = request.app.state.bearers
        return await bearers.let_in(request)


# The one dependency that says who asks: a route takes `caller: Asker`.
Asker = Annotated[Caller, Depends(_WhoAsks())]

"""A client: an app or a system that people let act for them, or that acts by itself (RFC 6749 §2).

In: decisions asked for by administrators. Out: events. A client's secret is 256 random bits, so its SHA-256 is all that
is kept. There is no implicit grant and no password grant (OAuth 2.1).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, ClassVar, Final, Literal, Self
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from domain import scopes
from domain.events import CREDENTIAL, Event
from domain.provider import Value, Words
from domain.refusals import NotAllowed, Refusal

# What may stand in a URI (RFC 3986 §2), but for the fragment, which RFC 6749 §3.1.2 forbids here, and the asterisk,
# which would promise a pattern where there is none.
_URI = re.compile(r"[A-Za-z0-9\-._~:/?\[\]@!$&'()+,;=%]{1,500}")


# Characters, of all scopes together. A code is an address's part and a token a header's: each has 4 KiB, of which the
# longest redirect URI and the ids take their share.
LONGEST_SCOPES: Final = 1500


class Kind(StrEnum):
    """Whether the client can keep a secret (RFC 6749 §2.1)."""

    PUBLIC = "public"
    CONFIDENTIAL = "confidential"


class Grant(StrEnum):
    AUTHORIZATION_CODE = "authorization_code"
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - a name
    CLIENT_CREDENTIALS = "client_credentials"


class Audience(StrEnum):
    """The APIs that a token may be meant for (RFC 8707)."""

    WRITE = "write"
    READ = "read"


def _redirect_uri(text: str) -> str:
    parts = _parts(text)
    if parts is None:
        raise ValueError("a redirect URI is an absolute URI without a fragment, a user or a wildcard")
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts)):
        raise ValueError("a redirect URI is https; http is for an address of the own machine (127.0.0.1 or [::1])")
    return text


def _known_scope(word: str) -> str:
    if not scopes.known(word):
        raise ValueError("not a scope in SMART v2's words, such as user/Appointment.rs")
    return word


RedirectUri = Annotated[str, StringConstraints(max_length=500), AfterValidator(_redirect_uri)]
ScopeWord = Annotated[str, StringConstraints(max_length=100), AfterValidator(_known_scope)]


class KeyAlgorithm(StrEnum):
    """What a client may sign with: SMART App Launch 2.2 names the first two."""

    ES384 = "ES384"
    RS384 = "RS384"
    ES256 = "ES256"
    EDDSA = "EdDSA"


# The key type (RFC 7517 §4.1), the curve and the bytes of each part that an algorithm goes with.
_CURVES: Final = {
    KeyAlgorithm.ES384: ("EC", "P-384", 48),
    KeyAlgorithm.ES256: ("EC", "P-256", 32),
    KeyAlgorithm.EDDSA: ("OKP", "Ed25519", 32),
}
# Bits of an RSA modulus (RFC 7518 §3.3), and the bytes that it may take.
SHORTEST_MODULUS: Final = 2048
_MODULUS: Final = range(SHORTEST_MODULUS // 8, 1025)
_Part = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,1400}$")]


class PublicKey(Value):
    """A public key in the members of RFC 7517 and RFC 7518 §6, for one algorithm. A private member is refused, as
    everything else that is not named here."""

    kid: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    alg: KeyAlgorithm
    kty: Literal["EC", "RSA", "OKP"]
    crv: Literal["P-256", "P-384", "Ed25519"] | None = None
    x: _Part | None = None
    y: _Part | None = None
    n: _Part | None = None
    e: _Part | None = None
    use: Literal["sig"] = "sig"

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.alg is KeyAlgorithm.RS384:
            fits = self.kty == "RSA" and _bytes_of(self.n) in _MODULUS and self.e == "AQAB"
            fits = fits and (self.crv, self.x, self.y) == (None, None, None)
        else:
            kty, curve, size = _CURVES[self.alg]
            parts = (self.x, self.y) if kty == "EC" else (self.x,)
            fits = (self.kty, self.crv) == (kty, curve) and all(_bytes_of(part) == size for part in parts)
            fits = fits and self.n is None and self.e is None and (kty == "EC" or self.y is None)
        if not fits:
            raise ValueError("kty, crv and the key's parts don't fit alg; RSA has 2048 bits or more, and e is AQAB")
        return self

    def jwk(self) -> dict[str, str | list[str]]:
        return self.model_dump(mode="json", exclude_none=True)


class Details(Value):
    """What a client is registered with. With `keys` it signs assertions (RFC 7523) and has no secret; several let one
    follow the other. `trusted` is the house's own: people are not asked whether they let it act.
    `introspects` lets it ask about tokens that others hold, as an API of somebody else does (RFC 7662 §2.1)."""

    name: Words
    kind: Kind
    grants: Annotated[tuple[Grant, ...], Field(min_length=1, max_length=3)]
    redirect_uris: Annotated[tuple[RedirectUri, ...], Field(max_length=20)] = ()
    post_logout_redirect_uris: Annotated[tuple[RedirectUri, ...], Field(max_length=20)] = ()
    scopes: Annotated[tuple[ScopeWord, ...], Field(max_length=100)] = ()
    audiences: Annotated[tuple[Audience, ...], Field(min_length=1, max_length=2)] = (Audience.WRITE, Audience.READ)
    trusted: bool = False
    introspects: bool = False
    keys: Annotated[tuple[PublicKey, ...], Field(max_length=5)] = ()

    @model_validator(mode="after")
    def _whole(self) -> Self:
        by_people = Grant.AUTHORIZATION_CODE in self.grants
        if by_people != bool(self.redirect_uris):
            raise ValueError("authorization_code needs redirect_uris, and only it has use for them")
        if Grant.REFRESH_TOKEN in self.grants and not by_people:
            raise ValueError("refresh_token goes with authorization_code")
        if self.kind is Kind.PUBLIC and (Grant.CLIENT_CREDENTIALS in self.grants or self.introspects):
            raise ValueError("only a confidential client may use client_credentials, or ask about others' tokens")
        if self.keys and self.kind is Kind.PUBLIC:
            raise ValueError("a public client has no keys")
        if len({key.kid for key in self.keys}) != len(self.keys):
            raise ValueError("two keys have one kid")
        contexts = {scope.context for word in self.scopes if (scope := scopes.parse(word)) is not None}
        if "system" in contexts and Grant.CLIENT_CREDENTIALS not in self.grants:
            raise ValueError("system/ scopes go with client_credentials")
        return self


class ClientRegistered(Event):
    """`secret` is the SHA-256 of a confidential client's secret, in hex; none where it has keys."""

    NAME: ClassVar[str] = "ClientRegistered.v1"
    client_id: UUID
    details: Details
    secret: Annotated[str | None, CREDENTIAL] = None


class ClientSecretRotated(Event):
    """The former secret holds no more."""

    NAME: ClassVar[str] = "ClientSecretRotated.v1"
    client_id: UUID
    secret: Annotated[str, CREDENTIAL]


class ClientRemoved(Event):
    """It gets no more tokens, and those it has are refused."""

    NAME: ClassVar[str] = "ClientRemoved.v1"
    client_id: UUID


@dataclass(frozen=True, slots=True)
class Client:
    """`era` counts what ended every token: one that was given in an earlier era is refused."""

    id: UUID
    details: Details
    secret: str | None
    removed: bool = False
    era: int = 0

    def may_use(self, grant: str) -> bool:
        return not self.removed and grant in {one.value for one in self.details.grants}

    def knows_secret(self, presented: str) -> bool:
        """Whether this is the SHA-256 of its secret, in hex."""
        return self.secret is not None and hmac.compare_digest(self.secret.encode(), presented.encode())

    def has_redirect_uri(self, uri: str) -> bool:
        """Compared character by character (RFC 9700 §2.1); for an address of the own machine the port is free, since
        an app on it takes whichever it gets (RFC 8252 §7.3)."""
        return any(uri == known or _same_but_port(uri, known) for known in self.details.redirect_uris)


class SecretNeedless(Refusal):
    """A public client has no secret, and neither has one that signs."""

    code = "secret_needless"


class ScopesTooLong(Refusal):
    """More scopes than fit into a code and a token; `longest` is how many characters they may have, with the spaces
    between them."""

    code = "scopes_too_long"
    status = 422


class KeyNotTaken(Refusal):
    """A key whose parts make no key, such as a point that is not on its curve, or too short a one; `kid` is which."""

    code = "key_not_taken"
    status = 422


class ClientIsRemoved(Refusal):
    code = "client_removed"


def stream(client_id: UUID) -> str:
    return f"client/{client_id}"


def streams() -> tuple[str, str]:
    """The first and the last name that a client's stream may have."""
    return "client/", "client/~"


def evolve(state: Client | None, event: Event) -> Client:
    match event:
        case ClientRegistered():
            return Client(event.client_id, event.details, event.secret)
        case ClientSecretRotated() if state is not None:
            return replace(state, secret=event.secret, era=state.era + 1)
        case ClientRemoved() if state is not None:
            return replace(state, removed=True, era=state.era + 1)
    raise TypeError(f"{type(event).__name__} is not an event of a client")


def within(details: Details, bound: frozenset[str] | None) -> None:
    """A client reaches no further than the token by which it is registered; None is a token without bounds. Raises
    `NotAllowed`."""
    for scope in filter(None, map(scopes.parse, details.scopes if bound is not None else ())):
        own = str(scopes.Scope("user", scope.resource, scope.letters))
        if scopes.granted([own], bound or ()) != (own,):
            raise NotAllowed("a client may not reach further than your own token", action="register_client")


def register(client_id: UUID, details: Details, secret: str) -> ClientRegistered:
    """`secret` is the hash of one made for it; a public client has no use for it. Refuses with `ScopesTooLong`."""
    if too_long(details.scopes):
        raise ScopesTooLong("these scopes are too long, taken together", longest=LONGEST_SCOPES)
    return ClientRegistered(client_id=client_id, details=details, secret=secret if has_secret(details) else None)


def has_secret(details: Details) -> bool:
    return details.kind is Kind.CONFIDENTIAL and not details.keys


def rotate_secret(state: Client, secret: str) -> ClientSecretRotated:
    """Refuses with `SecretNeedless` and `ClientIsRemoved`."""
    if state.removed:
        raise ClientIsRemoved("this client was removed")
    if not has_secret(state.details):
        raise SecretNeedless("this client has no secret")
    return ClientSecretRotated(client_id=state.id, secret=secret)


def remove(state: Client) -> Iterable[ClientRemoved]:
    """Nothing more where it is removed already."""
    return () if state.removed else (ClientRemoved(client_id=state.id),)


def too_long(words: Iterable[str]) -> bool:
    """Whether scopes fit into no code and no token, whatever else these say."""
    return len(" ".join(words)) > LONGEST_SCOPES


def scopes_for(state: Client, wanted: Iterable[str], contexts: Iterable[str]) -> tuple[str, ...]:
    """As much of what is wanted as the client may have, of the contexts (`user`, `patient`, `system`) that fit whoever
    it acts for. Nothing wanted is all that it may have (RFC 6749 §3.3)."""
    asked = tuple(wanted) or state.details.scopes
    fitting = frozenset(contexts)
    return tuple(
        word
        for word in scopes.granted(asked, state.details.scopes)
        if (scope := scopes.parse(word)) is None or scope.context in fitting
    )


_LOOPBACK: Final = ("127.0.0.1", "::1")


def _parts(uri: str) -> SplitResult | None:
    if not _URI.fullmatch(uri):
        return None
    try:
        parts = urlsplit(uri)
        # Reading the port is what checks it.
        good = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return None
    return parts if good else None


def _bytes_of(part: str | None) -> int:
    """How many bytes base64url without padding stands for; 0 where it is none."""
    return 0 if part is None or len(part) % 4 == 1 else len(part) * 3 // 4


def _is_loopback(parts: SplitResult) -> bool:
    # Not "localhost", which the machine may resolve to another (RFC 8252 §8.3).
    try:
        return str(ip_address(parts.hostname or "")) in _LOOPBACK
    except ValueError:
        return False


def _same_but_port(uri: str, known: str) -> bool:
    one, other = _parts(uri), _parts(known)
    if one is None or other is None or one.scheme != "http" or not _is_loopback(one):
        return False
    return (one.hostname, one.path, one.query) == (other.hostname, other.path, other.query) and other.scheme == "http"

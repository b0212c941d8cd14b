"""An outside OpenID Connect provider, as its client sees it. In: how we are known there, and a code that a browser
brought back. Out: whom the provider says it is, once its id token was checked; or a refusal.

Everything that a provider answers is a stranger's: it is read for a bounded time and up to a bounded size, redirects
are not followed, and nothing of it stands in an error.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlsplit

import httpx
from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.parameters import (  # type: ignore[import-untyped]
    prepare_grant_uri,
    prepare_token_request,
)
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError
from joserfc.jwk import JWKRegistry, KeySet
from pydantic import BaseModel, ConfigDict, Field, SecretStr, TypeAdapter, ValidationError, model_validator

from infra.http.problems import Refused
from infra.troubles import WrongSettings

SCOPE: Final = "openid email"
# Neither `none` nor HMAC, whose key would be the client's secret.
ALGORITHMS: Final = frozenset({"RS256", "ES256", "EdDSA", "Ed25519"})
LARGEST: Final = 256 * 1024
# For all that is asked of a provider in one step of signing in.
PATIENCE: Final = 10.0
# Seconds. Unknown key ids are looked up no more often than this, since strangers may name any.
_METADATA_KEPT: Final = 3600.0
_KEYS_KEPT: Final = 3600.0
_KEYS_AT_MOST: Final = 60.0
_LEEWAY: Final = 60
_KINDS: Final = frozenset({"RSA", "EC", "OKP"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


class OutsideRefused(Refused):
    """What the provider said, or what the browser brought from it, proves nobody."""

    code: ClassVar[str] = "outside_refused"
    status: ClassVar[int] = 401


class OutsideAway(Refused):
    """The provider does not answer, or not in the words of OpenID Connect."""

    code: ClassVar[str] = "outside_away"
    status: ClassVar[int] = 503


class Registration(BaseModel):
    """How we are known at a provider. `issuer` is https, or http on this machine alone. `mfa_acr` are words of the
    provider's `acr` that mean more than one factor, beside `mfa` in its `amr` (RFC 8176)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,29}$")
    label: str = Field(min_length=1, max_length=40)
    issuer: str = Field(max_length=300)
    client_id: str = Field(min_length=1, max_length=300, pattern=r"^[\x21-\x7e]+$")
    client_secret: SecretStr | None = None
    client_secret_file: Path | None = None
    mfa_acr: frozenset[str] = frozenset()

    @model_validator(mode="after")
    def _known(self) -> Self:
        if not _safe(self.issuer, loopback=True):
            raise ValueError("the issuer is an https address without query and fragment")
        if self.client_secret is not None and self.client_secret_file is not None:
            raise ValueError("the secret stands here or in a file")
        return self

    @property
    def secret(self) -> str | None:
        if self.client_secret_file is not None:
            return self.client_secret_file.read_text("utf-8").strip()
        return self.client_secret.get_secret_value() if self.client_secret is not None else None


def read_registrations(path: Path | None) -> tuple[Registration, ...]:
    """Those of a JSON file, a list. Raises `WrongSettings`, which repeats nothing of it."""
    if path is None:
        return ()
    try:
        read = TypeAdapter(tuple[Registration, ...]).validate_json(path.read_bytes())
        for one in read:
            _ = one.secret
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise WrongSettings(f"DAYBOOK_OIDC_PROVIDERS names a file that is wrong at {place}: {first['msg']}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise WrongSettings(
            f"DAYBOOK_OIDC_PROVIDERS, or a secret that it names, can't be read ({type(error).__name__})."
        ) from None
    if len({one.name for one in read}) < len(read) or len({one.issuer for one in read}) < len(read):
        raise WrongSettings("DAYBOOK_OIDC_PROVIDERS names a provider twice; names and issuers are each one's own.")
    return read


@dataclass(frozen=True, slots=True)
class Outsider:
    """Whom the provider says it is. `email` is there where it says that it has verified it, `authenticated_at` where it
    says when they signed in there."""

    issuer: str
    subject: str
    email: str | None
    multi_factor: bool
    authenticated_at: datetime | None


class Metadata(BaseModel):
    """OpenID Connect Discovery 1.0 §3, as far as it matters here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    id_token_signing_alg_values_supported: frozenset[str]
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    authorization_response_iss_parameter_supported: bool = False


@dataclass(slots=True)
class Provider:
    """What was learnt of it is kept for an hour; one asks, and others who come meanwhile wait."""

    registration: Registration
    redirect_uri: str
    ticks: Callable[[], float] = time.monotonic
    patience: float = PATIENCE
    _metadata: tuple[float, Metadata] | None = field(default=None, init=False)
    _keys: tuple[float, KeySet] | None = field(default=None, init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _tls: Any = field(default=None, init=False)

    async def leads_to(self, state: str, nonce: str, verifier: str, *, anew: bool) -> str:
        """Where to send the browser. `anew` asks that they sign in there once more. Raises `OutsideAway`."""
        async with self._bounded():
            metadata = await self._discovered()
        fresh = {"prompt": "login", "max_age": "0"} if anew else {}
        return str(
            prepare_grant_uri(
                metadata.authorization_endpoint,
                self.registration.client_id,
                "code",
                redirect_uri=self.redirect_uri,
                scope=SCOPE,
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
                **fresh,
            )
        )

    async def identify(
        self, answer: Mapping[str, str], nonce: str, verifier: str, now: datetime, *, address: bool
    ) -> Outsider:
        """`answer` is what the browser brought back; `address` is whether their address is wanted, for which some
        providers have to be asked once more. Raises `OutsideRefused`, `OutsideAway`."""
        async with self._bounded():
            metadata = await self._discovered()
            issuer = answer.get("iss")
            # RFC 9207 §2.4.
            if issuer != metadata.issuer and (issuer or metadata.authorization_response_iss_parameter_supported):
                raise _refused()
            tokens = await self._redeemed(metadata, answer.get("code", ""), verifier)
            claims = await self._checked(metadata, tokens, nonce, now)
            about = claims
            if address and "email" not in claims:
                about = await self._user_info(metadata, tokens, claims["sub"])
        return self._outsider(claims, about)

    def _outsider(self, claims: Mapping[str, Any], about: Mapping[str, Any]) -> Outsider:
        amr, acr, at = claims.get("amr"), claims.get("acr"), claims.get("auth_time")
        email = about.get("email")
        return Outsider(
            self.registration.issuer,
            claims["sub"],
            email if isinstance(email, str) and about.get("email_verified") is True else None,
            (isinstance(amr, list) and "mfa" in amr) or (isinstance(acr, str) and acr in self.registration.mfa_acr),
            datetime.fromtimestamp(at, UTC) if isinstance(at, int) and 0 <= at < 2**33 else None,
        )

    def _bounded(self) -> _Bounded:
        return _Bounded(self.patience)

    async def _discovered(self) -> Metadata:
        async with self._lock:
            if self._metadata is not None and self.ticks() - self._metadata[0] < _METADATA_KEPT:
                return self._metadata[1]
            issuer = self.registration.issuer
            told = await self._ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            metadata = Metadata.model_validate(told)
            near = urlsplit(issuer).scheme == "http"
            places = (metadata.authorization_endpoint, metadata.token_endpoint, metadata.jwks_uri)
            # Discovery 1.0 §4.3: the issuer is the very one that was asked.
            if metadata.issuer != issuer or not all(_safe(one, loopback=near) for one in places):
                raise _away()
            self._metadata = (self.ticks(), metadata)
            return metadata

    async def _redeemed(self, metadata: Metadata, code: str, verifier: str) -> dict[str, Any]:
        if not code:
            raise _refused()
        secret = self.registration.secret
        methods = metadata.token_endpoint_auth_methods_supported
        method = "client_secret_post" if "client_secret_post" in methods else "client_secret_basic"
        auth = ClientAuth(self.registration.client_id, secret, "none" if secret is None else method)
        body = prepare_token_request(
            "authorization_code", redirect_uri=self.redirect_uri, code=code, code_verifier=verifier
        )
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        url, headers, body = auth.prepare("POST", metadata.token_endpoint, form, body)
        return await self._ask("POST", url, headers, body)

    async def _checked(
        self, metadata: Metadata, tokens: Mapping[str, Any], nonce: str, now: datetime
    ) -> Mapping[str, Any]:
        """The claims of an id token that is for us, and answers this very request (OpenID Connect Core §3.1.3.7)."""
        client_id = self.registration.client_id
        algorithms = sorted(ALGORITHMS & metadata.id_token_signing_alg_values_supported)
        token = tokens.get("id_token")
        if not isinstance(token, str) or not algorithms:
            raise _refused()
        expected: dict[str, Any] = {
            "iss": {"essential": True, "value": metadata.issuer},
            "aud": {"essential": True, "value": client_id},
            "sub": {"essential": True},
            "nonce": {"essential": True, "value": nonce},
        }
        params = {"nonce": nonce, "client_id": client_id, "access_token": tokens.get("access_token")}
        try:
            try:
                read = jwt.decode(token, await self._known_keys(metadata, _KEYS_KEPT), algorithms)
            except InvalidKeyIdError:
                read = jwt.decode(token, await self._known_keys(metadata, _KEYS_AT_MOST), algorithms)
            claims = CodeIDToken(read.claims, read.header, expected, params)
            claims.validate(now=int(now.timestamp()), leeway=_LEEWAY)
        except (Refused, httpx.HTTPError, TimeoutError):
            raise
        except Exception:  # a parser that is fed hostile bytes raises whatever it stumbles over
            raise _refused() from None
        subject = claims["sub"]
        # OpenID Connect Core §2: at most 255 characters of ASCII.
        if not isinstance(subject, str) or not subject.isascii() or not 0 < len(subject) <= 255:
            raise _refused()
        return dict(claims)

    async def _user_info(self, metadata: Metadata, tokens: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
        """OpenID Connect Core §5.3.2: of the same subject, or it counts for nothing."""
        place, token = metadata.userinfo_endpoint, tokens.get("access_token")
        near = urlsplit(metadata.issuer).scheme == "http"
        if place is None or not _safe(place, loopback=near) or not isinstance(token, str) or not token.isascii():
            return {}
        told = await self._ask("GET", place, {"Authorization": f"Bearer {token}"})
        return told if told.get("sub") == subject else {}

    async def _known_keys(self, metadata: Metadata, oldest: float) -> KeySet:
        """Not older than so many seconds."""
        async with self._lock:
            if self._keys is None or self.ticks() - self._keys[0] >= oldest:
                told = (await self._ask("GET", metadata.jwks_uri)).get("keys")
                keys = [one for one in told if isinstance(one, dict)] if isinstance(told, list) else []
                # A key of a kind that nobody knows yet is none of ours (RFC 7517 §5).
                usable = [one for one in keys if one.get("kty") in _KINDS and one.get("use", "sig") == "sig"]
                self._keys = (self.ticks(), KeySet([key for one in usable if (key := _key_of(one)) is not None]))
            return self._keys[1]

    async def _ask(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> dict[str, Any]:
        """One JSON object. Raises `OutsideAway`; `OutsideRefused` where the provider took us for wrong (4xx)."""
        if self._tls is None:
            self._tls = httpx.create_ssl_context()
        # Uncompressed, so that what is read is no more than what comes.
        asked = {"Accept": "application/json", "Accept-Encoding": "identity", **(headers or {})}
        async with (
            httpx.AsyncClient(verify=self._tls, timeout=self.patience, follow_redirects=False) as http,
            http.stream(method, url, headers=asked, content=body) as answer,
        ):
            if "content-encoding" in answer.headers:
                raise _away()
            read = bytearray()
            async for part in answer.aiter_raw():
                read += part
                if len(read) > LARGEST:
                    raise _away()
        if 400 <= answer.status_code < 500 and method == "POST":
            raise _refused()
        if answer.status_code != 200:
            raise _away()
        told = json.loads(read)
        if not isinstance(told, dict):
            raise _away()
        return told


class _Bounded:
    """All that a provider is asked within a time, and whatever goes wrong as a refusal that repeats nothing."""

    def __init__(self, patience: float) -> None:
        self._timeout = asyncio.timeout(patience)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise _away() from None
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL | OSError | ValueError | RecursionError):
            raise _away() from None


def _key_of(told: dict[str, Any]) -> Any:
    try:
        return JWKRegistry.import_key(told)
    except Exception:  # as above
        return None


def _safe(url: str, *, loopback: bool) -> bool:
    """An https address, or one of this machine where it may be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or parts.username is not None or parts.fragment or not url.isascii() or not url.isprintable():
        return False
    return parts.scheme == "https" or (loopback and parts.scheme == "http" and host in _LOOPBACK)


def _refused() -> OutsideRefused:
    return OutsideRefused("The other side did not confirm who you are. Start again, or sign in with your password.")


def _away() -> OutsideAway:
    return OutsideAway("The other side does not answer now. Try again later, or sign in with your password.")

"""The protocol itself, on authlib's framework-neutral core: what is given to whom, and on what.

In: requests of apps, checked by the library's grants. Out: codes, tokens, and errors in the words of RFC 6749.
Everything here runs in a worker thread; what the log has to decide is asked there.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Final
from uuid import UUID

import jwt
from authlib.oauth2 import rfc6749, rfc7009, rfc7636, rfc7662, rfc9207  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749 import (  # type: ignore[import-untyped]
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    OAuth2Error,
)
from authlib.oidc import core as oidc  # type: ignore[import-untyped]
from authlib.oidc.core.util import create_half_hash  # type: ignore[import-untyped]
from authlib.oidc.rpinitiated import EndSessionEndpoint  # type: ignore[import-untyped]

from commands.loop import ACCOUNT, CLIENT, MFA_POLICY, SESSION
from commands.sessions import EndSession, RefreshSession, SessionOver, StartSession
from commands.sign_in import account_of
from domain import scopes, session
from domain.access import Role
from domain.client import Audience, Grant, scopes_for, too_long
from domain.mfa_policy import THE_POLICY
from domain.refusals import Unknown
from domain.session import OFFLINE, PRESENT, Ending, SessionId, SessionRefreshed
from infra.http.seals import LONGEST
from infra.http.tokens import Unauthenticated, mint
from write_api.oauth.assertions import METHOD, SignedAssertion
from write_api.oauth.authority import ACCESS_LIFETIME, CODE_LIFETIME, Authority, hash_of
from write_api.oauth.parties import BY_ITSELF, ClientOf, CodeOf, Granted, Held, RefreshOf, SignedIn
from write_api.oauth.requests import Answer, Asked

ALGORITHM: Final = "EdDSA"
_SECRET_BYTES: Final = 32
_CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
CONFIDENTIAL: Final = ["client_secret_basic", "client_secret_post", METHOD]
ANY: Final = [*CONFIDENTIAL, "none"]


class InvalidTarget(OAuth2Error):  # type: ignore[misc]
    """RFC 8707 §2: the token would be for nothing of ours, or for an API that the client may not use."""

    error = "invalid_target"


class Server(rfc6749.AuthorizationServer):  # type: ignore[misc]
    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self.authority = authority
        self.register_client_auth_method(METHOD, SignedAssertion(authority))
        self.register_grant(CodeGrant, [Challenge(), IdToken(authority)])
        self.register_grant(RefreshGrant, [IdToken(authority)])
        self.register_grant(SystemGrant)
        self.register_endpoint(Revocation)
        self.register_endpoint(Introspection)
        self.register_endpoint(EndSessionOf)
        # RFC 9207, also for what is refused before there is an answer to extend.
        self.name_issuer = IssuerOf(authority.issuer)
        self.register_extension(self.name_issuer)

    def query_client(self, client_id: str) -> ClientOf | None:
        try:
            key = UUID(client_id)
        except ValueError:
            return None
        client = self.authority.state_from_thread(CLIENT, key)
        # One id has one spelling, or it could be another's name elsewhere.
        return None if client is None or client.removed or str(key) != client_id else ClientOf(client)

    def create_oauth2_request(self, request: Asked) -> Asked:
        return request

    def handle_response(self, status: int, body: Any, headers: Iterable[tuple[str, str]]) -> Answer:
        return Answer(status, body, dict(headers))

    def handle_error_response(self, request: Asked | None, error: OAuth2Error) -> Answer:
        answer: Answer = super().handle_error_response(request, error)
        return answer

    def send_signal(self, name: str, *arguments: Any, **named: Any) -> None:
        """Nobody listens: what happens stands in the log."""

    def save_token(self, token: Mapping[str, Any], request: Asked) -> None:
        """Access tokens are kept nowhere, and refresh tokens were written before they were made."""

    def validate_requested_scope(self, scope: str | None) -> None:
        """What is asked for beyond what a client may have is left out (RFC 6749 §3.3)."""

    def generate_token(
        self,
        grant_type: str,
        client: ClientOf,
        user: Granted | None = None,
        scope: str | None = None,
        expires_in: int | None = None,
        include_refresh_token: bool = True,
        audiences: tuple[Audience, ...] = (),
    ) -> dict[str, Any]:
        granted = (scope or "").split()
        token = {
            "token_type": "Bearer",
            "access_token": self._access_token(client, user, granted, user.audiences if user else audiences),
            "expires_in": int(ACCESS_LIFETIME.total_seconds()),
            "scope": " ".join(granted),
        }
        if user is not None:
            if user.refresh is not None:
                token["refresh_token"] = user.refresh
            if user.who.patient_id is not None and "launch/patient" in granted:
                token["patient"] = str(user.who.patient_id)
        return token

    def _access_token(
        self, client: ClientOf, user: Granted | None, granted: list[str], audiences: tuple[Audience, ...]
    ) -> str:
        authority = self.authority
        return mint(
            authority.keys.newest(),
            role=Role.SYSTEM if user is None else user.who.role,
            organization=authority.organization,
            subject=client.get_client_id() if user is None else str(user.account_id),
            now=authority.now(),
            lifetime=ACCESS_LIFETIME,
            audiences=tuple(authority.audiences[audience] for audience in audiences),
            issuer=authority.token_issuer,
            patient_id=user.who.patient_id if user else None,
            provider_id=user.who.provider_id if user else None,
            account_id=user.account_id if user else None,
            session_id=user.session_id if user else None,
            client_id=client.get_client_id(),
            scopes=granted,
            factors=user.factors if user else (),
            authenticated_at=user.authenticated_at if user else None,
            era=user.era if user else None,
            client_era=client.client.era,
        )

    def audiences_for(self, client: ClientOf, request: Asked) -> tuple[Audience, ...]:
        """The APIs that a token is asked for (RFC 8707); all of the client's where none is named. Raises
        `InvalidTarget`."""
        allowed = client.client.details.audiences
        known = {f"{self.authority.issuer}/{audience.value}": audience for audience in Audience}
        named = [known.get(there.rstrip("/")) for there in request.payload.datalist.get("resource", ())]
        if any(audience not in allowed for audience in named):
            raise InvalidTarget("The resource is not one that this client may use.")
        return tuple(audience for audience in allowed if not named or audience in named)


class IssuerOf(rfc9207.IssuerParameter):  # type: ignore[misc]
    """Has every redirect back to an app say who sent it."""

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer

    def onto(self, answer: Answer) -> None:
        self.add_issuer_parameter(None, answer)

    def get_issuer(self) -> str:
        return self._issuer


class Challenge(rfc7636.CodeChallenge):  # type: ignore[misc]
    """PKCE by S256 alone, from every client (RFC 9700 §2.1.1)."""

    SUPPORTED_CODE_CHALLENGE_METHOD: ClassVar = ["S256"]
    CODE_CHALLENGE_METHODS: ClassVar = {"S256": rfc7636.CodeChallenge.CODE_CHALLENGE_METHODS["S256"]}

    def validate_code_challenge(self, grant: CodeGrant, redirect_uri: str) -> None:
        data = grant.request.payload.data
        # Left out, the method would be `plain` (RFC 7636 §4.3).
        if data.get("code_challenge_method") != "S256":
            raise InvalidRequestError("A code_challenge by S256 is needed.")
        if not _CHALLENGE.fullmatch(data.get("code_challenge", "")):
            raise InvalidRequestError("The code_challenge is not a SHA-256 in base64url.")


class CodeGrant(rfc6749.AuthorizationCodeGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = ANY
    server: Server
    request: Asked

    @staticmethod
    def validate_authorization_redirect_uri(request: Asked, client: ClientOf) -> str:
        # The library's own words would repeat the address.
        uri: str | None = request.payload.redirect_uri
        if uri is None or not client.check_redirect_uri(uri):
            raise InvalidRequestError("The redirect_uri is not one of this client's.")
        return uri

    def validate_consent_request(self) -> str:
        uri: str = super().validate_consent_request()
        try:
            self.server.audiences_for(self.request.client, self.request)
        except OAuth2Error as error:
            error.redirect_uri = uri
            raise
        return uri

    def create_authorization_response(self, redirect_uri: str, grant_user: SignedIn | None) -> Any:
        if grant_user is not None:
            allowed = grant_user.allowed(self.request.scope.split())
            # `*` is answered with all that it stands for, so what is granted may be longer than what is registered.
            if not allowed or too_long(allowed):
                raise InvalidScopeError(redirect_uri=redirect_uri)
        return super().create_authorization_response(redirect_uri, grant_user)

    def generate_authorization_code(self) -> str:
        authority, request = self.server.authority, self.request
        user: SignedIn = request.user
        content = CodeOf.content(
            request.client.get_client_id(),
            user,
            authority.desk.ids.new(),
            request.payload.redirect_uri,
            request.payload.data["code_challenge"],
            request.payload.data.get("nonce"),
            user.allowed(request.scope.split()),
            self.server.audiences_for(request.client, request),
        )
        code = authority.seals.seal("code", content, authority.now() + CODE_LIFETIME)
        if len(code) > LONGEST:
            raise InvalidRequestError("The nonce is too long.", redirect_uri=request.payload.redirect_uri)
        return code

    def save_authorization_code(self, code: str, request: Asked) -> None:
        """It holds all of itself."""

    def query_authorization_code(self, code: str, client: ClientOf) -> CodeOf | None:
        authority = self.server.authority
        return CodeOf.of(authority.seals.open("code", code, authority.now()), client)

    def authenticate_user(self, authorization_code: CodeOf) -> Granted | None:
        """Redeem the code, which the log lets happen once. All that the code is bound to has been checked."""
        authority, request, code = self.server.authority, self.request, authorization_code
        granted = code.get_scope().split()
        lasting = request.client.check_grant_type(Grant.REFRESH_TOKEN) and not scopes.LASTING.isdisjoint(granted)
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        command = StartSession(
            account_id=code.account_id,
            session_id=code.session_id,
            era=code.era,
            client_id=request.client.client.id,
            within=code.within,
            scopes=tuple(granted),
            audiences=code.audiences,
            factors=code.factors,
            authenticated_at=code.authenticated_at,
            offline="offline_access" in granted,
            secret=hash_of(secret) if lasting else None,
            address=request.visit.address,
            user_agent=request.visit.user_agent,
        )
        try:
            answer = authority.ask_from_thread(command, request.visit, code.account_id)
        except (SessionOver, Unknown):
            return None
        if answer.content["outcome"] != "started":
            return None
        held = Held(code.account_id, code.session_id, 1, secret)
        return _granted(
            authority,
            code.account_id,
            code.session_id,
            code.era,
            code.factors,
            code.authenticated_at,
            tuple(Audience(name) for name in code.audiences),
            _sealed(authority, held, "offline_access" in granted) if lasting else None,
        )

    def delete_authorization_code(self, authorization_code: CodeOf) -> None:
        """The session that it started uses it up."""


class RefreshGrant(rfc6749.RefreshTokenGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = ANY
    INCLUDE_NEW_REFRESH_TOKEN = True
    server: Server
    request: Asked

    def authenticate_refresh_token(self, refresh_token: str) -> RefreshOf | None:
        return refresh_of(self.server.authority, refresh_token)

    def authenticate_user(self, refresh_token: RefreshOf) -> Granted:
        authority, request, held = self.server.authority, self.request, refresh_token.held
        secret = secrets.token_urlsafe(_SECRET_BYTES)
        command = RefreshSession(
            account_id=held.account_id,
            session_id=held.session_id,
            client_id=request.client.client.id,
            generation=held.generation,
            presented=hash_of(held.secret),
            following=hash_of(secret),
        )
        session = refresh_token.session
        # An API beyond those of the session is refused before the token is used up.
        audiences = tuple(
            audience
            for audience in self.server.audiences_for(request.client, request)
            if audience.value in session.audiences
        )
        if not audiences:
            raise InvalidTarget("The resource is not one that was granted.")
        try:
            answer = authority.ask_from_thread(command, request.visit, held.account_id)
        except SessionOver:
            raise InvalidGrantError from None
        if answer.content["outcome"] != "refreshed":
            raise InvalidGrantError
        following = Held(held.account_id, held.session_id, answer.content["generation"], secret)
        granted = _granted(
            authority,
            held.account_id,
            held.session_id,
            session.era,
            session.factors,
            session.authenticated_at,
            audiences,
            _sealed(authority, following, session.offline),
        )
        if granted is None:
            raise InvalidGrantError
        return granted

    def revoke_old_credential(self, refresh_token: RefreshOf) -> None:
        """The log has moved on to the next."""


class SystemGrant(rfc6749.ClientCredentialsGrant):  # type: ignore[misc]
    TOKEN_ENDPOINT_AUTH_METHODS: ClassVar = CONFIDENTIAL
    server: Server
    request: Asked

    def create_token_response(self) -> Any:
        client: ClientOf = self.request.client
        granted = scopes_for(client.client, (self.request.payload.scope or "").split(), BY_ITSELF)
        granted = tuple(word for word in granted if scopes.parse(word) is not None)
        if not granted or too_long(granted):
            raise InvalidScopeError
        token = self.server.generate_token(
            self.GRANT_TYPE,
            client,
            scope=" ".join(granted),
            audiences=self.server.audiences_for(client, self.request),
        )
        return 200, token, self.TOKEN_RESPONSE_HEADER


class IdToken(oidc.OpenIDCode):  # type: ignore[misc]
    """Says who signed in, for the app and nobody else (OpenID Connect Core §2). It holds no name and no address."""

    def __init__(self, authority: Authority) -> None:
        super().__init__(require_nonce=False)
        self._authority = authority

    def exists_nonce(self, nonce: str, request: Asked) -> bool:
        """A nonce is for the app to compare; that a code is not used twice is kept elsewhere."""
        return False

    def encode_id_token(self, token: Mapping[str, Any], request: Asked) -> str:
        authority, user = self._authority, request.user
        now = int(authority.now().timestamp())
        half = create_half_hash(token["access_token"], ALGORITHM)
        claims = {
            "iss": authority.issuer,
            "aud": request.client.get_client_id(),
            "iat": now,
            "exp": now + int(ACCESS_LIFETIME.total_seconds()),
            "auth_time": int(user.authenticated_at.timestamp()),
            "amr": list(user.factors),
            "sid": str(user.session_id),
            "at_hash": half.decode(),
            **about(authority, user, token["scope"].split()),
        }
        if request.authorization_code is not None:
            claims |= self.get_authorization_code_claims(request.authorization_code)
        key = authority.keys.newest()
        return jwt.encode(claims, key.private, algorithm=ALGORITHM, headers={"kid": key.id})


class Revocation(rfc7009.RevocationEndpoint):  # type: ignore[misc]
    """A token given back ends the session that it rests on, whichever of its tokens it is (RFC 7009 §2.1)."""

    CLIENT_AUTH_METHODS: ClassVar = ANY
    server: Server

    def query_token(self, token_string: str, token_type_hint: str | None) -> RefreshOf | None:
        authority = self.server.authority
        if (found := refresh_of(authority, token_string)) is not None:
            return found
        claims = access_claims(authority, token_string)
        if claims is None or "sid" not in claims:
            return None
        key = SessionId(UUID(claims["account"]), UUID(claims["sid"]))
        session = authority.state_from_thread(SESSION, key)
        return None if session is None else RefreshOf(Held(*key, 0, ""), session)

    def revoke_token(self, token: RefreshOf, request: Asked) -> None:
        held = token.held
        command = EndSession(account_id=held.account_id, session_id=held.session_id, reason=Ending.REVOKED_BY_CLIENT)
        self.server.authority.ask_from_thread(command, request.visit, held.account_id)


class Introspection(rfc7662.IntrospectionEndpoint):  # type: ignore[misc]
    """What a token is good for, told to confidential clients: about their own tokens, or, where they are registered for
    it, about any of ours (RFC 7662 §2.1)."""

    CLIENT_AUTH_METHODS: ClassVar = CONFIDENTIAL
    server: Server

    def authenticate_token(self, request: Asked, client: ClientOf) -> dict[str, Any] | None:
        self.check_params(request, client)
        authority = self.server.authority
        text = request.form["token"]
        claims = access_claims(authority, text)
        if claims is None and (found := refresh_of(authority, text)) is not None:
            session = found.session
            if refreshes(authority, found):
                claims = {
                    "client_id": str(session.client_id),
                    "scope": found.get_scope(),
                    "sub": str(session.key.account_id),
                    "sid": str(session.key.id),
                    "exp": int(min(session.idle_until, session.until).timestamp()),
                    "iss": authority.token_issuer,
                }
        if claims is None:
            return None
        mine = claims.get("client_id") == client.get_client_id()
        return claims if mine or client.client.details.introspects else None

    def create_introspection_payload(self, token: dict[str, Any] | None) -> dict[str, Any]:
        if token is None:
            return {"active": False}
        told = {name: token[name] for name in _INTROSPECTED if name in token}
        return {"active": True, "token_type": "Bearer", **told}


_INTROSPECTED: Final[tuple[str, ...]] = (
    "scope",
    "client_id",
    "exp",
    "iat",
    "sub",
    "aud",
    "iss",
    "jti",
    "sid",
    "org",
    "role",
)


class EndSessionOf(EndSessionEndpoint):  # type: ignore[misc]
    """OpenID Connect RP-Initiated Logout 1.0. What ends in the browser is said by its page."""

    server: Server

    def _validate_id_token_hint(self, id_token_hint: str) -> dict[str, Any]:
        claims = id_token_claims(self.server.authority, id_token_hint)
        if claims is None:
            raise InvalidRequestError("The id_token_hint is none of ours.")
        return claims

    def end_session(self, end_session_request: Any) -> None:
        authority, claims = self.server.authority, end_session_request.id_token_claims
        if claims is None:
            return
        account_id, session_id = UUID(claims["sub"]), UUID(claims["sid"])
        command = EndSession(account_id=account_id, session_id=session_id)
        authority.ask_from_thread(command, end_session_request.request.visit, account_id)


def about(authority: Authority, user: Granted, granted: Iterable[str]) -> dict[str, Any]:
    """Who it is, as far as the scopes let it be told. `fhirUser` is as SMART App Launch 2.2 has it."""
    told = {"sub": str(user.account_id)}
    if "fhirUser" in granted:
        who = user.who
        if who.patient_id is not None:
            told["fhirUser"] = f"{authority.issuer}/read/fhir/Patient/{who.patient_id}"
        elif who.provider_id is not None:
            told["fhirUser"] = f"{authority.issuer}/read/fhir/Practitioner/{who.provider_id}"
    return told


def refresh_of(authority: Authority, text: str) -> RefreshOf | None:
    """A refresh token of ours and the session that it names. Whether it holds is another question."""
    content = authority.seals.open("refresh", text, authority.now())
    if content is None:
        return None
    held = Held.of(content)
    session = authority.state_from_thread(SESSION, SessionId(held.account_id, held.session_id))
    return None if session is None else RefreshOf(held, session)


def refreshes(authority: Authority, token: RefreshOf) -> bool:
    """Whether the app that has this refresh token would be given another for it."""
    state, held = token.session, token.held
    if state.client_id is None:
        return False
    account = authority.state_from_thread(ACCOUNT, held.account_id)
    outer = authority.state_from_thread(SESSION, SessionId(held.account_id, state.within)) if state.within else None
    client = authority.state_from_thread(CLIENT, state.client_id)
    policy = authority.state_from_thread(MFA_POLICY, THE_POLICY)
    if not session.holds(state, account, outer, client, policy):
        return False
    event = session.refresh(state, state.client_id, held.generation, hash_of(held.secret), "", authority.now())
    return isinstance(event, SessionRefreshed)


def access_claims(authority: Authority, text: str) -> dict[str, Any] | None:
    """What an access token of ours says, if it holds now at any of the APIs."""
    try:
        authority.bearers.check(f"Bearer {text}")
    except Unauthenticated:
        return None
    claims: dict[str, Any] = jwt.decode(text, options={"verify_signature": False})
    return claims


def id_token_claims(authority: Authority, text: str) -> dict[str, Any] | None:
    """What an id token of ours says, though its time be over (RP-Initiated Logout §2)."""
    try:
        key = authority.keys[jwt.get_unverified_header(text).get("kid", "")]
        claims: dict[str, Any] = jwt.decode(
            text,
            key,
            algorithms=[ALGORITHM],
            issuer=authority.issuer,
            options={"verify_exp": False, "verify_aud": False, "require": ["iss", "aud", "sub", "sid"]},
        )
    except (jwt.PyJWTError, KeyError, ValueError, TypeError):
        return None
    return claims if isinstance(claims["aud"], str) else None


def _granted(
    authority: Authority,
    account_id: UUID,
    session_id: UUID,
    era: int,
    factors: tuple[str, ...],
    authenticated_at: Any,
    audiences: tuple[Audience, ...],
    refresh: str | None,
) -> Granted | None:
    """With the role that the account has now."""
    account = authority.state_from_thread(ACCOUNT, account_id)
    if account is None:
        return None
    return Granted(account_id, session_id, era, account_of(account), factors, authenticated_at, audiences, refresh)


def _sealed(authority: Authority, held: Held, offline: bool) -> str:
    lifetime = (OFFLINE if offline else PRESENT).whole
    return authority.seals.seal("refresh", held.content(), authority.now() + lifetime)

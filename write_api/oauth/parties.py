"""Clients, codes and tokens as the library wants to meet them. In: what the log and the seals hold. Out: its questions
answered."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self
from uuid import UUID

from authlib.oauth2.rfc6749 import ClientMixin, TokenMixin  # type: ignore[import-untyped]
from authlib.oidc.core import AuthorizationCodeMixin  # type: ignore[import-untyped]

from commands.sign_in import Who
from domain import scopes
from domain.access import Role
from domain.client import Audience, Client, Grant, Kind, scopes_for
from domain.session import Session
from write_api.oauth.authority import hash_of

# Whom an app can act for, by the words of scopes: staff never by `patient/`, since no record is picked for them.
CONTEXTS: Final = {Role.PATIENT: ("patient", "user")}
STAFF_CONTEXTS: Final = ("user",)
BY_ITSELF: Final = ("system",)


class ClientOf(ClientMixin):  # type: ignore[misc]
    def __init__(self, client: Client) -> None:
        self.client = client

    @property
    def client_metadata(self) -> dict[str, Any]:
        return {"post_logout_redirect_uris": list(self.client.details.post_logout_redirect_uris)}

    def get_client_id(self) -> str:
        return str(self.client.id)

    def get_default_redirect_uri(self) -> None:
        """It has to be said, so that nobody is sent where the app did not ask for (RFC 9700 §4.1.1)."""

    def get_allowed_scope(self, scope: str | None) -> str | None:
        """As far as the client goes, before it is known for whom it acts."""
        granted = scopes_for(self.client, (scope or "").split(), ("patient", "user"))
        return " ".join(granted) or None

    def check_redirect_uri(self, redirect_uri: str) -> bool:
        return self.client.has_redirect_uri(redirect_uri)

    def check_client_secret(self, client_secret: str) -> bool:
        return self.client.knows_secret(hash_of(client_secret))

    def check_endpoint_auth_method(self, method: str, endpoint: str) -> bool:
        details = self.client.details
        if details.keys:
            return method == "private_key_jwt"
        return method != "private_key_jwt" and (method == "none") == (details.kind is Kind.PUBLIC)

    def check_response_type(self, response_type: str) -> bool:
        return response_type == "code" and self.check_grant_type(Grant.AUTHORIZATION_CODE)

    def check_grant_type(self, grant_type: str) -> bool:
        return self.client.may_use(grant_type)


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody whose browser is signed in. `era` is their account's."""

    account_id: UUID
    session_id: UUID
    era: int
    factors: tuple[str, ...]
    authenticated_at: datetime
    who: Who

    def allowed(self, granted: Iterable[str]) -> tuple[str, ...]:
        """Of what an app may have, what fits a person of this role."""
        contexts = CONTEXTS.get(self.who.role, STAFF_CONTEXTS)
        return tuple(
            word
            for word in granted
            if ((scope := scopes.parse(word)) is None or scope.context in contexts)
            and (word != "launch/patient" or self.who.patient_id is not None)
        )


class CodeOf(AuthorizationCodeMixin):  # type: ignore[misc]
    """An authorization code: everything that it is bound to, sealed into itself (RFC 6749 §4.1.2). Whether it was used
    is known by the session that it names: the code is the right to start that one."""

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content
        self.code_challenge: str = content["challenge"]
        self.code_challenge_method = "S256"
        self.account_id = UUID(content["account"])
        self.session_id = UUID(content["session"])
        self.within = UUID(content["within"])
        self.era: int = content["era"]
        self.factors: tuple[str, ...] = tuple(content["factors"])
        self.authenticated_at = datetime.fromtimestamp(content["at"], UTC)
        self.audiences: tuple[str, ...] = tuple(content["audiences"])

    @staticmethod
    def content(
        client_id: str,
        user: SignedIn,
        session_id: UUID,
        redirect_uri: str,
        challenge: str,
        nonce: str | None,
        granted: Iterable[str],
        audiences: Iterable[Audience],
    ) -> dict[str, Any]:
        return {
            "client": client_id,
            "account": str(user.account_id),
            "session": str(session_id),
            "within": str(user.session_id),
            "era": user.era,
            "factors": user.factors,
            "at": int(user.authenticated_at.timestamp()),
            "back": redirect_uri,
            "challenge": challenge,
            "nonce": nonce,
            "scope": " ".join(granted),
            "audiences": [audience.value for audience in audiences],
        }

    @classmethod
    def of(cls, content: dict[str, Any] | None, client: ClientOf) -> Self | None:
        return cls(content) if content is not None and content["client"] == client.get_client_id() else None

    def get_redirect_uri(self) -> str:
        return str(self._content["back"])

    def get_scope(self) -> str:
        return str(self._content["scope"])

    def get_nonce(self) -> str | None:
        nonce: str | None = self._content["nonce"]
        return nonce

    def get_auth_time(self) -> int:
        return int(self._content["at"])

    def get_acr(self) -> None:
        """No classes of sign-ins are told apart; `amr` says how it was done."""

    def get_amr(self) -> list[str]:
        return list(self.factors)


@dataclass(frozen=True, slots=True)
class Held:
    """What a refresh token says of itself, before the log was asked whether it holds."""

    account_id: UUID
    session_id: UUID
    generation: int
    secret: str

    def content(self) -> dict[str, Any]:
        return {"a": str(self.account_id), "s": str(self.session_id), "g": self.generation, "k": self.secret}

    @classmethod
    def of(cls, content: dict[str, Any]) -> Self:
        return cls(UUID(content["a"]), UUID(content["s"]), content["g"], content["k"])


class RefreshOf(TokenMixin):  # type: ignore[misc]
    def __init__(self, held: Held, session: Session) -> None:
        self.held = held
        self.session = session

    def check_client(self, client: ClientOf) -> bool:
        return self.session.client_id == client.client.id

    def get_scope(self) -> str:
        return " ".join(self.session.scopes)


@dataclass(frozen=True, slots=True)
class Granted:
    """For whom, and in which session and era of the account, a token is given. `refresh` is the refresh token that goes
    with it."""

    account_id: UUID
    session_id: UUID
    era: int
    who: Who
    factors: tuple[str, ...]
    authenticated_at: datetime
    audiences: tuple[Audience, ...]
    refresh: str | None

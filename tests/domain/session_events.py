"""One of each event of sessions and clients, every field told, and which of their fields are sealed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from domain import assertion, client, session
from domain.events import Event
from tests.domain.clinic import uid

START: Final = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
_WHICH: Final[dict[str, Any]] = {"account_id": uid(80), "session_id": uid(81)}
_DETAILS: Final = client.Details(
    name="A portal",
    kind=client.Kind.CONFIDENTIAL,
    grants=(client.Grant.AUTHORIZATION_CODE, client.Grant.REFRESH_TOKEN, client.Grant.CLIENT_CREDENTIALS),
    redirect_uris=("https://app.example.org/back",),
    post_logout_redirect_uris=("https://app.example.org/gone",),
    scopes=("openid", "user/Appointment.rs"),
    audiences=(client.Audience.WRITE, client.Audience.READ),
    trusted=True,
    introspects=True,
    keys=(
        client.PublicKey(
            kid="2026-03",
            alg=client.KeyAlgorithm.EDDSA,
            kty="OKP",
            crv="Ed25519",
            x="11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        ),
    ),
)

EXAMPLES: Final[list[Event]] = [
    client.ClientRegistered(client_id=uid(82), details=_DETAILS, secret="5e" * 32),
    client.ClientSecretRotated(client_id=uid(82), secret="a0" * 32),
    client.ClientRemoved(client_id=uid(82)),
    assertion.ClientAssertionUsed(client_id=uid(82), assertion_id=uid(85), until=START),
    session.SessionStarted(
        **_WHICH,
        era=1,
        client_id=uid(82),
        within=uid(83),
        after=uid(84),
        scopes=("openid", "user/Appointment.rs"),
        audiences=("write", "read"),
        factors=("pwd", "otp", "mfa"),
        authenticated_at=START,
        offline=True,
        secret="5e" * 32,
        idle_until=START + timedelta(days=14),
        until=START + timedelta(days=90),
        address="192.0.2.7",
        user_agent="x/1",
    ),
    session.SessionRefreshed(**_WHICH, generation=2, secret="a0" * 32, idle_until=START),
    session.SessionUsed(**_WHICH, idle_until=START),
    session.SessionEnded(**_WHICH, reason=session.Ending.REFRESH_REUSED),
]
SEALED: Final = {"SessionStarted.v1": ("address", "user_agent")}

"""Apps and systems that may get tokens: registered, given another secret, removed.

A secret is made here, shown once, and remembered nowhere: the command that is carried out holds its hash.
"""

from __future__ import annotations

import secrets
from typing import Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.clients import RegisterClient, RemoveClient, RotateClientSecret
from commands.loop import Answer, Command
from domain.client import Details, has_secret
from infra.http.problems import InvalidParameter
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes
from write_api.oauth.authority import hash_of

router = APIRouter(prefix="/clients", tags=["clients"])

REGISTER: Final = Body(Details)
_SECRET_BYTES: Final = 32


class ClientAnswer(Answered):
    client_id: UUID


class SecretAnswer(ClientAnswer):
    """`client_secret` is shown this once; null for a client that has none: a public one, or one with keys."""

    client_secret: str | None


@router.post(
    "",
    response_model=SecretAnswer,
    **takes(
        REGISTER,
        status=201,
        keyed=False,
        examples={
            "An app in the browser": {
                "name": "Patient portal",
                "kind": "public",
                "grants": ["authorization_code", "refresh_token"],
                "redirect_uris": ["https://portal.example.org/back"],
                "scopes": ["openid", "fhirUser", "launch/patient", "online_access", "patient/Appointment.cruds"],
            },
            "A system": {
                "name": "Laboratory",
                "kind": "confidential",
                "grants": ["client_credentials"],
                "scopes": ["system/Appointment.rs"],
            },
            "A system that signs": {
                "name": "Registry",
                "kind": "confidential",
                "grants": ["client_credentials"],
                "scopes": ["system/Appointment.rs"],
                "keys": [
                    {
                        "kid": "2026-03",
                        "alg": "EdDSA",
                        "kty": "OKP",
                        "crv": "Ed25519",
                        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
                    }
                ],
            },
        },
    ),
)
async def register_client(asked: Asked) -> Response:
    """Let an app or a system get tokens. Administrators.

    A confidential client has a secret, or `keys` with which it signs (RFC 7523). Addresses that people are sent back to
    are compared character by character; they are https, or http on the app's own machine (`http://127.0.0.1/back`),
    where the port is free (RFC 8252).
    """
    details = await asked.read(REGISTER)
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    command = RegisterClient(details=details, secret=hash_of(secret))
    return await _shown(asked, command, secret if has_secret(details) else None, status=201)


@router.post("/{client_id}/secret", response_model=SecretAnswer, **takes(refusals=(404, 409), keyed=False))
async def rotate_client_secret(client_id: UUID, asked: Asked) -> Response:
    """Give a client another secret. The former one, and tokens that it got, are refused at once. Administrators."""
    secret = secrets.token_urlsafe(_SECRET_BYTES)
    return await _shown(asked, RotateClientSecret(client_id=client_id, secret=hash_of(secret)), secret)


@router.delete("/{client_id}", response_model=ClientAnswer, **takes(refusals=(404,)))
async def remove_client(client_id: UUID, asked: Asked) -> Response:
    """Let a client get no more tokens; those that it has are refused at once. Administrators."""
    return await asked.take(RemoveClient(client_id=client_id))


async def _shown(asked: Asked, command: Command, secret: str | None, *, status: int = 200) -> Response:
    if asked.key is not None:
        raise InvalidParameter("No Idempotency-Key is taken here: what is shown once is not remembered.")
    answer = await asked.carry_out(command)
    return asked.answered(Answer({**answer.content, "client_secret": secret}, answer.position), status=status)

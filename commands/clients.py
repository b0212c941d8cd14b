"""Clients: registered, given another secret, removed.

A secret is made by whoever asks for the command, who shows it once; here only its hash passes, so no remembered answer
holds it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from joserfc.errors import JoseError
from joserfc.jwk import RSAKey, import_key
from pydantic import StringConstraints

from commands.loop import ASSERTION, CLIENT, Command, Decision, Reading, handles
from domain import assertion, client
from domain.access import Actor
from domain.assertion import AssertionId, ClientAssertionUsed
from domain.client import SHORTEST_MODULUS, Details, KeyNotTaken
from domain.refusals import NotAllowed
from domain.step_up import fresh_enough

# A SHA-256 in hex.
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class RegisterClient(Command):
    """`secret` is the hash of one made for a confidential client."""

    details: Details
    secret: Hash


class RotateClientSecret(Command):
    client_id: UUID
    secret: Hash


class UseAssertion(Command):
    """Ask with the actor `SIGN_IN`, of an assertion that was checked. → `outcome`: `accepted`, once."""

    client_id: UUID
    assertion_id: UUID
    until: datetime


class RemoveClient(Command):
    client_id: UUID


@handles(UseAssertion, "sign_in")
async def use_assertion(command: UseAssertion, reading: Reading, actor: Actor) -> Decision:
    key = AssertionId(command.client_id, command.assertion_id)
    if await reading.find(ASSERTION, key) is not None:
        return Decision([], {"outcome": "refused"})
    event = ClientAssertionUsed(client_id=key.client_id, assertion_id=key.id, until=command.until)
    return Decision([(assertion.stream(key), event)], {"outcome": "accepted"})


@handles(RegisterClient, "register_client")
async def register_client(command: RegisterClient, reading: Reading, actor: Actor) -> Decision:
    _by_somebody(actor, reading)
    client.within(command.details, actor.scopes)
    for key in command.details.keys:
        try:
            made = import_key(key.jwk())
        except (JoseError, ValueError, TypeError):
            raise KeyNotTaken("this is no public key", kid=key.kid) from None
        # Zeros before the modulus have it look longer than it is.
        if isinstance(made, RSAKey) and made.public_key.key_size < SHORTEST_MODULUS:
            raise KeyNotTaken("this key is too short", kid=key.kid)
    client_id = reading.desk.ids.new()
    event = client.register(client_id, command.details, command.secret)
    return Decision([(client.stream(client_id), event)], {"client_id": str(client_id)})


@handles(RotateClientSecret, "register_client")
async def rotate_client_secret(command: RotateClientSecret, reading: Reading, actor: Actor) -> Decision:
    _by_somebody(actor, reading)
    state = await reading.get(CLIENT, command.client_id)
    client.within(state.details, actor.scopes)
    return Decision([(client.stream(state.id), client.rotate_secret(state, command.secret))], _told(state.id))


@handles(RemoveClient, "register_client")
async def remove_client(command: RemoveClient, reading: Reading, actor: Actor) -> Decision:
    _by_somebody(actor, reading)
    state = await reading.get(CLIENT, command.client_id)
    return Decision([(client.stream(state.id), event) for event in client.remove(state)], _told(state.id))


def _by_somebody(actor: Actor, reading: Reading) -> None:
    """A client may do what its scopes say, whoever holds its secret: people make it, after a fresh sign-in, and
    operators. Raises `NotAllowed` and `StepUpRequired`."""
    if actor.client_id is not None and actor.account_id is None:
        raise NotAllowed("a client registers no clients", action="register_client")
    fresh_enough(actor, reading.now)


def _told(client_id: UUID) -> dict[str, str]:
    return {"client_id": str(client_id)}

"""Passkeys (WebAuthn Level 2): added to one's own account, and answered at sign-in.

In: what an authenticator said. Out: events. A challenge is made with a key that lies outside the log and lives for
minutes; its id is recorded with the answer, so that the log refuses a second one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import webauthn
from pydantic import Field
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, options_to_json_dict
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from commands.letters import Letter, letter
from commands.loop import Command, Decision, Reading, handles
from commands.passwords import credentials_of
from commands.second_factors import first_codes, own, required
from domain import account
from domain.access import Actor
from domain.account import (
    CHALLENGE_LIFETIME,
    MOST_PASSKEYS,
    Account,
    AlreadyEnrolled,
    PasskeyAccepted,
    PasskeyAdded,
    PasskeyNotTaken,
    PasskeyRemoved,
)
from domain.events import Erased
from domain.provider import Words

_TAG: Final = 24
_CHALLENGE: Final = 16 + 8 + _TAG
_USER_VERIFIED: Final = 0x04
_BACKUP_ELIGIBLE: Final = 0x08


class Replayed(PasskeyNotTaken):
    """This very answer was given before."""


class NewPasskey(Command):
    """What to hand to `navigator.credentials.create()`. → `options`, `challenge`."""


class AddPasskey(Command):
    """`response` is what `navigator.credentials.create()` gave, as JSON. → `passkey_id`, `letter`, `recovery_codes`
    (where there were none yet)."""

    name: Words
    response: dict[str, Any]
    challenge: str = Field(max_length=1000)


class RemovePasskey(Command):
    """→ `letter`."""

    passkey_id: UUID


class Challenge(NamedTuple):
    id: UUID
    until: datetime
    sent: bytes


def relying_party(site: str) -> str:
    """The host that passkeys are bound to (WebAuthn Level 2 §5.1.2)."""
    return urlsplit(site).hostname or "localhost"


def whose(response: dict[str, Any]) -> UUID | None:
    """The account that a discoverable passkey names, unproved as yet."""
    inner = response.get("response")
    handle = inner.get("userHandle") if isinstance(inner, dict) else None
    try:
        return UUID(bytes=_bytes(handle)) if isinstance(handle, str) else None
    except ValueError:
        return None


def user_verified(response: dict[str, Any]) -> bool:
    """Whether the authenticator says that it knew its owner, by PIN or finger (WebAuthn Level 2 §6.1). Ask only of what
    was accepted."""
    return bool(_flags(response) & _USER_VERIFIED)


def methods(response: dict[str, Any]) -> list[str]:
    """What a passkey that was accepted proved, in the words of RFC 8176: that somebody was there (`user`) with a key,
    bound to its device (`hwk`) or one that is copied to others of theirs (`swk`; WebAuthn Level 3 §6.1.3), and where
    the device knew its owner, two factors (`mfa`). It is the device's word: no attestation is asked for."""
    flags = _flags(response)
    key = "swk" if flags & _BACKUP_ELIGIBLE else "hwk"
    return [key, "user", *(["mfa"] if flags & _USER_VERIFIED else [])]


def _flags(response: dict[str, Any]) -> int:
    return base64url_to_bytes(response["response"]["authenticatorData"])[32]


def offer(reading: Reading, state: Account | None, *, named: bool) -> dict[str, Any]:
    """Options for `navigator.credentials.get()`. An account that is not there is offered what one without passkeys
    is."""
    credentials = credentials_of(reading)
    challenge = _new_challenge(reading, "sign in")
    options = webauthn.generate_authentication_options(
        rp_id=relying_party(credentials.site),
        challenge=challenge,
        timeout=int(CHALLENGE_LIFETIME.total_seconds() * 1000),
        allow_credentials=_known(state) if state is not None else [],
        user_verification=UserVerificationRequirement.PREFERRED if named else UserVerificationRequirement.REQUIRED,
    )
    return {"options": options_to_json_dict(options), "challenge": bytes_to_base64url(challenge)}


def accepted(
    reading: Reading, state: Account, response: dict[str, Any], challenge: str, *, named: bool
) -> PasskeyAccepted:
    """Raises `PasskeyNotTaken`, and `Replayed` where the challenge or the signature counter was seen before."""
    sent = _read_challenge(reading, state, challenge, "sign in")
    key = next((one for one in state.passkeys.values() if one.credential_id == response.get("id")), None)
    if key is None or isinstance(key.public_key, Erased):
        raise PasskeyNotTaken("this passkey is not known")
    site = credentials_of(reading).site
    try:
        verified = webauthn.verify_authentication_response(
            credential=response,
            expected_challenge=sent.sent,
            expected_rp_id=relying_party(site),
            expected_origin=site,
            credential_public_key=_bytes(key.public_key),
            credential_current_sign_count=key.sign_count,
            require_user_verification=not named,
        )
    except Exception:  # a parser that is fed hostile bytes raises whatever it stumbles over
        raise PasskeyNotTaken("the passkey's answer does not fit what it was asked") from None
    return PasskeyAccepted(
        account_id=state.id,
        passkey_id=key.id,
        sign_count=verified.new_sign_count,
        challenge_id=sent.id,
        challenge_until=sent.until,
    )


@handles(NewPasskey, "change_own_account")
async def new_passkey(command: NewPasskey, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    credentials = credentials_of(reading)
    challenge = _new_challenge(reading, "add")
    shown = credentials.name if isinstance(state.email, Erased) else state.email
    options = webauthn.generate_registration_options(
        rp_id=relying_party(credentials.site),
        rp_name=credentials.name,
        user_id=state.id.bytes,
        user_name=shown,
        challenge=challenge,
        timeout=int(CHALLENGE_LIFETIME.total_seconds() * 1000),
        exclude_credentials=_known(state),
        authenticator_selection=AuthenticatorSelectionCriteria(
            resident_key=ResidentKeyRequirement.PREFERRED,
            user_verification=UserVerificationRequirement.PREFERRED,
        ),
    )
    return Decision([], {"options": options_to_json_dict(options), "challenge": bytes_to_base64url(challenge)})


@handles(AddPasskey, "change_own_account")
async def add_passkey(command: AddPasskey, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    if len(state.passkeys) >= MOST_PASSKEYS:
        raise AlreadyEnrolled(f"at most {MOST_PASSKEYS} passkeys; remove one first")
    sent = _read_challenge(reading, state, command.challenge, "add")
    site = credentials_of(reading).site
    try:
        verified = webauthn.verify_registration_response(
            credential=command.response,
            expected_challenge=sent.sent,
            expected_rp_id=relying_party(site),
            expected_origin=site,
        )
    except Exception:  # a parser that is fed hostile bytes raises whatever it stumbles over
        raise PasskeyNotTaken("the passkey's answer does not fit what it was asked") from None
    credential_id = bytes_to_base64url(verified.credential_id)
    if any(one.credential_id == credential_id for one in state.passkeys.values()):
        raise AlreadyEnrolled("this passkey is set up already")
    passkey_id = reading.desk.ids.new()
    event = PasskeyAdded(
        account_id=state.id,
        passkey_id=passkey_id,
        credential_id=credential_id,
        public_key=bytes_to_base64url(verified.credential_public_key),
        name=command.name,
        sign_count=verified.sign_count,
        challenge_id=sent.id,
        challenge_until=sent.until,
    )
    codes, made = first_codes(reading, state)
    changes = [(account.stream(state.id), one) for one in (event, *made)]
    told = {
        "passkey_id": str(passkey_id),
        "recovery_codes": codes,
        "letter": letter(state, Letter.FACTOR_ADDED),
    }
    return Decision(changes, told)


@handles(RemovePasskey, "change_own_account")
async def remove_passkey(command: RemovePasskey, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    removed = PasskeyRemoved(account_id=state.id, passkey_id=command.passkey_id)
    event = account.remove_factor(state, removed, required=await required(reading, state))
    return Decision([(account.stream(state.id), event)], {"letter": letter(state, Letter.FACTOR_REMOVED)})


def _known(state: Account) -> list[PublicKeyCredentialDescriptor]:
    ids = [key.credential_id for key in state.passkeys.values()]
    return [PublicKeyCredentialDescriptor(id=_bytes(one)) for one in ids if not isinstance(one, Erased)]


def _new_challenge(reading: Reading, purpose: str) -> bytes:
    until = int((reading.now + CHALLENGE_LIFETIME).timestamp())
    body = reading.desk.ids.new().bytes + until.to_bytes(8)
    return body + _tag(reading, purpose, body)


def _read_challenge(reading: Reading, state: Account, said: str, purpose: str) -> Challenge:
    """Raises `PasskeyNotTaken` for what was not made here or has ended, and `Replayed`."""
    try:
        sent = _bytes(said)
    except ValueError:
        sent = b""
    body, tag = sent[:-_TAG], sent[-_TAG:]
    if len(sent) != _CHALLENGE or not hmac.compare_digest(tag, _tag(reading, purpose, body)):
        raise PasskeyNotTaken("the challenge was not made here")
    challenge = Challenge(UUID(bytes=body[:16]), datetime.fromtimestamp(int.from_bytes(body[16:]), UTC), sent)
    if challenge.until <= reading.now:
        raise PasskeyNotTaken("the challenge has ended; start again")
    if challenge.id in state.answered:
        raise Replayed("the challenge was answered before")
    return challenge


def _tag(reading: Reading, purpose: str, body: bytes) -> bytes:
    return credentials_of(reading).blinds.of("passkey challenge", reading.organization, purpose, body.hex())[:_TAG]


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise ValueError("not base64url") from error

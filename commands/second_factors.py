"""Second factors of one's own account, and which roles need one.

In: what a signed-in person asks about their own account. Out: events; secrets and codes are in the answer, once.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final
from uuid import UUID

import pyotp
from pydantic import Field, SecretStr

from commands.access import reach
from commands.letters import Letter, letter
from commands.loop import ACCOUNT, MFA_POLICY, Command, Decision, Reading, handles
from commands.passwords import credentials_of
from domain import account, mfa_policy
from domain.access import Actor, Role
from domain.account import RECOVERY_CODES, Account, RecoveryCodesMade, Totp, TotpRemoved
from domain.events import Erased
from domain.mfa_policy import THE_POLICY, Mfa
from domain.ports import Blinds
from domain.refusals import NotAllowed
from domain.step_up import fresh_enough

# RFC 4226 §4, R6.
_SECRET_BYTES: Final = 20
# Eighty bits in base32: nobody guesses one, and it can be typed.
_CODE_LETTERS: Final = 16


class EnrolTotp(Command):
    """→ `secret`, `uri` (otpauth), shown this once."""


class ConfirmTotp(Command):
    """→ `recovery_codes`, where there were none yet, and `letter`."""

    code: SecretStr = Field(max_length=100)


class RemoveTotp(Command):
    """→ `letter`."""


class MakeRecoveryCodes(Command):
    """→ `recovery_codes`, shown this once; earlier ones end; and `letter`."""


class SetMfaPolicy(Command):
    """Off, optional or required, for the roles that are named; others stay as they are."""

    roles: dict[Role, Mfa]


async def own(reading: Reading, actor: Actor, *, fresh: bool = True) -> Account:
    """The account of whoever asks. Raises `NotAllowed`, `StepUpRequired`, `AccountNotActive`."""
    if actor.account_id is None:
        raise NotAllowed("this token was minted by an operator and belongs to no account", action="change_own_account")
    await reach(reading, actor, "change_own_account", account_id=actor.account_id)
    state = await reading.get(ACCOUNT, actor.account_id)
    account.require_active(state)
    if fresh:
        fresh_enough(actor, reading.now)
    return state


async def wanted(reading: Reading, role: Role) -> Mfa:
    """What the policy of the organization says of a role."""
    policy = await reading.find(MFA_POLICY, THE_POLICY)
    return mfa_policy.for_role(policy, role)


async def required(reading: Reading, state: Account) -> bool:
    return await wanted(reading, state.role) is Mfa.REQUIRED


def code_at(totp: Totp | None) -> Callable[[int], str]:
    """The code of a step (RFC 6238): six digits, SHA-1, as every authenticator app has it."""
    if totp is None or isinstance(totp.secret, Erased):
        # Fits nothing that anybody sends.
        return lambda step: ""
    return pyotp.TOTP(totp.secret).generate_otp


def digits(code: SecretStr) -> str:
    """As people type them: with spaces. An empty one fits nothing."""
    return "".join(code.get_secret_value().split()) or "-"


def hash_code(blinds: Blinds, account_id: UUID, code: str) -> str:
    plain = "".join(code.split()).replace("-", "").casefold()
    return blinds.of("recovery code", str(account_id), plain).hex()


def new_codes(reading: Reading, state: Account) -> tuple[list[str], RecoveryCodesMade]:
    """Fresh codes, and the event that keeps their hashes."""
    blinds, seed = credentials_of(reading).blinds, reading.desk.ids.secret()
    codes = []
    for place in range(RECOVERY_CODES):
        made = blinds.of("new recovery code", str(state.id), seed, str(place))
        letters = base64.b32encode(made).decode().lower()[:_CODE_LETTERS]
        codes.append("-".join(letters[start : start + 4] for start in range(0, _CODE_LETTERS, 4)))
    hashes = tuple(hash_code(blinds, state.id, code) for code in codes)
    return codes, RecoveryCodesMade(account_id=state.id, hashes=hashes)


def first_codes(reading: Reading, state: Account) -> tuple[list[str], list[RecoveryCodesMade]]:
    """Codes for whoever sets up a first second factor, and has none left."""
    if any(state.recovery):
        return [], []
    codes, event = new_codes(reading, state)
    return codes, [event]


@handles(EnrolTotp, "change_own_account")
async def enrol_totp(command: EnrolTotp, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    credentials = credentials_of(reading)
    made = credentials.blinds.of("new totp secret", str(state.id), reading.desk.ids.secret())
    secret = base64.b32encode(made[:_SECRET_BYTES]).decode()
    event = account.enrol_totp(state, secret)
    shown = "Daybook" if isinstance(state.email, Erased) else state.email
    uri = pyotp.TOTP(secret, name=shown, issuer=credentials.name).provisioning_uri()
    return Decision([(account.stream(state.id), event)], {"secret": secret, "uri": uri})


@handles(ConfirmTotp, "change_own_account")
async def confirm_totp(command: ConfirmTotp, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    event = account.confirm_totp(state, digits(command.code), reading.now, code_at(state.totp))
    codes, made = first_codes(reading, state)
    stream = account.stream(state.id)
    told = {"recovery_codes": codes, "letter": letter(state, Letter.FACTOR_ADDED)}
    return Decision([(stream, one) for one in (event, *made)], told)


@handles(RemoveTotp, "change_own_account")
async def remove_totp(command: RemoveTotp, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    removed = TotpRemoved(account_id=state.id)
    event = account.remove_factor(state, removed, required=await required(reading, state))
    return Decision([(account.stream(state.id), event)], {"letter": letter(state, Letter.FACTOR_REMOVED)})


@handles(MakeRecoveryCodes, "change_own_account")
async def make_recovery_codes(command: MakeRecoveryCodes, reading: Reading, actor: Actor) -> Decision:
    state = await own(reading, actor)
    codes, event = new_codes(reading, state)
    told = {"recovery_codes": codes, "letter": letter(state, Letter.RECOVERY_CODES_MADE)}
    return Decision([(account.stream(state.id), event)], told)


@handles(SetMfaPolicy, "set_mfa_policy")
async def set_mfa_policy(command: SetMfaPolicy, reading: Reading, actor: Actor) -> Decision:
    fresh_enough(actor, reading.now)
    event = mfa_policy.choose(command.roles)
    before = await reading.find(MFA_POLICY, THE_POLICY)
    after = mfa_policy.evolve(before, event)
    return Decision(
        [(mfa_policy.stream(), event)], {"roles": {role.value: mfa.value for role, mfa in after.roles.items()}}
    )

"""Accounts: registering, choosing a password, second factors, and what administrators do to them.

Signing in itself is OAuth's (`write_api/oauth`). What an answer shows once is never remembered, so the routes that show
something take no `Idempotency-Key`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from commands import addresses
from commands.accounts import (
    AskReset,
    ChangePassword,
    ChangeRole,
    CloseAccount,
    CloseOwnAccount,
    FollowLink,
    InviteAccount,
    InviteAgain,
    LockAccount,
    RegisterAccount,
    ResetFactors,
    UnlockAccount,
)
from commands.loop import Answer, Command
from commands.passkeys import AddPasskey, NewPasskey, RemovePasskey
from commands.second_factors import ConfirmTotp, EnrolTotp, MakeRecoveryCodes, RemoveTotp, SetMfaPolicy
from domain.access import Role
from domain.account import LinkPurpose, PasswordWrong, TryLater
from domain.mfa_policy import Mfa
from infra.http.attempts import Attempt, Limited
from infra.http.problems import InvalidParameter
from write_api.asking import Asked, Asking
from write_api.bodies import Body
from write_api.describing import Answered, takes
from write_api.letters import on_its_way
from write_api.visiting import Visit, Visiting

router = APIRouter(prefix="/accounts", tags=["accounts"])

REGISTER: Final = Body(RegisterAccount)
ASK_RESET: Final = Body(AskReset)
FOLLOW: Final = Body(FollowLink, "purpose")
CHANGE_PASSWORD: Final = Body(ChangePassword)
CONFIRM: Final = Body(ConfirmTotp)
ADD_PASSKEY: Final = Body(AddPasskey)
INVITE: Final = Body(InviteAccount)
ROLE: Final = Body(ChangeRole, "account_id")
POLICY: Final = Body(SetMfaPolicy)

ByLetter = Annotated[Attempt, Depends(Limited("letters", per_address="20/minute", per_account="5/hour"))]
ByLink = Annotated[Attempt, Depends(Limited("links", per_address="20/minute"))]
ByHand = Annotated[Attempt, Depends(Limited("second factors", per_address="30/minute", per_account="20/minute"))]

ADDRESS: Final = {"An address": {"email": "ada@example.org"}}
# A letter goes to the owner of the address, and to nobody else.
_UNSHOWN: Final = frozenset({"letter", "outcome", "retry_after"})
LINK: Final = {"From the letter": {"token": "AZqX…", "password": "violet anvil seventeen"}}


class LetterAnswer(BaseModel):
    """A letter is on its way where there is one to send. The answer is the same whether or not the address is known."""


class VerifiedAnswer(BaseModel):
    account_id: UUID


class AccountAnswer(Answered):
    account_id: UUID


class TotpAnswer(Answered):
    """For an authenticator app, shown this once."""

    secret: str
    uri: str = Field(examples=["otpauth://totp/Daybook:ada%40example.org?secret=…&issuer=Daybook"])


class CodesAnswer(Answered):
    """Recovery codes, shown this once; none where there are some already."""

    recovery_codes: list[str]


class PasskeyAnswer(CodesAnswer):
    passkey_id: UUID


class OptionsAnswer(Answered):
    """`options` go to `navigator.credentials.create()`; `challenge` comes back with what it gives."""

    options: dict[str, Any]
    challenge: str


class PolicyAnswer(Answered):
    roles: dict[Role, Mfa]


@router.post("", response_model=LetterAnswer, **takes(REGISTER, status=202, stranger=True, examples=ADDRESS))
async def register_account(visit: Visit, attempt: ByLetter) -> Response:
    """Ask for a patient's account. The address gets a link, and a password is chosen behind it."""
    command = await visit.read(REGISTER)
    await attempt.of(addresses.read(command.email).look)
    return await _by_letter(visit, command)


@router.post("/verify", response_model=VerifiedAnswer, **takes(FOLLOW, refusals=(409,), stranger=True, examples=LINK))
async def verify_account(visit: Visit, attempt: ByLink) -> Response:
    """Confirm an address with the token of a letter, and choose a password: at least twelve characters of any kind, and
    none that is guessed first."""
    return await _by_link(visit, LinkPurpose.VERIFY)


@router.post(
    "/reset/ask",
    response_model=LetterAnswer,
    **takes(ASK_RESET, status=202, stranger=True, examples=ADDRESS),
)
async def ask_reset(visit: Visit, attempt: ByLetter) -> Response:
    """Ask for a link behind which a new password is chosen."""
    command = await visit.read(ASK_RESET)
    await attempt.of(addresses.read(command.email).look)
    return await _by_letter(visit, command)


@router.post("/reset", response_model=VerifiedAnswer, **takes(FOLLOW, refusals=(409,), stranger=True, examples=LINK))
async def reset_password(visit: Visit, attempt: ByLink) -> Response:
    """Choose a new password with the token of a letter. All sessions end, and what wrong guesses brought about too."""
    return await _by_link(visit, LinkPurpose.RESET)


@router.post(
    "/me/password",
    response_model=Answered,
    **takes(
        CHANGE_PASSWORD,
        refusals=(404, 409),
        keyed=False,
        examples={"A new one": {"present": "violet anvil seventeen", "password": "another long harbour"}},
    ),
)
async def change_password(asked: Asked) -> Response:
    """Change one's own password. The present one is asked for; all sessions end."""
    answer = await _carried_out(asked, await asked.read(CHANGE_PASSWORD))
    match answer.content["outcome"]:
        case "refused":
            raise PasswordWrong("this is not your present password")
        case "locked":
            wait = answer.content["retry_after"]
            raise TryLater("too many wrong guesses; try again later", retry_after=wait)
    return _shown(asked, answer)


@router.post("/me/totp", response_model=TotpAnswer, **takes(refusals=(404, 409), keyed=False))
async def enrol_totp(asked: Asked) -> Response:
    """Set up an authenticator app (RFC 6238). It counts once a code of it was seen. Needs a fresh sign-in, as all that
    changes how one signs in."""
    return await _once(asked, EnrolTotp())


@router.post(
    "/me/totp/confirm",
    response_model=CodesAnswer,
    **takes(CONFIRM, refusals=(404, 409), keyed=False, examples={"What the app shows": {"code": "123456"}}),
)
async def confirm_totp(asked: Asked, attempt: ByHand) -> Response:
    """Show that the app works, by a code of it."""
    await attempt.of(asked.caller.actor.id)
    return await _once(asked, await asked.read(CONFIRM))


@router.delete("/me/totp", response_model=Answered, **takes(refusals=(404, 409), keyed=False))
async def remove_totp(asked: Asked) -> Response:
    """Do without the authenticator app. Not the last second factor of a role that needs one."""
    return await _once(asked, RemoveTotp())


@router.post("/me/recovery-codes", response_model=CodesAnswer, **takes(refusals=(404, 409), keyed=False))
async def make_recovery_codes(asked: Asked) -> Response:
    """Ten fresh codes, each of which stands in for another second factor once. Earlier ones end."""
    return await _once(asked, MakeRecoveryCodes())


@router.post("/me/passkey-options", response_model=OptionsAnswer, **takes(refusals=(404, 409), keyed=False))
async def new_passkey(asked: Asked) -> Response:
    """What a browser needs to make a passkey (WebAuthn Level 2). Good for five minutes."""
    return await _once(asked, NewPasskey())


@router.post("/me/passkeys", response_model=PasskeyAnswer, **takes(ADD_PASSKEY, refusals=(404, 409), keyed=False))
async def add_passkey(asked: Asked) -> Response:
    """Add the passkey that the browser made."""
    return await _once(asked, await asked.read(ADD_PASSKEY))


@router.delete("/me/passkeys/{passkey_id}", response_model=Answered, **takes(refusals=(404, 409), keyed=False))
async def remove_passkey(passkey_id: UUID, asked: Asked) -> Response:
    """Do without a passkey. Not the last second factor of a role that needs one."""
    return await _once(asked, RemovePasskey(passkey_id=passkey_id))


@router.delete("/me", response_model=AccountAnswer, **takes(refusals=(404, 409), keyed=False))
async def close_own_account(asked: Asked) -> Response:
    """Close one's own account. The book keeps what it must; see erasure for the rest."""
    return await _once(asked, CloseOwnAccount())


@router.post(
    "/invitations",
    response_model=AccountAnswer,
    **takes(
        INVITE,
        status=201,
        refusals=(404, 409),
        keyed=False,
        examples={"A colleague": {"email": "grace@example.org", "role": "front_desk"}},
    ),
)
async def invite_account(asked: Asked) -> Response:
    """Make an account for a patient who is known, or for staff; the address gets a link. Administrators; the front desk
    for patients."""
    return await _once(asked, await asked.read(INVITE), status=201)


@router.post("/{account_id}/invitations", response_model=AccountAnswer, **takes(refusals=(404, 409), keyed=False))
async def invite_again(account_id: UUID, asked: Asked) -> Response:
    """Send a new link to somebody who has not followed theirs."""
    return await _once(asked, InviteAgain(account_id=account_id))


@router.post(
    "/{account_id}/role",
    response_model=AccountAnswer,
    **takes(ROLE, refusals=(404, 409), examples={"To the desk": {"role": "front_desk"}}),
)
async def change_role(account_id: UUID, asked: Asked) -> Response:
    """Give an account another role. Its sessions end. Administrators, after a fresh sign-in, and never their own."""
    return await asked.take(await asked.read(ROLE, account_id=account_id))


@router.post("/{account_id}/lock", response_model=AccountAnswer, **takes(refusals=(404, 409)))
async def lock_account(account_id: UUID, asked: Asked) -> Response:
    """Keep an account from signing in. Its sessions end."""
    return await asked.take(LockAccount(account_id=account_id))


@router.post("/{account_id}/unlock", response_model=AccountAnswer, **takes(refusals=(404, 409)))
async def unlock_account(account_id: UUID, asked: Asked) -> Response:
    """Let it sign in again, also after wrong guesses."""
    return await asked.take(UnlockAccount(account_id=account_id))


@router.post("/{account_id}/reset-factors", response_model=AccountAnswer, **takes(refusals=(404, 409), keyed=False))
async def reset_factors(account_id: UUID, asked: Asked) -> Response:
    """Take all second factors and recovery codes away from somebody who lost theirs; make sure first who asks. Their
    sessions end, and they get a letter."""
    return await _once(asked, ResetFactors(account_id=account_id))


@router.post("/{account_id}/close", response_model=AccountAnswer, **takes(refusals=(404, 409)))
async def close_account(account_id: UUID, asked: Asked) -> Response:
    """Close an account for good. Its address is free again."""
    return await asked.take(CloseAccount(account_id=account_id))


@router.put(
    "/mfa-policy",
    response_model=PolicyAnswer,
    **takes(POLICY, examples={"For the desk": {"roles": {"front_desk": "required"}}}),
)
async def set_mfa_policy(asked: Asked) -> Response:
    """Whether the roles that are named need a second factor: off, optional or required."""
    return await asked.take(await asked.read(POLICY))


async def _by_letter(visit: Visiting, command: Command) -> Response:
    answer = await visit.ask(command)
    return JSONResponse({}, 202, background=on_its_way(visit.counter.post, answer.content))


async def _by_link(visit: Visiting, purpose: LinkPurpose) -> Response:
    answer = await visit.ask(await visit.read(FOLLOW, purpose=purpose))
    shown = {"account_id": answer.content["account_id"]}
    return JSONResponse(shown, background=on_its_way(visit.counter.post, answer.content))


async def _once(asked: Asking, command: Command, *, status: int = 200) -> Response:
    return _shown(asked, await _carried_out(asked, command), status=status)


async def _carried_out(asked: Asking, command: Command) -> Answer:
    """Without a memory: the answer holds what is shown once, or a letter."""
    if asked.key is not None:
        raise InvalidParameter("No Idempotency-Key is taken here: what is shown once is not remembered.")
    return await asked.carry_out(command)


def _shown(asked: Asking, answer: Answer, *, status: int = 200) -> Response:
    shown = {name: value for name, value in answer.content.items() if name not in _UNSHOWN}
    response = asked.answered(replace(answer, content=shown), status=status)
    response.background = on_its_way(asked.counter.post, answer.content)
    return response

"""One account: who it is, and how they sign in; from the log, as it is at this moment."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from domain import account
from domain.access import Role
from domain.account import Factor, Status
from domain.events import Erased
from read_api.asking import Asked, unknown
from read_api.describing import answers
from read_api.folding import folded

router = APIRouter(tags=["accounts"])


class PasskeyView(BaseModel):
    passkey_id: UUID
    name: str | None


class AccountView(BaseModel):
    """`email` and the names of passkeys are shown to their owner alone."""

    account_id: UUID
    role: Role
    account_status: Status
    patient_id: UUID | None
    provider_id: UUID | None
    email: str | None
    second_factors: list[Factor]
    passkeys: list[PasskeyView]
    recovery_codes_left: int


@router.get("/accounts/{account_id}", response_model=AccountView, **answers(404))
async def read_account(account_id: UUID, asked: Asked) -> Response:
    """One's own account; administrators anybody's."""
    asked.may("read_account")
    await asked.reach(account_id=account_id)
    log = asked.library.log
    head = await log.head()
    stream = account.stream(account_id)
    state = folded(account.evolve, (await log.load(asked.organization, {stream: 0}, upto=head))[stream])
    if state is None:
        raise unknown(account_id)
    own = asked.actor.account_id == account_id
    shown = AccountView(
        account_id=state.id,
        role=state.role,
        account_status=state.status,
        patient_id=state.patient_id,
        provider_id=state.provider_id,
        email=_words(state.email, own),
        second_factors=list(state.second_factors),
        passkeys=[PasskeyView(passkey_id=key.id, name=_words(key.name, own)) for key in state.passkeys.values()],
        recovery_codes_left=sum(code is not None for code in state.recovery),
    )
    return asked.answer(shown, head)


def _words(said: str | Erased, own: bool) -> str | None:
    return None if isinstance(said, Erased) or not own else said

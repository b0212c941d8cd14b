"""Pages for whoever has no password yet, or has forgotten it: to ask for a letter, and to follow its link.

In: forms of our pages. Out: pages that say the same whether or not an address is known. Opening a link changes nothing,
as mail programmes open links too; the form behind it does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from fastapi import APIRouter, Depends
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response

from commands import addresses
from commands.accounts import AskReset, FollowLink, RegisterAccount
from commands.passwords import LONGEST
from domain.account import AddressNotTaken, LinkEnded, LinkPurpose, PasswordTooWeak
from infra.http.attempts import Attempt, Limited
from write_api.letters import on_its_way
from write_api.oauth.signing_in import Form, Reception

router = APIRouter(include_in_schema=False)

_ByLetter = Annotated[Attempt, Depends(Limited("letters", per_address="20/minute", per_account="5/hour"))]
_ByLink = Annotated[Attempt, Depends(Limited("links", per_address="20/minute"))]


@dataclass(frozen=True, slots=True)
class _Page:
    title: str
    words: str
    button: str


_REGISTER: Final = _Page(
    "Make an account", "We send a link to your address. Behind it you choose a password.", "Send the link"
)
_FORGOTTEN: Final = _Page(
    "Choose a new password", "We send a link to the address of your account, if there is one.", "Send the link"
)


@router.get("/oauth/account/register")
async def register_page(request: Request) -> Response:
    return _address_page(request, "register", _REGISTER)


@router.post("/oauth/account/register")
async def register(request: Request, form: Form, attempt: _ByLetter) -> Response:
    return await _by_letter(request, form, attempt, "register", _REGISTER)


@router.get("/oauth/account/forgotten")
async def forgotten_page(request: Request) -> Response:
    return _address_page(request, "forgotten", _FORGOTTEN)


@router.post("/oauth/account/forgotten")
async def forgotten(request: Request, form: Form, attempt: _ByLetter) -> Response:
    return await _by_letter(request, form, attempt, "forgotten", _FORGOTTEN)


@router.get("/oauth/account/{purpose}")
async def link_page(request: Request, purpose: LinkPurpose, token: str = "") -> Response:
    return _password_page(request, purpose, token)


@router.post("/oauth/account/{purpose}")
async def follow_link(request: Request, purpose: LinkPurpose, form: Form, attempt: _ByLink) -> Response:
    at: Reception = request.app.state.reception
    token, password = form.get("token", "")[:200], form.get("password", "")
    if len(password) > LONGEST:
        problem = f"A password has at most {LONGEST} characters."
        return _password_page(request, purpose, token, problem=problem, status=422)
    command = FollowLink(purpose=purpose, token=token, password=SecretStr(password))
    try:
        answer = await at.authority.ask(command, at.browsers.visit(request))
    except PasswordTooWeak as refusal:
        return _password_page(request, purpose, token, problem=_sentence(refusal.message), status=refusal.status)
    except LinkEnded as refusal:
        return at.pages.show(request, "account_link_ended", refusal.status)
    response = at.pages.show(request, "account_done")
    response.background = on_its_way(request.app.state.post, answer.content)
    return response


async def _by_letter(request: Request, form: dict[str, str], attempt: Attempt, page: str, said: _Page) -> Response:
    at: Reception = request.app.state.reception
    email = form.get("email", "")[:1000]
    try:
        await attempt.of(addresses.read(email).look)
    except AddressNotTaken as refusal:
        return _address_page(request, page, said, problem=_sentence(refusal.message), status=refusal.status)
    command = RegisterAccount(email=email) if page == "register" else AskReset(email=email)
    answer = await at.authority.ask(command, at.browsers.visit(request))
    response = at.pages.show(request, "account_letter")
    response.background = on_its_way(request.app.state.post, answer.content)
    return response


def _address_page(request: Request, page: str, said: _Page, *, problem: str = "", status: int = 200) -> Response:
    at: Reception = request.app.state.reception
    return at.pages.show(request, "account_address", status, page=page, said=said, problem=problem)


def _password_page(
    request: Request, purpose: LinkPurpose, token: str, *, problem: str = "", status: int = 200
) -> Response:
    at: Reception = request.app.state.reception
    return at.pages.show(
        request, "account_password", status, purpose=purpose.value, token=token[:200], problem=problem, longest=LONGEST
    )


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."

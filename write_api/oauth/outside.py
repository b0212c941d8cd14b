"""Signing in by the word of an outside OpenID Connect provider, and saying that its word is to be taken.

In: a button on a page of ours, then whatever the browser brings back from there. Out: the next step of signing in, or a
page that says why not. What was begun travels sealed in a cookie of this browser, so that nobody is signed in, or
linked, by an answer that another browser asked for (RFC 9700 §4.7), and it is good for one answer.
"""

from __future__ import annotations

import hmac
import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from authlib.oauth2.rfc6749 import InvalidRequestError  # type: ignore[import-untyped]
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from commands.loop import Command
from commands.outside import FEDERATED, CheckOutside, LinkProvider, UnlinkProvider, proven_here
from domain.refusals import Refusal, Unknown
from domain.step_up import StepUpRequired
from infra.http.attempts import Attempt, Limited
from infra.http.cookies import Cookie
from infra.http.edge import DENIED
from infra.http.outside import OutsideAway, Outsider, OutsideRefused, Provider
from infra.http.problems import CODE
from write_api.letters import on_its_way
from write_api.oauth.authority import Visit
from write_api.oauth.browser import Proven
from write_api.oauth.parties import SignedIn
from write_api.oauth.requests import checked, parameters_of
from write_api.oauth.signing_in import Flow, Form, Reception, fault, first_proven, sign_in_page
from write_api.oauth.signing_out import acting

router = APIRouter(include_in_schema=False)

_BEGUN_LIFETIME: Final = timedelta(minutes=10)
_BEGUN: Final = Cookie("daybook-outside", lifetime=_BEGUN_LIFETIME)
# Where the provider doesn't say when they signed in there, it counts as too long ago for whatever wants to know.
_UNSAID: Final = timedelta(hours=12)
_NOBODY: Final = (
    "No account here is linked with this person, or it can't sign in. Sign in with your password; then you can link "
    "the two where you see your sessions."
)
_ONCE_MORE: Final = "Sign in once more, with your password, and then do it again."

_Attempt = Annotated[Attempt, Depends(Limited("outside", per_address="60/minute"))]


@router.post("/oauth/outside/{name}")
async def go(request: Request, name: str, form: Form, attempt: _Attempt) -> Response:
    at: Reception = request.app.state.reception
    flow = at.read_flow(form.get("flow"))
    begun = {} if flow is None else {"q": flow.query, "t": int(flow.since.timestamp())}
    return await _sent_there(request, _provider(at, name), begun, anew=flow is not None and _wants_anew(flow))


@router.post("/oauth/outside/{name}/link")
async def link(request: Request, name: str, form: Form, attempt: _Attempt) -> Response:
    at: Reception = request.app.state.reception
    provider = _provider(at, name)
    if (user := await at.browsers.signed_in(request)) is None:
        return RedirectResponse("/oauth/sign-in", 303)
    try:
        proven_here(acting(user), at.authority.now())
    except StepUpRequired as refusal:
        return await _once_more(request, refusal)
    return await _sent_there(request, provider, {"l": str(user.session_id)}, anew=False)


@router.post("/oauth/outside/{name}/unlink")
async def unlink(request: Request, name: str, form: Form, attempt: _Attempt) -> Response:
    at: Reception = request.app.state.reception
    _provider(at, name)
    if (user := await at.browsers.signed_in(request)) is None:
        return RedirectResponse("/oauth/sign-in", 303)
    try:
        command = UnlinkProvider(identity=UUID(form.get("identity", "")))
    except ValueError:
        return fault(at, request, "This account is not linked there.")
    return await _by_owner(request, user, command, at.browsers.visit(request))


@router.get("/oauth/outside/{name}/back")
async def back(request: Request, name: str, attempt: _Attempt) -> Response:
    at: Reception = request.app.state.reception
    provider = _provider(at, name)
    begun = at.authority.seals.open("outside", _BEGUN.read(request), at.authority.now())
    try:
        response = await _came_back(request, provider, begun if begun is not None and begun["p"] == name else None)
    except (OutsideRefused, OutsideAway) as refusal:
        _tell(request, refusal)
        response = fault(at, request, refusal.detail, refusal.status)
    except Refusal as refusal:
        request.scope[CODE] = refusal.code
        response = fault(at, request, refusal.message, refusal.status)
    _BEGUN.clear(request, response)
    return response


async def _sent_there(request: Request, provider: Provider, begun: dict[str, Any], *, anew: bool) -> Response:
    """A page that leads on by itself. Browsers hold the redirect of a form to `form-action`, which stays ours alone."""
    at: Reception = request.app.state.reception
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    try:
        there = await provider.leads_to(state, nonce, verifier, anew=anew)
    except OutsideAway as refusal:
        _tell(request, refusal)
        raise
    content = begun | {"p": provider.registration.name, "s": state, "n": nonce, "v": verifier}
    response = at.pages.show(request, "outside", there=there, label=provider.registration.label)
    try:
        _BEGUN.set(request, response, at.authority.seals.seal("outside", content, at.authority.now() + _BEGUN_LIFETIME))
    except ValueError:
        return fault(at, request, "The app asked for more than fits. Sign in with your password.")
    return response


async def _came_back(request: Request, provider: Provider, begun: dict[str, Any] | None) -> Response:
    """Raises `OutsideRefused`, `OutsideAway`."""
    at: Reception = request.app.state.reception
    try:
        answer = dict(checked(parameters_of(request.scope["query_string"])))
    except InvalidRequestError:
        answer = {}
    if begun is None or not hmac.compare_digest(begun["s"].encode(), answer.get("state", "").encode()):
        raise OutsideRefused("This was begun in another browser, or too long ago. Start again.")
    visit = at.browsers.visit(request)
    linking = "l" in begun
    outsider = await provider.identify(answer, begun["n"], begun["v"], at.authority.now(), address=linking)
    if linking:
        return await _linked(request, outsider, begun["l"], visit)
    flow = None if "q" not in begun else at.flow(begun["q"], datetime.fromtimestamp(begun["t"], UTC))
    return await _known(request, outsider, flow, visit)


async def _known(request: Request, outsider: Outsider, flow: Flow | None, visit: Visit) -> Response:
    """In, as whoever is linked with them."""
    at: Reception = request.app.state.reception
    command = CheckOutside(issuer=outsider.issuer, subject=outsider.subject, multi_factor=outsider.multi_factor)
    told = (await at.authority.ask(command, visit)).content
    if told["outcome"] != "accepted":
        return await sign_in_page(at, request, flow, None, problem=_NOBODY, status=401)
    factors = (FEDERATED, "mfa") if outsider.multi_factor else (FEDERATED,)
    now = at.authority.now()
    proven_at = min(outsider.authenticated_at or now - _UNSAID, now)
    proven = Proven(UUID(told["account_id"]), told["era"], factors, proven_at)
    return await first_proven(at, request, flow, proven, told, visit)


async def _linked(request: Request, outsider: Outsider, session_id: str, visit: Visit) -> Response:
    """Linked with the account that began it, in the sign-in that it began in."""
    at: Reception = request.app.state.reception
    user = await at.browsers.signed_in(request)
    if user is None or str(user.session_id) != session_id:
        raise OutsideRefused("You are no longer signed in as you were. Start again.")
    command = LinkProvider(issuer=outsider.issuer, subject=outsider.subject, email=outsider.email)
    return await _by_owner(request, user, command, visit)


async def _by_owner(request: Request, user: SignedIn, command: Command, visit: Visit) -> Response:
    at: Reception = request.app.state.reception
    try:
        answer = await at.authority.desk.handle(
            command,
            acting(user),
            at.authority.organization,
            correlation_id=visit.correlation_id,
            cause=at.authority.cause(visit, user.account_id),
        )
    except StepUpRequired as refusal:
        return await _once_more(request, refusal)
    return RedirectResponse("/oauth/sessions", 303, background=on_its_way(request.app.state.post, answer.content))


async def _once_more(request: Request, refusal: StepUpRequired) -> Response:
    request.scope[CODE] = refusal.code
    at: Reception = request.app.state.reception
    return await sign_in_page(at, request, None, None, problem=_ONCE_MORE, status=refusal.status)


def _provider(at: Reception, name: str) -> Provider:
    """Raises `Unknown`."""
    if name not in at.providers:
        raise Unknown("there is nothing at this address")
    return at.providers[name]


def _wants_anew(flow: Flow) -> bool:
    wish = dict(parameters_of(flow.query.encode("latin-1")))
    return "max_age" in wish or bool({"login", "select_account"} & set(wish.get("prompt", "").split()))


def _tell(request: Request, refusal: OutsideRefused | OutsideAway) -> None:
    """Have the audit hear of it. The edge tells of a 401 by itself, with the code that stands in the scope."""
    request.scope[CODE] = refusal.code
    if isinstance(refusal, OutsideAway) and (denied := request.scope.get(DENIED)) is not None:
        denied(request.scope, refusal.code)

"""From an app's wish to a code: whoever sits there signs in, agrees, and is sent back.

In: the authorization request (RFC 6749 §4.1.1), and the forms of our pages. Out: pages, and in the end a redirect to
the app. What is proven and wanted so far travels sealed in the forms, so that any process can take the next step.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import segno
from authlib.oauth2.rfc6749 import InvalidRequestError, OAuth2Error  # type: ignore[import-untyped]
from authlib.oidc.core.errors import ConsentRequiredError, LoginRequiredError  # type: ignore[import-untyped]
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from commands.loop import ACCOUNT
from commands.outside import FEDERATED
from commands.second_factors import ConfirmTotp, EnrolTotp
from commands.sessions import SessionOver
from commands.sign_in import CheckPasskey, CheckPassword, CheckRecoveryCode, CheckTotp, OfferPasskey, account_of
from domain.access import Actor
from domain.account import CodeWrong
from infra.http.attempts import Attempt, Limited
from infra.http.outside import Provider
from write_api.letters import on_its_way
from write_api.oauth.authority import Authority, Visit
from write_api.oauth.browser import Browsers, Proven
from write_api.oauth.pages import Pages, words_of
from write_api.oauth.parties import SignedIn
from write_api.oauth.requests import Answer, Asked, checked, parameters_of
from write_api.oauth.server import Server

router = APIRouter(include_in_schema=False)

# What a request may say, so that it still fits into a form and an address when it is sealed.
_LONGEST_QUERY: Final = 2000
_PATIENCE: Final = timedelta(minutes=30)
_HALF_PROVEN: Final = timedelta(minutes=10)
Step = Literal["second_factor", "enrol"]
WRONG: Final = "This e-mail address and password do not go together, or this account can't sign in."
_ANEW: Final = "This app wants you to sign in anew."
_CHANGED: Final = "Something about this account has changed while you signed in. Sign in again."
_WRONG_CODE: Final = "This code is not right, or it was used before."

_Attempt = Annotated[Attempt, Depends(Limited("sign-in", per_address="60/minute", per_account="20/minute"))]


@dataclass(frozen=True, slots=True)
class Flow:
    """An app's request that is being answered. `text` is it sealed; without an app there is nothing to go on with."""

    query: str
    since: datetime
    text: str


class Reception:
    """What the pages' routes need."""

    def __init__(
        self,
        authority: Authority,
        server: Server,
        browsers: Browsers,
        pages: Pages,
        providers: Mapping[str, Provider] = MappingProxyType({}),
    ) -> None:
        self.authority = authority
        self.server = server
        self.browsers = browsers
        self.pages = pages
        # Those outside, by name, in the order in which their buttons stand.
        self.providers = providers

    def flow(self, query: str, since: datetime | None = None) -> Flow:
        since = since or self.authority.now()
        text = self.authority.seals.seal("flow", {"q": query, "t": int(since.timestamp())}, since + _PATIENCE)
        return Flow(query, since, text)

    def read_flow(self, text: str | None) -> Flow | None:
        content = self.authority.seals.open("flow", text, self.authority.now())
        return None if content is None else Flow(content["q"], datetime.fromtimestamp(content["t"], UTC), text or "")

    def half(self, proven: Proven, step: Step) -> str:
        """What is proven before the second factor, sealed into the next form, for that step alone: whoever is asked
        for a second factor may not set up another one instead."""
        at = None if proven.at is None else proven.at.timestamp()
        content = {"a": str(proven.account_id), "e": proven.era, "f": proven.factors, "t": at}
        return self.authority.seals.seal(f"half/{step}", content, self.authority.now() + _HALF_PROVEN)

    def read_half(self, text: str | None, step: Step) -> Proven | None:
        content = self.authority.seals.open(f"half/{step}", text, self.authority.now())
        if content is None:
            return None
        at = None if content["t"] is None else datetime.fromtimestamp(content["t"], UTC)
        return Proven(UUID(content["a"]), content["e"], tuple(content["f"]), at)


async def form_of(request: Request) -> dict[str, str]:
    """The form that was sent from a page of ours. Raises `CrossSite`."""
    try:
        form = dict(checked(parameters_of(await request.body())))
    except InvalidRequestError:
        form = {}
    at: Reception = request.app.state.reception
    at.browsers.check(request, form)
    return form


Form = Annotated[dict[str, str], Depends(form_of)]


@router.get("/oauth/authorize")
@router.post("/oauth/authorize")
async def authorize(request: Request) -> Response:
    at: Reception = request.app.state.reception
    text = await request.body() if request.method == "POST" else request.scope["query_string"]
    if len(text) > _LONGEST_QUERY:
        return fault(at, request, "The app asked for more than fits.")
    return await _go_on(at, request, at.flow(text.decode("latin-1")), at.browsers.visit(request))


@router.get("/oauth/continue")
async def go_on(request: Request, flow: str = "") -> Response:
    at: Reception = request.app.state.reception
    if (found := at.read_flow(flow)) is None:
        return fault(at, request, "This took too long. Go back to the app and start again.")
    return await _go_on(at, request, found, at.browsers.visit(request))


async def _go_on(
    at: Reception, request: Request, flow: Flow, visit: Visit, *, approved: bool = False, denied: bool = False
) -> Response:
    """The next step for whoever is signed in: sign in, agree, or back to the app."""
    user = await at.browsers.signed_in(request)
    try:
        asked = Asked("GET", checked(parameters_of(flow.query.encode("latin-1"))), {}, visit)
    except InvalidRequestError as error:
        return fault(at, request, error.description)
    try:
        grant = await at.authority.in_thread(at.server.get_consent_grant, asked, end_user=user)
        there: str = grant.redirect_uri
        if denied:
            return await _answered(at, request, asked, grant, None)
        prompts = asked.payload.data.get("prompt", "").split()
        if user is None or _must_sign_in_again(asked, prompts, user, flow, at.authority.now()):
            if "none" in prompts:
                raise LoginRequiredError(redirect_uri=there, state=asked.payload.state)
            # Whoever came in from outside did that at a time of the other side's, which may be too long ago.
            problem = _ANEW if user is not None and FEDERATED in user.factors else ""
            return await sign_in_page(at, request, flow, there, problem=problem)
        details = asked.client.client.details
        if not approved and (not details.trusted or "consent" in prompts):
            if "none" in prompts:
                raise ConsentRequiredError(redirect_uri=there, state=asked.payload.state)
            allowed = user.allowed(asked.scope.split())
            return at.pages.show(
                request, "consent", leads_to=there, flow=flow.text, app=details.name, wants=words_of(allowed)
            )
        return await _answered(at, request, asked, grant, user)
    except OAuth2Error as error:
        answer = at.server.handle_error_response(asked, error)
        if answer.location is None:
            return fault(at, request, error.description or "The app's request can't be answered.")
        at.server.name_issuer.onto(answer)
        return answer.response()


async def _answered(at: Reception, request: Request, asked: Asked, grant: Any, user: SignedIn | None) -> Response:
    answer: Answer = await at.authority.in_thread(
        at.server.create_authorization_response, asked, grant_user=user, grant=grant
    )
    if answer.location is None:
        return fault(at, request, "The app's request can't be answered.")
    # 303, so that the form that led here is not sent on to the app (RFC 9700 §4.12).
    answer.status = 303
    return answer.response()


def _must_sign_in_again(asked: Asked, prompts: list[str], user: SignedIn, flow: Flow, now: datetime) -> bool:
    """OpenID Connect Core §3.1.2.1: the app wants a fresh sign-in, and this one is from before it asked."""
    # Seconds are all that is kept of either.
    if user.authenticated_at >= flow.since.replace(microsecond=0):
        return False
    if "login" in prompts or "select_account" in prompts:
        return True
    age = asked.payload.data.get("max_age", "")
    return age.isdecimal() and now - user.authenticated_at > timedelta(seconds=min(int(age[:9]), 10**8))


@router.get("/oauth/sign-in")
async def begin(request: Request) -> Response:
    return await sign_in_page(request.app.state.reception, request, None, None)


@router.post("/oauth/sign-in")
async def sign_in(request: Request, form: Form, attempt: _Attempt) -> Response:
    at: Reception = request.app.state.reception
    flow, visit = at.read_flow(form.get("flow")), at.browsers.visit(request)
    email = form.get("email", "")
    await attempt.of(email.strip().casefold())
    if not email or not form.get("password") or len(email) > 1000 or len(form["password"]) > 1000:
        return await sign_in_page(at, request, flow, None, problem=WRONG, status=422)
    answer = await at.authority.ask(CheckPassword(email=email, password=form["password"]), visit)
    told = answer.content
    if told["outcome"] != "accepted":
        return await sign_in_page(at, request, flow, None, problem=WRONG, wait=told["retry_after"], status=401)
    proven = Proven(UUID(told["account_id"]), told["era"], ("pwd",))
    return await first_proven(at, request, flow, proven, told, visit)


async def first_proven(
    at: Reception, request: Request, flow: Flow | None, proven: Proven, told: Mapping[str, Any], visit: Visit
) -> Response:
    """The next step after the first proof: a second one where it is wanted, or in."""
    if told["second_factors"]:
        return await _second_factor_page(at, request, flow, proven)
    if told["must_enroll"]:
        return await _enrol_page(at, request, flow, proven, visit)
    return await _signed_in(at, request, flow, proven, visit)


@router.post("/oauth/second-factor")
async def second_factor(request: Request, form: Form, attempt: _Attempt) -> Response:
    at: Reception = request.app.state.reception
    flow, visit = at.read_flow(form.get("flow")), at.browsers.visit(request)
    proven = at.read_half(form.get("half"), "second_factor")
    if proven is None:
        return await sign_in_page(at, request, flow, None, problem="This took too long. Sign in again.", status=401)
    await attempt.of(str(proven.account_id))
    command: CheckTotp | CheckRecoveryCode | CheckPasskey
    if (shown := _passkey_of(form)) is not None:
        command = CheckPasskey(account_id=proven.account_id, response=shown, challenge=form.get("challenge", "")[:1000])
        factors: tuple[str, ...] = ()
    elif form.get("recovery"):
        command = CheckRecoveryCode(account_id=proven.account_id, code=form["recovery"][:100])
        factors = ("otp",)
    else:
        command = CheckTotp(account_id=proven.account_id, code=form.get("code", "")[:100])
        factors = ("otp",)
    told = (await at.authority.ask(command, visit, proven.account_id)).content
    if told["outcome"] != "accepted":
        wait = told["retry_after"]
        return await _second_factor_page(at, request, flow, proven, problem=_WRONG_CODE, wait=wait, status=401)
    full = replace(proven, factors=(*proven.factors, *told.get("methods", factors)))
    response = await _signed_in(at, request, flow, full, visit)
    response.background = on_its_way(request.app.state.post, told)
    return response


@router.post("/oauth/passkey")
async def passkey(request: Request, form: Form, attempt: _Attempt) -> Response:
    """A passkey by itself: it says whose it is, and the device has checked who holds it."""
    at: Reception = request.app.state.reception
    flow, visit = at.read_flow(form.get("flow")), at.browsers.visit(request)
    shown = _passkey_of(form) or {}
    told = (
        await at.authority.ask(CheckPasskey(response=shown, challenge=form.get("challenge", "")[:1000]), visit)
    ).content
    if told["outcome"] != "accepted":
        problem = "This passkey is not known here."
        return await sign_in_page(at, request, flow, None, problem=problem, status=401)
    proven = Proven(UUID(told["account_id"]), told["era"], tuple(told["methods"]))
    return await _signed_in(at, request, flow, proven, visit)


@router.post("/oauth/enrol")
async def enrol(request: Request, form: Form, attempt: _Attempt) -> Response:
    """Whose role needs a second factor and who has none sets one up before they are let in."""
    at: Reception = request.app.state.reception
    flow, visit = at.read_flow(form.get("flow")), at.browsers.visit(request)
    proven = at.read_half(form.get("half"), "enrol")
    if proven is None:
        return await sign_in_page(at, request, flow, None, problem="This took too long. Sign in again.", status=401)
    await attempt.of(str(proven.account_id))
    account = await at.authority.state(ACCOUNT, proven.account_id)
    if account is None or account.second_factors:
        # Set up elsewhere in the meantime: then that one is asked for.
        return await sign_in_page(at, request, flow, None, problem="Sign in again.", status=401)
    actor = await _acting(at, proven)
    try:
        answer = await at.authority.desk.handle(
            ConfirmTotp(code=form.get("code", "")[:100]),
            actor,
            at.authority.organization,
            correlation_id=visit.correlation_id,
            cause=at.authority.cause(visit, actor.account_id),
        )
    except CodeWrong:
        problem = "This is not the code that your app shows now. Here is a new secret; remove the former one."
        return await _enrol_page(at, request, flow, proven, visit, problem=problem, status=422)
    full = replace(proven, factors=(*proven.factors, "otp"))
    response = at.pages.show(
        request, "recovery_codes", codes=answer.content["recovery_codes"], flow=flow.text if flow else ""
    )
    response.background = on_its_way(request.app.state.post, answer.content)
    await at.browsers.sign_in(request, response, full, visit)
    return response


@router.post("/oauth/consent")
async def consent(request: Request, form: Form) -> Response:
    at: Reception = request.app.state.reception
    if (flow := at.read_flow(form.get("flow"))) is None:
        return fault(at, request, "This took too long. Go back to the app and start again.")
    agreed = form.get("decision") == "allow"
    visit = at.browsers.visit(request)
    return await _go_on(at, request, flow, visit, approved=agreed, denied=not agreed)


async def _signed_in(at: Reception, request: Request, flow: Flow | None, proven: Proven, visit: Visit) -> Response:
    """Signed in; what the app asked for goes on from an address of its own, so that no form is ever sent twice."""
    response = RedirectResponse(f"/oauth/continue?flow={flow.text}" if flow else "/oauth/sessions", 303)
    try:
        await at.browsers.sign_in(request, response, proven, visit)
    except SessionOver:
        return await sign_in_page(at, request, flow, None, problem=_CHANGED, status=401)
    return response


async def sign_in_page(
    at: Reception,
    request: Request,
    flow: Flow | None,
    there: str | None,
    *,
    problem: str = "",
    wait: int | None = None,
    status: int = 200,
) -> Response:
    offer = (await at.authority.ask(OfferPasskey(), Visit())).content
    outside = [one.registration for one in at.providers.values()]
    return _page(at, request, "sign_in", flow, there, problem, wait, status, offer=_offered(offer), outside=outside)


async def _second_factor_page(
    at: Reception,
    request: Request,
    flow: Flow | None,
    proven: Proven,
    *,
    problem: str = "",
    wait: int | None = None,
    status: int = 200,
) -> Response:
    account = await at.authority.state(ACCOUNT, proven.account_id)
    factors = [factor.value for factor in account.second_factors] if account is not None else []
    offer = None
    if "passkey" in factors:
        offer = _offered((await at.authority.ask(OfferPasskey(account_id=proven.account_id), Visit())).content)
    half = at.half(proven, "second_factor")
    return _page(
        at, request, "second_factor", flow, None, problem, wait, status, factors=factors, offer=offer, half=half
    )


async def _enrol_page(
    at: Reception,
    request: Request,
    flow: Flow | None,
    proven: Proven,
    visit: Visit,
    *,
    problem: str = "",
    status: int = 200,
) -> Response:
    actor = await _acting(at, proven)
    answer = await at.authority.desk.handle(
        EnrolTotp(),
        actor,
        at.authority.organization,
        correlation_id=visit.correlation_id,
        cause=at.authority.cause(visit, actor.account_id),
    )
    picture = segno.make(answer.content["uri"], error="m").svg_data_uri(scale=5, border=2)
    return _page(
        at,
        request,
        "enrol",
        flow,
        None,
        problem,
        None,
        status,
        picture=picture,
        secret=answer.content["secret"],
        half=at.half(proven, "enrol"),
    )


def _page(
    at: Reception,
    request: Request,
    name: str,
    flow: Flow | None,
    there: str | None,
    problem: str,
    wait: int | None,
    status: int,
    **shown: Any,
) -> Response:
    leads_to = there or (_redirect_of(flow) if flow is not None else None)
    response = at.pages.show(
        request,
        name,
        status,
        leads_to=leads_to,
        flow=flow.text if flow is not None else "",
        problem=problem,
        minutes=None if wait is None else -(-wait // 60),
        **shown,
    )
    if wait is not None:
        response.headers["Retry-After"] = str(wait)
    return response


def _redirect_of(flow: Flow) -> str | None:
    """Where a flow leads; it was checked to be the app's before the flow had any page."""
    return dict(parameters_of(flow.query.encode("latin-1"))).get("redirect_uri")


async def _acting(at: Reception, proven: Proven) -> Actor:
    """Whoever has proven that it is their account."""
    account = await at.authority.state(ACCOUNT, proven.account_id)
    if account is None or account.era != proven.era or not account_of(account).active:
        raise SessionOver("this account has changed since you signed in")
    return Actor(
        str(account.id),
        account.role,
        account.patient_id,
        account.provider_id,
        account_id=account.id,
        factors=frozenset(proven.factors),
        authenticated_at=at.authority.now(),
    )


def _offered(offer: Any) -> dict[str, str]:
    options = offer["options"]
    return {"options": options if isinstance(options, str) else json.dumps(options), "challenge": offer["challenge"]}


def _passkey_of(form: dict[str, str]) -> dict[str, Any] | None:
    try:
        shown = json.loads(form.get("passkey", ""))
    except (ValueError, RecursionError):
        return None
    return shown if isinstance(shown, dict) else None


def fault(at: Reception, request: Request, words: str, status: int = 400) -> Response:
    """Where the app is not known, or its address is not its own, nobody is sent anywhere (RFC 6749 §4.1.2.1)."""
    return at.pages.show(request, "fault", status, words=words)

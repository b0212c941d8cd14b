"""What apps ask without a person: tokens, what a token is good for, its end, the keys, and the documents about it all.

In: forms (RFC 6749 §3.2). Out: JSON in the words of the protocol, and never a cookie.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from authlib.oauth2.rfc6749 import OAuth2Error  # type: ignore[import-untyped]
from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from commands.loop import ACCOUNT
from commands.sign_in import account_of
from domain.access import InsufficientScope
from domain.events import Erased
from infra.http.attempts import Attempt, Limited
from infra.http.edge import DENIED
from infra.http.problems import CODE
from infra.http.tokens import Unauthenticated
from write_api.oauth import metadata
from write_api.oauth.authority import Authority
from write_api.oauth.parties import Granted
from write_api.oauth.requests import Answer, asked
from write_api.oauth.server import about
from write_api.oauth.signing_in import Reception

router = APIRouter(include_in_schema=False)

_Attempt = Annotated[Attempt, Depends(Limited("token", per_address="600/minute"))]
# Strangers' tools ask for these often, from pages of any origin too, and they change seldom. They are the same for
# everybody (SMART App Launch 2.2 §7).
_KEPT: Final = {"Cache-Control": "public, max-age=300", "Access-Control-Allow-Origin": "*"}


@router.post("/oauth/token")
async def give_token(request: Request, attempt: _Attempt) -> Response:
    return await _answered(request, "create_token_response")


@router.post("/oauth/revoke")
async def revoke_token(request: Request, attempt: _Attempt) -> Response:
    return await _answered(request, "create_endpoint_response", "revocation")


@router.post("/oauth/introspect")
async def introspect_token(request: Request, attempt: _Attempt) -> Response:
    return await _answered(request, "create_endpoint_response", "introspection")


async def _answered(request: Request, what: str, *arguments: str) -> Response:
    at: Reception = request.app.state.reception
    visit = at.browsers.visit(request)
    try:
        question = await asked(request, visit)
    except OAuth2Error as error:
        answer: Answer = at.server.handle_error_response(None, error)
    else:
        answer = await at.authority.in_thread(getattr(at.server, what), *arguments, question)
    _tell(request, answer)
    return answer.response()


def _tell(request: Request, answer: Answer) -> None:
    """Have the audit hear of what is refused, in the words of the protocol: a guessed secret, a token or code that came
    again. The edge tells of a 401 by itself."""
    error = answer.body.get("error") if isinstance(answer.body, dict) else None
    if error is None:
        return
    request.scope[CODE] = error
    if error == "invalid_grant" and (denied := request.scope.get(DENIED)) is not None:
        denied(request.scope, error)


@router.get("/oauth/userinfo")
@router.post("/oauth/userinfo")
async def user_info(request: Request) -> Response:
    """OpenID Connect Core §5.3. Raises `Unauthenticated` and `InsufficientScope`."""
    authority: Authority = request.app.state.reception.authority
    actor = authority.bearers.check(request.headers.get("authorization")).actor
    granted = actor.scopes or frozenset()
    if actor.account_id is None or actor.session_id is None or "openid" not in granted:
        raise InsufficientScope("the token does not say who signed in", scope="openid")
    account = await authority.state(ACCOUNT, actor.account_id)
    if account is None or actor.authenticated_at is None:
        raise Unauthenticated("This account is no more.")
    user = Granted(account.id, actor.session_id, account.era, account_of(account), (), actor.authenticated_at, (), None)
    told: dict[str, Any] = about(authority, user, granted)
    if "email" in granted and not isinstance(account.email, Erased):
        told |= {"email": account.email, "email_verified": account_of(account).active}
    return JSONResponse(told)


@router.get("/oauth/jwks")
async def keys(request: Request) -> Response:
    authority: Authority = request.app.state.reception.authority
    return JSONResponse(metadata.jwks(authority.keys), headers=_KEPT)


@router.get("/.well-known/openid-configuration")
async def provider_metadata(request: Request) -> Response:
    return JSONResponse(metadata.provider(request.app.state.reception.authority), headers=_KEPT)


@router.get("/.well-known/oauth-authorization-server")
async def server_metadata(request: Request) -> Response:
    return JSONResponse(metadata.server(request.app.state.reception.authority), headers=_KEPT)


@router.get("/.well-known/smart-configuration")
async def smart_metadata(request: Request) -> Response:
    return JSONResponse(metadata.smart(request.app.state.reception.authority), headers=_KEPT)

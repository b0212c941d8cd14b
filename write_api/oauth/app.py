"""The authorization server as an application: its addresses begin with `/oauth` and `/.well-known`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from anyio import CapacityLimiter
from fastapi import FastAPI, Request
from starlette.responses import Response

from commands.loop import Busy, Desk
from domain.client import Audience
from domain.refusals import Refusal
from infra.http.attempts import Attempts
from infra.http.csrf import Forms
from infra.http.edge import Traces
from infra.http.health import HttpMetrics
from infra.http.origins import Origins
from infra.http.outside import Provider, Registration
from infra.http.problems import CODE, Refused, problem
from infra.http.seals import Seals
from infra.http.service import service
from infra.http.tokens import Bearers
from write_api.letters import Post
from write_api.oauth import accounts, endpoints, outside, signing_in, signing_out
from write_api.oauth.authority import Authority, Keys
from write_api.oauth.browser import Browsers
from write_api.oauth.pages import Pages
from write_api.oauth.server import Server
from write_api.oauth.signing_in import Reception, fault

# Requests of the protocol that are under way at once; each takes a thread while the log decides.
_AT_ONCE = 40


def build(
    desk: Desk,
    keys: Keys,
    bearers: Bearers,
    secret: bytes,
    *,
    issuer: str,
    organization: str,
    audiences: Mapping[Audience, str],
    token_issuer: str | None = None,
    origins: Origins | None = None,
    attempts: Attempts | None = None,
    metrics: HttpMetrics | None = None,
    traces: Traces | None = None,
    body_limit: int = 64 * 1024,
    post: Post | None = None,
    outsiders: Iterable[Registration] = (),
) -> FastAPI:
    """`issuer` is the URL at which browsers and apps reach it, without a slash at its end. `secret` seals what they
    carry; it is the same in every process. `bearers` takes tokens for any of `audiences`, the names of the APIs. `post`
    sends the letters that people wait for. `outsiders` are the providers by which people may sign in too."""
    app = service(
        "",
        title="Daybook: signing in",
        description="",
        routers=(signing_in.router, signing_out.router, endpoints.router, accounts.router, outside.router),
        busy=(Busy,),
        body_limit=body_limit,
        metrics=metrics,
        traces=traces,
        media_types=("application/x-www-form-urlencoded",),
        attempts=attempts,
    )
    authority = Authority(
        desk,
        organization,
        issuer,
        token_issuer or issuer,
        audiences,
        keys,
        Seals(secret),
        bearers,
        origins,
        CapacityLimiter(_AT_ONCE),
    )
    browsers = Browsers(authority, Forms(secret))
    providers = {one.name: Provider(one, f"{issuer}/oauth/outside/{one.name}/back") for one in outsiders}
    app.state.post = post
    app.state.reception = Reception(authority, Server(authority), browsers, Pages(browsers), providers)
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(Refused, _refused)
    return app


async def _refused(request: Request, refusal: Exception) -> Response:
    """To a person in words on a page, to a programme as a problem."""
    if isinstance(refusal, Refused):
        status, code, words, details = refusal.status, refusal.code, refusal.detail, refusal.details
        headers = dict(refusal.headers or {})
    elif isinstance(refusal, Refusal):
        status, code, words, details = refusal.status, refusal.code, refusal.message, refusal.details
        headers = {}
    else:
        raise refusal
    request.scope[CODE] = code
    if "text/html" not in request.headers.get("accept", ""):
        return problem(status, code, words, details, headers)
    response = fault(request.app.state.reception, request, words, status)
    response.headers.update(headers)
    return response

"""Apps that run in browsers: their pages read answers from the origins that the operator names, and from no other."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from infra.http.page_apps import PageApps
from infra.http.service import Together, service
from infra.settings import Settings

APP, STRANGER = "https://app.example.org", "https://app.example.org.evil.example"
PREFLIGHT = {
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key,read-after",
}


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    router = APIRouter()

    @router.get("/thing")
    async def thing() -> Response:
        return JSONResponse({}, headers={"Position": "p", "ETag": '"1"'})

    pages = APIRouter()

    @pages.post("/oauth/token")
    @pages.get("/oauth/sign-in")
    async def page() -> Response:
        return JSONResponse({})

    read = service("read", title="Read", description="", routers=[router])
    oauth = service("", title="Pages", description="", routers=[pages])
    settings = Settings.load({"DAYBOOK_PAGE_ORIGINS": f" {APP.upper()} , http://localhost:5173"})
    app = PageApps(Together({"read": read, "oauth": oauth}), settings.pages)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://book") as client:
        yield client


@pytest.mark.parametrize("origin", [APP, "http://localhost:5173"])
async def test_a_page_of_a_named_origin_asks_and_reads(http: httpx.AsyncClient, origin: str) -> None:
    for path in ("/read/thing", "/write/appointments", "/oauth/token"):
        asked = await http.options(path, headers={"Origin": origin, **PREFLIGHT})
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in asked.headers
        assert "origin" in asked.headers["vary"].lower()
    answer = await http.get("/read/thing", headers={"Origin": origin})
    assert answer.headers["access-control-allow-origin"] == origin
    assert {"Position", "ETag", "Retry-After"} <= {
        name.strip() for name in answer.headers["access-control-expose-headers"].split(",")
    }
    # What every answer carries is carried here too, faults included.
    assert answer.headers["cache-control"] == "no-store"
    assert (await http.get("/read/no", headers={"Origin": origin})).headers["access-control-allow-origin"] == origin


@pytest.mark.parametrize("origin", [STRANGER, "null", "http://app.example.org", APP + ":8443"])
async def test_a_page_of_any_other_origin_reads_nothing(http: httpx.AsyncClient, origin: str) -> None:
    assert (await http.options("/read/thing", headers={"Origin": origin, **PREFLIGHT})).status_code == 400
    for answer in (
        await http.options("/read/thing", headers={"Origin": origin, **PREFLIGHT}),
        await http.get("/read/thing", headers={"Origin": origin}),
        await http.post("/oauth/token", headers={"Origin": origin}),
    ):
        assert "access-control-allow-origin" not in answer.headers


async def test_pages_that_live_by_cookies_are_for_no_other_page(http: httpx.AsyncClient) -> None:
    for path in ("/oauth/sign-in", "/oauth/authorize", "/oauth/tokens", "/"):
        assert "access-control-allow-origin" not in (await http.get(path, headers={"Origin": APP})).headers
        asked = await http.options(path, headers={"Origin": APP, **PREFLIGHT})
        assert "access-control-allow-origin" not in asked.headers

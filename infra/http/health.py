"""Is it alive, is it ready, how is it doing. In: checks. Out: `/health/live`, `/health/ready`, `/metrics`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

import tzdata  # type: ignore[import-untyped]
from fastapi import APIRouter
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.responses import JSONResponse, Response

# Returns words on how it is, or raises. The words must not hold personal data or secrets.
Check = Callable[[], Awaitable[str]]

_WITHIN = 2.0
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Health(BaseModel):
    """`tzdata` is the one version of the IANA time zone database that every answer is made with."""

    status: str
    version: str
    tzdata: str
    checks: dict[str, str]


class HttpMetrics:
    """Counts answers. Labels name the operation, never the address, which may name a person."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        self._seconds = Histogram(
            "daybook_http_request_seconds",
            "Time to answer, by service, method and operation.",
            ["service", "method", "operation"],
            buckets=_SECONDS,
            registry=registry,
        )
        self._answers = Counter(
            "daybook_http_answers",
            "Answers, by service, method, operation and status.",
            ["service", "method", "operation", "status"],
            registry=registry,
        )
        self._stores = Counter(
            "daybook_store_errors",
            "Questions that a store did not answer, by service and store.",
            ["service", "store"],
            registry=registry,
        )
        self._service = service
        self._children: dict[tuple[str, str, int], tuple[Histogram, Counter]] = {}

    def of(self, service: str) -> HttpMetrics:
        """The same metrics, for another service in this process."""
        twin = object.__new__(HttpMetrics)
        twin._seconds, twin._answers, twin._stores = self._seconds, self._answers, self._stores
        twin._service, twin._children = service, {}
        return twin

    def store_failed(self, error: Exception) -> None:
        """Counts an error of a store's client, by whose it is."""
        cause = error.__cause__ or error
        store = next((_STORES[known] for one in (error, cause) if (known := _library(one)) in _STORES), "other")
        self._stores.labels(self._service, store).inc()

    def __call__(self, method: str, operation: str, status: int, seconds: float) -> None:
        if method not in _METHODS:
            method = "other"
        key = (method, operation, status)
        children = self._children.get(key)
        if children is None:
            children = self._children[key] = (
                self._seconds.labels(self._service, method, operation),
                self._answers.labels(self._service, method, operation, str(status)),
            )
        children[0].observe(seconds)
        children[1].inc()


_STORES = {
    "redis": "redis",
    "clickhouse_connect": "clickhouse",
    "elasticsearch": "elasticsearch",
    "elastic_transport": "elasticsearch",
    "sqlite3": "sqlite",
}


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


def router(checks: Mapping[str, Check], registry: CollectorRegistry) -> APIRouter:
    """Routes for health and metrics. A check that raises, or takes more than two seconds, makes it not ready."""
    routes = APIRouter(tags=["health"])
    about = {"version": _version(), "tzdata": tzdata.IANA_VERSION}

    @routes.get("/health/live", summary="The process runs")
    async def live() -> Health:
        return Health(status="live", checks={}, **about)

    @routes.get("/health/ready", summary="Everything it needs answers", responses={503: {"model": Health}})
    async def ready() -> Response:
        results = await asyncio.gather(*(_result(check) for check in checks.values()))
        good = all(fine for fine, _ in results)
        words = {name: text for name, (_, text) in zip(checks, results, strict=True)}
        health = Health(status="ready" if good else "not_ready", checks=words, **about)
        headers = None if good else {"Retry-After": "1"}
        return JSONResponse(health.model_dump(), 200 if good else 503, headers)

    @routes.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


async def _result(check: Check) -> tuple[bool, str]:
    try:
        async with asyncio.timeout(_WITHIN):
            return True, await check()
    except TimeoutError:
        return False, "no answer in time"
    except Exception as error:
        return False, type(error).__name__


def _version() -> str:
    try:
        return version("daybook")
    except PackageNotFoundError:
        return "unknown"

"""The read API: questions over HTTP, described at `/read/docs`."""

from __future__ import annotations

from clickhouse_connect.driver.exceptions import Error as ClickHouseError
from fastapi import FastAPI, Request
from redis.exceptions import RedisError
from starlette.responses import Response

from domain.inquiry import Inquiries
from domain.ports import Clock, EventLog
from infra.http.cursors import Cursors
from infra.http.edge import Traces
from infra.http.health import HttpMetrics
from infra.http.positions import Positions
from infra.http.problems import unavailable
from infra.http.service import service
from infra.http.tokens import Bearers
from projections.diary import AppointmentDiary
from projections.directory import Directory, IndexAway
from projections.facts import Facts
from projections.free_time import FreeTime
from projections.people import People
from read_api import (
    accounts,
    appointments,
    clients,
    consents,
    directory,
    erasure,
    exports,
    facts,
    glass,
    looks,
    patients,
    people,
    providers,
    proxies,
    resources,
    sessions,
    slots,
    suspicious,
    words,
)
from read_api.asking import Library
from read_api.trail import Trail

_ABOUT = """
What the book shows. Every answer comes from a read model, which follows the log closely.

* **Who asks** comes from the bearer token: `daybook token --role front_desk`. A patient sees their own.
* **Every look at a patient's data is recorded** before it is answered: who, whose, which screen, and why, which
  `Purpose-Of-Use` says.
* **`Read-After`**: send the `position` that a command answered with, and read what it did.
* **`as_of`**: the same questions, of an earlier instant or position, answered from the log.
* **`next`** of a page is the `cursor` of the one that follows.
* **`ETag`** of a single thing goes into `If-Match` when it is changed through the write API.
* Errors are RFC 9457 problems with a stable `code`.
"""


def build(
    diary: AppointmentDiary,
    free_time: FreeTime,
    facts_model: Facts | None,
    log: EventLog,
    clock: Clock,
    bearers: Bearers,
    positions: Positions,
    cursors: Cursors,
    *,
    people_model: People,
    trail: Trail | None,
    inquiries: Inquiries,
    directory_model: Directory | None = None,
    patience: float = 2.0,
    metrics: HttpMetrics | None = None,
    traces: Traces | None = None,
    body_limit: int = 1024 * 1024,
    nesting_limit: int = 64,
) -> FastAPI:
    """The read API as an application; every address starts with `/read`.

    The models are filled by somebody else. `log` answers `as_of`. `trail` records who is shown what of whom; only who
    measures what that costs, or asks for the description alone, does without. `inquiries` search the log. `positions`
    must be those of the write API. `patience` is how many seconds a `Read-After` waits at most.
    """
    app = service(
        "read",
        title="Daybook: read API",
        description=_ABOUT,
        routers=(
            slots.router,
            appointments.router,
            # Before the providers, whose ids stand at the same place of the address.
            directory.router,
            providers.router,
            # Before the patients, whose ids stand at the same place of the address.
            people.router,
            patients.router,
            consents.router,
            words.router,
            exports.router,
            erasure.router,
            proxies.router,
            glass.router,
            accounts.router,
            looks.router,
            suspicious.router,
            sessions.router,
            clients.router,
            resources.router,
            facts.router,
        ),
        bearers=bearers,
        body_limit=body_limit,
        nesting_limit=nesting_limit,
        metrics=metrics,
        traces=traces,
    )
    app.state.library = Library(
        diary,
        free_time,
        facts_model,
        log,
        clock,
        positions,
        cursors,
        people_model,
        inquiries,
        patience,
        directory_model,
        trail,
    )
    app.state.metrics = metrics
    for kind in (RedisError, ClickHouseError, IndexAway):
        app.add_exception_handler(kind, _away)
    return app


async def _away(request: Request, error: Exception) -> Response:
    metrics: HttpMetrics | None = request.app.state.metrics
    if metrics is not None:
        metrics.store_failed(error)
    return unavailable("This view can't be read just now. Ask again shortly.")

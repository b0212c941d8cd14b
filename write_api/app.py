"""The write API: commands over HTTP, described at `/write/docs`."""

from __future__ import annotations

from fastapi import FastAPI

from commands.loop import Busy, Desk
from infra.http.attempts import Attempts
from infra.http.edge import Traces
from infra.http.health import HttpMetrics
from infra.http.origins import Origins
from infra.http.positions import Positions
from infra.http.service import service
from infra.http.tokens import Bearers
from write_api import (
    accounts,
    appointments,
    clients,
    describing,
    disclosures,
    erasure,
    glass,
    patients,
    providers,
    proxies,
    resources,
    sessions,
)
from write_api.asking import Counter
from write_api.letters import Post

_ABOUT = """
What may be asked of the book. Every route is one command: it is carried out whole or refused, and what it did is in the
log before it answers.

* **Who asks** comes from the bearer token: `daybook token --role front_desk`.
* **`Idempotency-Key`**: send your own key with a command and repeat it safely; a repeat answers as the first time.
* **`position`**: where the command stands in the log. Send it as `Read-After` to the read API to see what it did.
* **`If-Match`**: the `ETag` of a form that was read before; 412 when somebody changed it since.
* **Refusals** are RFC 9457 problems with a stable `code`. A lost slot names the three nearest free times.
* Instants are RFC 3339 with an offset; opening hours are wall time at their location.
"""


def build(
    desk: Desk,
    bearers: Bearers,
    positions: Positions,
    *,
    metrics: HttpMetrics | None = None,
    traces: Traces | None = None,
    body_limit: int = 1024 * 1024,
    nesting_limit: int = 64,
    read_at: str = "/read",
    origins: Origins | None = None,
    attempts: Attempts | None = None,
    organization: str = "main",
    post: Post | None = None,
) -> FastAPI:
    """The write API as an application; every address starts with `/write`.

    `positions` must be those of the read API. `read_at` is where that one answers, a path or a URL, without a slash at
    its end: `Location` points there. `origins` writes down from where commands come. `attempts` counts at the doors
    that open without a token, of which all lead into `organization`; `post` sends their letters. Limits are bytes and
    levels.
    """
    app = service(
        "write",
        title="Daybook: write API",
        description=_ABOUT,
        routers=(
            appointments.router,
            providers.router,
            resources.router,
            patients.router,
            erasure.router,
            proxies.router,
            glass.router,
            accounts.router,
            sessions.router,
            clients.router,
            disclosures.router,
        ),
        bearers=bearers,
        busy=(Busy,),
        body_limit=body_limit,
        nesting_limit=nesting_limit,
        metrics=metrics,
        traces=traces,
        attempts=attempts,
    )
    app.state.counter = Counter(desk, positions, read_at, origins, organization, post)
    describing.describe(app)
    return app

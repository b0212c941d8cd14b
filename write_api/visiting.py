"""A request of somebody without a token, on its way to the desk: to register, to ask for a link, to follow one.

In: a request, counted at its door. Out: a command carried out in the one organization that this installation opens to
strangers; a further one would be told apart by its host. Nothing is remembered under a key here.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel

from commands.loop import Answer, Command, Decision
from commands.sign_in import SIGN_IN
from infra.http.correlation import correlate, correlated
from infra.http.edge import add_header
from write_api.asking import Counter
from write_api.bodies import Body

M = TypeVar("M", bound=BaseModel)


class Visiting:
    """One request of nobody in particular."""

    __slots__ = ("correlation_id", "counter", "request")

    def __init__(self, request: Request, counter: Counter) -> None:
        self.request = request
        self.counter = counter
        self.correlation_id = correlated(request.scope) or counter.desk.ids.new()
        correlate(request.scope, self.correlation_id)

    async def read(self, body: Body[M], **told: Any) -> M:
        return body.read(await self.request.body(), told)

    async def ask(self, command: Command) -> Answer:
        """What came of it, for whoever answers: a stranger is to hear less."""
        return await self.counter.desk.handle(
            command,
            SIGN_IN,
            self.counter.organization,
            correlation_id=self.correlation_id,
            cause=self._cause,
        )

    async def _cause(self, decision: Decision) -> UUID | None:
        """Where it comes from, as the owner's of the account that is decided on, or as a stranger's."""
        origins, organization = self.counter.origins, self.counter.organization
        if origins is None:
            return None
        return await origins.of(self.request.scope, organization, SIGN_IN, decision.account_id)


async def visiting(request: Request) -> Visiting:
    visit = Visiting(request, request.app.state.counter)
    add_header(request.scope, b"x-request-id", str(visit.correlation_id).encode())
    return visit


Visit = Annotated[Visiting, Depends(visiting)]

"""A request on its way to the desk and its answer on the way back, the same for every command.

In: headers that say who asks, why, and under which key. Out: JSON with the command's position in the log.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from pydantic import BaseModel
from pydantic_core import to_json
from starlette.responses import Response

from commands.loop import Answer, Command, Desk
from infra.http.correlation import correlate, correlated
from infra.http.edge import add_header
from infra.http.origins import Origins
from infra.http.positions import Positions
from infra.http.problems import InvalidParameter
from infra.http.purposes import purpose_of
from infra.http.tokens import Asker, Caller
from write_api.bodies import Body
from write_api.letters import Post

M = TypeVar("M", bound=BaseModel)

_KEY = re.compile(rb"[\x21-\x7e]{1,255}")
_VERSION = re.compile(rb'"([1-9][0-9]{0,17})"')


@dataclass(frozen=True, slots=True)
class Counter:
    """What every route needs of the outside. `read_at` is where the read API answers: what was made is found there.
    `origins` tells from where each command came. Whoever asks without a token is in `organization`, and `post` sends
    the letters that they wait for."""

    desk: Desk
    positions: Positions
    read_at: str = "/read"
    origins: Origins | None = None
    organization: str = "main"
    post: Post | None = None


class Asking:
    """One request: who asks, and what its headers say."""

    __slots__ = ("caller", "correlation_id", "counter", "headers", "key", "purpose", "request")

    def __init__(self, request: Request, counter: Counter, caller: Caller, headers: dict[bytes, bytes]) -> None:
        self.request = request
        self.counter = counter
        self.caller = caller
        self.headers = headers
        self.correlation_id = correlated(request.scope) or counter.desk.ids.new()
        correlate(request.scope, self.correlation_id)
        self.key = _key(headers.get(b"idempotency-key"))
        said = headers.get(b"purpose-of-use")
        self.purpose = purpose_of(said if said is None else said.decode("latin-1"), caller.actor.role).value

    async def read(self, body: Body[M], **in_path: UUID) -> M:
        """What the body asks for, with the ids that the address says."""
        return body.read(await self.request.body(), in_path)

    async def take(
        self, command: Command, *, status: int = 200, made: str | None = None, form: str | None = None
    ) -> Response:
        """Have the command carried out, and answer.

        `made` is where the new thing is read, under the read API, with names of the answer's fields in braces. `form`
        is the stream that `If-Match` speaks of, where a form was read earlier.
        """
        return self.answered(await self.carry_out(command, form=form), status=status, made=made)

    async def carry_out(self, command: Command, *, form: str | None = None) -> Answer:
        """What came of it, before it is shown."""
        return await self.counter.desk.handle(
            command,
            self.caller.actor,
            self.caller.organization,
            key=self.key,
            correlation_id=self.correlation_id,
            causation_id=await self.origin(),
            purpose=self.purpose,
            seen=self._seen(form),
        )

    def answered(self, answer: Answer, *, status: int = 200, made: str | None = None) -> Response:
        counter = self.counter
        position = counter.positions.show(answer.position)
        headers = {"Position": position}
        if made is not None:
            headers["Location"] = f"{counter.read_at}/{made.format_map(answer.content)}"
        if answer.replayed:
            headers["Idempotency-Replayed"] = "true"
        body = to_json({**answer.content, "position": position})
        return Response(body, status, headers, "application/json")

    async def origin(self) -> UUID | None:
        """From where this is asked: the cause of the command. Raises `LogUnavailable`."""
        origins = self.counter.origins
        if origins is None:
            return None
        return await origins.of(self.request.scope, self.caller.organization, self.caller.actor)

    def _seen(self, form: str | None) -> tuple[str, int] | None:
        """The version that the asker saw (RFC 9110 §13.1.1). `*` asks only that the thing is there, which it must be
        anyway."""
        said = self.headers.get(b"if-match")
        if form is None or said is None or said.strip() == b"*":
            return None
        version = _VERSION.fullmatch(said.strip())
        if version is None:
            raise InvalidParameter('If-Match holds the ETag of what was read, such as "3".')
        return form, int(version[1])


async def asking(request: Request, caller: Asker) -> Asking:
    """Raises `InvalidParameter`, and what `Asker` raises."""
    asked = Asking(request, request.app.state.counter, caller, dict(request.scope["headers"]))
    add_header(request.scope, b"x-request-id", str(asked.correlation_id).encode())
    return asked


Asked = Annotated[Asking, Depends(asking)]


def _key(said: bytes | None) -> str | None:
    if said is None:
        return None
    if _KEY.fullmatch(said) is None:
        raise InvalidParameter("Idempotency-Key holds 1 to 255 visible ASCII characters.")
    return said.decode("ascii")

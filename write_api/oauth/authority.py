"""What every part of the authorization server needs of the outside, and how it asks the desk.

The library's core is plain synchronous code with callbacks. It runs in a worker thread, and its callbacks step back
into the event loop for what only the log can decide (docs/decisions/0110-oauth-on-authlib.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Final, Protocol, TypeVar
from uuid import UUID

from anyio import CapacityLimiter, from_thread, to_thread
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from starlette.types import Scope

from commands.loop import NOTHING, Aggregate, Answer, Cause, Command, Decision, Desk, Key
from commands.sign_in import SIGN_IN
from domain.client import Audience
from infra.http.denials import NAMED
from infra.http.origins import Origins
from infra.http.seals import Seals
from infra.http.tokens import Bearers, SigningKey

S = TypeVar("S")

ACCESS_LIFETIME: Final = timedelta(minutes=10)
CODE_LIFETIME: Final = timedelta(seconds=60)


class Keys(Protocol):
    """The keys of tokens: the one that signs, and by key id all that verify."""

    def newest(self) -> SigningKey: ...

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, key_id: str) -> Ed25519PublicKey: ...


@dataclass(frozen=True, slots=True)
class Visit:
    """One request: from where, and under which id it stands in the log. What comes of it has its origin as the cause,
    which is written only then, when it is known whose it is."""

    address: str = ""
    user_agent: str = ""
    correlation_id: UUID | None = None
    scope: Scope | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Authority:
    """`issuer` is the URL under which all of it stands, without a slash at its end; `token_issuer` what access tokens
    say. `audiences` are the names that the APIs go by in tokens. `bearers` checks tokens of any of them."""

    desk: Desk
    organization: str
    issuer: str
    token_issuer: str
    audiences: Mapping[Audience, str]
    keys: Keys
    seals: Seals
    bearers: Bearers
    origins: Origins | None
    threads: CapacityLimiter

    def now(self) -> datetime:
        return self.desk.clock.now()

    async def state(self, aggregate: Aggregate[S], key: Key) -> S | None:
        """The state of one aggregate as the log has it now."""
        stream = aggregate.stream(key)
        known = self.desk.cache.get(self.organization, stream) or NOTHING
        state: S | None = (await self.desk.catch_up(self.organization, {stream: known}))[stream][1]
        return state

    async def ask(self, command: Command, visit: Visit, on_behalf_of: UUID | None = None) -> Answer:
        """Never under an idempotency key: what is answered lets somebody in. Raises as `Desk.handle`."""
        return await self.desk.handle(
            command,
            SIGN_IN,
            self.organization,
            correlation_id=visit.correlation_id,
            cause=self.cause(visit, on_behalf_of),
            on_behalf_of=None if on_behalf_of is None else str(on_behalf_of),
        )

    def cause(self, visit: Visit, account_id: UUID | None) -> Cause | None:
        """What is to stand as the cause of what comes of a visit. `account_id` names whoever is there, where a session,
        a token or a first proof does so already; otherwise what is decided may."""
        scope, origins = visit.scope, self.origins
        if scope is not None and account_id is not None:
            scope[NAMED] = account_id
        if scope is None or origins is None:
            return None

        async def caused(decision: Decision) -> UUID:
            return await origins.of(scope, self.organization, SIGN_IN, account_id or decision.account_id)

        return caused

    def state_from_thread(self, aggregate: Aggregate[S], key: Key) -> S | None:
        return from_thread.run(self.state, aggregate, key)

    def ask_from_thread(self, command: Command, visit: Visit, on_behalf_of: UUID | None = None) -> Answer:
        return from_thread.run(self.ask, command, visit, on_behalf_of)

    async def in_thread(self, function: Any, *arguments: Any, **named: Any) -> Any:
        """Run a part of the library's core."""
        return await to_thread.run_sync(partial(function, *arguments, **named), limiter=self.threads)


def hash_of(secret: str) -> str:
    """What is kept of a random secret. It has 256 bits, so nothing slower is needed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()

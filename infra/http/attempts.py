"""Limits at doors that open without a token: sign-in, registration, reset, the token endpoint. In: a request, and whose
account it speaks of. Out: nothing, or 429.

Counted twice, by the address that asks and by the account that is asked for, since one attacker has many of either. The
count is the moving window of the library `limits`, kept in Redis, under hashes: neither an address nor a name can be
read there. An account that does not exist counts like one that does.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import math
import time

import redis.asyncio
from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from starlette.requests import Request

from infra.http.address import client_address, subscriber
from infra.http.limits import MemoryBuckets, Policy, TooManyRequests

# Redis that takes longer counts as away.
_PATIENCE = 2.0


class Attempts:
    """Where attempts are counted: in Redis for all processes, and in this one alone where there is none or it is away,
    so that no outage opens a door. `secret` is at least 32 bytes, the same in every process.

    `address_factor` multiplies what one address may do: many people of one clinic ask from one. 0 lifts the limit by
    address, never the one by account.
    """

    def __init__(
        self, client: redis.asyncio.Redis | None = None, *, secret: bytes = b"", address_factor: float = 1.0
    ) -> None:
        self._key = hmac.digest(secret, b"daybook attempts v1", hashlib.sha256)
        self._factor = address_factor
        self._here = MemoryBuckets()
        self._shared: MovingWindowRateLimiter | None = None
        if client is not None:
            storage = RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix="attempts",
                connection_pool=client.connection_pool,  # type: ignore[arg-type]
            )
            self._shared = MovingWindowRateLimiter(storage)

    async def spend_address(self, door: str, policy: RateLimitItem, address: str) -> None:
        """Raises `TooManyRequests`."""
        if quota := math.ceil(policy.amount * self._factor):
            await self._spend(type(policy)(quota, policy.multiples), door, "address", subscriber(address))

    async def spend_account(self, door: str, policy: RateLimitItem, account: str) -> None:
        """Raises `TooManyRequests`."""
        await self._spend(policy, door, "account", account)

    async def _spend(self, policy: RateLimitItem, *about: str) -> None:
        key = hmac.digest(self._key, "\x00".join(about).encode("utf-8", "surrogatepass"), hashlib.sha256).hex()
        wait = await self._wait(policy, key)
        if wait > 0:
            seconds = math.ceil(wait)
            raise TooManyRequests("Too many attempts.", {"Retry-After": str(seconds)}, retry_after=seconds)

    async def _wait(self, policy: RateLimitItem, key: str) -> float:
        """Seconds until the next attempt is taken; 0 when this one was."""
        if self._shared is not None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    if await self._shared.hit(policy, key):
                        return 0.0
                    stats = await self._shared.get_window_stats(policy, key)
                    return max(1.0, stats.reset_time - time.time())
            except (redis.RedisError, OSError):
                pass
        return max(0.0, -await self._here.take(key, Policy(policy.amount, policy.get_expiry())))


class Attempt:
    """One attempt at a door, let in by its address."""

    def __init__(self, attempts: Attempts, door: str, policy: RateLimitItem | None) -> None:
        self._attempts = attempts
        self._door = door
        self._policy = policy

    async def of(self, account: str) -> None:
        """Count it against an account: an id, or an address as it was normalised. Raises `TooManyRequests`."""
        if self._policy is not None:
            await self._attempts.spend_account(self._door, self._policy, account)


class Limited:
    """A dependency: `attempt: Annotated[Attempt, Depends(Limited("sign-in", per_address="30/minute",
    per_account="10/minute"))]`, and then, once the body is read, `await attempt.of(account)`.

    Limits are written as the library `limits` reads them. Doors of one name are counted together.
    """

    def __init__(self, door: str, *, per_address: str, per_account: str | None = None) -> None:
        self._door = door
        self._per_address = parse(per_address)
        self._per_account = None if per_account is None else parse(per_account)

    async def __call__(self, request: Request) -> Attempt:
        """Raises `TooManyRequests`."""
        attempts: Attempts = request.app.state.attempts
        await attempts.spend_address(self._door, self._per_address, client_address(request.scope))
        return Attempt(attempts, self._door, self._per_account)

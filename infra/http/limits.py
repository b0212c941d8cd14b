"""Rate limits, one bucket a caller. In: who asks. Out: nothing, or 429; and headers that say what is left.

Headers follow draft-ietf-httpapi-ratelimit-headers: `RateLimit-Policy: "default";q=6000;w=60` and
`RateLimit: "default";r=5999;t=1`. The count is GCRA, which needs one number a caller and has no window edge at which a
burst passes twice.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import redis.asyncio
from starlette.types import Scope

from infra.http.edge import add_header
from infra.http.problems import Refused


class TooManyRequests(Refused):
    code = "too_many_requests"
    status = 429


@dataclass(frozen=True, slots=True)
class Policy:
    """`quota` requests in `window` seconds."""

    quota: int
    window: int


class Buckets(Protocol):
    """Where the counts are kept."""

    async def take(self, key: str, policy: Policy) -> float:
        """Take one. Seconds until the bucket is full again; negative, seconds until one may be taken, when empty."""


class MemoryBuckets:
    """Counts of this process alone, of the callers seen last. `clock` gives seconds."""

    def __init__(self, callers: int = 50_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._callers = callers
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    async def take(self, key: str, policy: Policy) -> float:
        now = self._clock()
        full_at = max(self._full_at.get(key, now), now) + policy.window / policy.quota
        wait = full_at - now - policy.window
        # A hair's breadth, since the quota-th of a burst lands on the edge itself.
        if wait > 1e-9:
            return -wait
        self._full_at[key] = full_at
        self._full_at.move_to_end(key)
        if len(self._full_at) > self._callers:
            self._full_at.popitem(last=False)
        return full_at - now


_TAKE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1e6
local window, quota = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now) + window / quota
local wait = full_at - now - window
if wait > 1e-6 then return tostring(-wait) end
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000))
return tostring(full_at - now)
"""


class RedisBuckets:
    """Counts shared by all processes. Where Redis is away each process counts by itself: a limit is not worth a lost
    booking, and an outage is not worth having none."""

    def __init__(self, client: redis.asyncio.Redis, prefix: str = "limit:") -> None:
        self._script = client.register_script(_TAKE)
        self._prefix = prefix
        self._here = MemoryBuckets()

    async def take(self, key: str, policy: Policy) -> float:
        run = cast("Callable[..., Awaitable[Any]]", self._script)
        try:
            return float(await run(keys=[self._prefix + key], args=[policy.window, policy.quota]))
        except redis.RedisError:
            return await self._here.take(key, policy)


class RateLimit:
    """Spends one request of a caller, and has the answer say how much is left. Raises `TooManyRequests`."""

    def __init__(self, policy: Policy, buckets: Buckets | None = None) -> None:
        self._policy = policy
        self._buckets = MemoryBuckets() if buckets is None else buckets
        self._policy_header = f'"default";q={policy.quota};w={policy.window}'.encode()

    async def spend(self, scope: Scope, key: str) -> None:
        policy = self._policy
        left = await self._buckets.take(key, policy)
        add_header(scope, b"ratelimit-policy", self._policy_header)
        if left < 0:
            wait = math.ceil(-left)
            add_header(scope, b"ratelimit", f'"default";r=0;t={wait}'.encode())
            raise TooManyRequests(
                f"At most {policy.quota} requests in {policy.window} s.", {"Retry-After": str(wait)}, retry_after=wait
            )
        remaining = int((policy.window - left) * policy.quota / policy.window + 1e-6)
        add_header(scope, b"ratelimit", f'"default";r={remaining};t={math.ceil(left)}'.encode())

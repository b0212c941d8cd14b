"""Doors that open without a token let an address and an account try so often and no more, whether Redis is there or
not."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
import redis.asyncio
from fastapi import APIRouter, Depends
from limits import parse

from infra.embedded.servers import Servers
from infra.http.address import Outside, Proxies
from infra.http.attempts import Attempt, Attempts, Limited
from infra.http.limits import TooManyRequests
from infra.http.service import Together, service
from infra.settings import Settings

SECRET = b"a secret that only these tests know"
ADDRESS = "192.0.2.7"
ACCOUNT = "ada@example.org"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Servers(Settings(data=tmp_path_factory.mktemp("attempts") / "data")) as servers:
        yield servers


@pytest.fixture(params=["memory", "redis"])
async def attempts(request: pytest.FixtureRequest, servers: Servers) -> AsyncIterator[Attempts]:
    if request.param == "memory":
        yield Attempts(secret=SECRET)
        return
    async with redis.asyncio.Redis.from_url(servers.redis.url) as client:
        await client.flushdb()
        yield Attempts(client, secret=SECRET)


async def let_in(count: int, spend: Any) -> int:
    results = await asyncio.gather(*(spend() for _ in range(count)), return_exceptions=True)
    assert all(result is None or isinstance(result, TooManyRequests) for result in results), results
    return results.count(None)


async def test_an_address_and_an_account_may_try_so_often(attempts: Attempts) -> None:
    policy = parse("20/hour")
    assert await let_in(50, lambda: attempts.spend_address("sign-in", policy, ADDRESS)) == 20
    assert await let_in(50, lambda: attempts.spend_account("sign-in", policy, ACCOUNT)) == 20
    assert await let_in(1, lambda: attempts.spend_address("reset", policy, ADDRESS)) == 1, "another door"
    assert await let_in(1, lambda: attempts.spend_address("sign-in", policy, "192.0.2.8")) == 1, "another address"
    assert await let_in(1, lambda: attempts.spend_account("sign-in", policy, ADDRESS)) == 1, "an account is no address"


async def test_a_subscriber_of_ipv6_is_one_address(attempts: Attempts) -> None:
    policy = parse("2/hour")
    for last in range(2):
        await attempts.spend_address("sign-in", policy, f"2001:db8:1:2::{last:x}")
    with pytest.raises(TooManyRequests):
        await attempts.spend_address("sign-in", policy, "2001:db8:1:2:ffff::1")
    await attempts.spend_address("sign-in", policy, "2001:db8:1:3::1")


async def test_a_refusal_says_when_to_ask_again(attempts: Attempts) -> None:
    await attempts.spend_account("sign-in", parse("1/hour"), ACCOUNT)
    with pytest.raises(TooManyRequests) as refused:
        await attempts.spend_account("sign-in", parse("1/hour"), ACCOUNT)
    assert refused.value.headers is not None
    assert 3590 <= int(refused.value.headers["Retry-After"]) <= 3600
    assert ACCOUNT not in refused.value.response().body.decode()


async def test_what_redis_keeps_names_nobody(servers: Servers) -> None:
    async with redis.asyncio.Redis.from_url(servers.redis.url) as client:
        await client.flushdb()
        attempts = Attempts(client, secret=SECRET)
        await attempts.spend_address("sign-in", parse("9/hour"), ADDRESS)
        await attempts.spend_account("sign-in", parse("9/hour"), ACCOUNT)
        await Attempts(client, secret=b"another").spend_account("sign-in", parse("9/hour"), ACCOUNT)
        keys = [key.decode() async for key in client.scan_iter()]
        assert len(keys) == 3
        assert not any(word in key for key in keys for word in ("192.0.2", "ada@", "example", "sign-in"))
        for key in keys:
            assert 0 < await client.ttl(key) <= 3600


async def test_one_address_of_many_people_may_be_let_try_more() -> None:
    policy = parse("2/hour")
    for factor, count in ((3.0, 6), (0.1, 1), (0.0, 50)):
        many = Attempts(secret=SECRET, address_factor=factor)
        assert await let_in(50, lambda many=many: many.spend_address("sign-in", policy, ADDRESS)) == count
        assert await let_in(50, lambda many=many: many.spend_account("sign-in", policy, ACCOUNT)) == 2


async def test_without_redis_no_door_is_open(tmp_path: Path) -> None:
    async with redis.asyncio.Redis.from_url(f"unix://{tmp_path}/none.sock") as client:
        attempts = Attempts(client, secret=SECRET)
        assert await let_in(50, lambda: attempts.spend_account("sign-in", parse("5/hour"), ACCOUNT)) == 5


async def test_a_redis_that_hangs_is_away(servers: Servers) -> None:
    pid = servers.redis.pid
    assert pid is not None
    async with redis.asyncio.Redis.from_url(servers.redis.url) as client:
        attempts = Attempts(client, secret=SECRET)
        os.kill(pid, signal.SIGSTOP)
        try:
            assert await let_in(3, lambda: attempts.spend_account("hang", parse("2/hour"), ACCOUNT)) == 2
        finally:
            os.kill(pid, signal.SIGCONT)
        assert await let_in(3, lambda: attempts.spend_account("hang again", parse("2/hour"), ACCOUNT)) == 2


routes = APIRouter()
SignIn = Annotated[Attempt, Depends(Limited("sign-in", per_address="4/hour", per_account="2/hour"))]


@routes.post("/sign-in/{account}")
async def sign_in(account: str, attempt: SignIn) -> str:
    await attempt.of(account)
    return "tried"


async def test_a_door_counts_the_callers_own_address_behind_our_proxies() -> None:
    app = service("pages", title="Pages", description="", routers=[routes])
    together = Together({"pages": app}, Outside(Proxies.of(["127.0.0.0/8"])))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(together), base_url="http://book") as client:

        async def status(account: str, address: str, invented: str = "6.6.6.6") -> int:
            headers = {"X-Forwarded-For": f"{invented}, {address}"}
            answer = await client.post(f"/pages/sign-in/{account}", headers=headers)
            assert answer.status_code == 200 or answer.json()["code"] == "too_many_requests"
            return answer.status_code

        assert [await status("a", ADDRESS) for _ in range(3)] == [200, 200, 429]
        assert [await status("b", ADDRESS, f"6.6.6.{n}") for n in range(2)] == [200, 429], "four by this address"
        assert [await status("a", "192.0.2.9"), await status("c", "192.0.2.9")] == [429, 200]

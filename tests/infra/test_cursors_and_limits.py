"""Cursors and positions come back only as they were given; limits count the same in memory and in Redis."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis.asyncio
from hypothesis import given
from hypothesis import strategies as st

from infra.embedded.servers import Servers
from infra.http.cursors import BadCursor, Cursors
from infra.http.limits import Buckets, MemoryBuckets, Policy, RateLimit, RedisBuckets, TooManyRequests
from infra.http.positions import BadPosition, Positions
from infra.settings import Settings

SECRET = os.urandom(32)
PLACE = ["2026-03-01T09:00:00Z", 7, None]
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def test_a_cursor_comes_back_where_it_was_given_and_nowhere_else() -> None:
    cursors = Cursors(SECRET)
    cursor = cursors.make("diary", "main", PLACE)
    assert cursors.read("diary", "main", cursor) == PLACE
    for listing, organization, key in (
        ("slots", "main", SECRET),
        ("diary", "other", SECRET),
        ("diary", "main", bytes(32)),
    ):
        with pytest.raises(BadCursor):
            Cursors(key).read(listing, organization, cursor)


@given(st.data())
def test_a_changed_cursor_is_refused(data: st.DataObject) -> None:
    cursors = Cursors(SECRET)
    cursor = cursors.make("diary", "main", PLACE)
    at = data.draw(st.integers(0, len(cursor) - 1))
    changed = cursor[:at] + data.draw(st.sampled_from(ALPHABET)) + cursor[at + 1 :]
    if changed != cursor:
        with pytest.raises(BadCursor):
            cursors.read("diary", "main", changed)


def test_the_spare_bits_at_the_end_are_no_second_spelling() -> None:
    cursor, shown = Cursors(SECRET).make("diary", "main", PLACE), Positions(SECRET).show(7)
    for character in ALPHABET:
        if character != cursor[-1]:
            with pytest.raises(BadCursor):
                Cursors(SECRET).read("diary", "main", cursor[:-1] + character)
        if character != shown[-1]:
            with pytest.raises(BadPosition):
                Positions(SECRET).read(shown[:-1] + character)


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_rubbish_is_neither_a_cursor_nor_a_position(text: str) -> None:
    with pytest.raises(BadCursor):
        Cursors(SECRET).read("diary", "main", text)
    with pytest.raises(BadPosition):
        Positions(SECRET).read(text)


@given(st.integers(0, 2**63 - 1), st.data())
def test_a_position_comes_back_and_a_changed_one_does_not(position: int, data: st.DataObject) -> None:
    positions = Positions(SECRET)
    shown = positions.show(position)
    assert positions.read(shown) == positions.read_after(f" {shown}") == position
    at = data.draw(st.integers(0, len(shown) - 1))
    changed = shown[:at] + data.draw(st.sampled_from(ALPHABET)) + shown[at + 1 :]
    if changed != shown:
        with pytest.raises(BadPosition):
            positions.read(changed)


def test_no_header_asks_for_nothing_and_another_installations_position_is_refused() -> None:
    assert Positions(SECRET).read_after(None) == 0
    with pytest.raises(BadPosition):
        Positions(bytes(32)).read(Positions(SECRET).show(1))


class Standing:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_a_full_window_may_pass_at_once_and_then_one_by_one() -> None:
    clock = Standing()
    buckets = MemoryBuckets(clock=clock)
    policy = Policy(quota=3, window=6)
    assert [await buckets.take("a", policy) for _ in range(4)] == [2, 4, 6, -2]
    assert await buckets.take("b", policy) == 2
    clock.now += 2
    assert [await buckets.take("a", policy) for _ in range(2)] == [6, -2]
    clock.now += 60
    assert await buckets.take("a", policy) == 2


async def test_callers_who_stopped_asking_take_no_room() -> None:
    buckets = MemoryBuckets(callers=10)
    for number in range(100):
        await buckets.take(str(number), Policy(5, 60))
    assert len(buckets._full_at) == 10


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Servers(Settings(data=tmp_path_factory.mktemp("limits") / "data")) as servers:
        yield servers.redis.url


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_both_buckets_let_the_quota_pass_and_no_more(kind: str, redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        buckets: Buckets = MemoryBuckets() if kind == "memory" else RedisBuckets(client)
        limit = RateLimit(Policy(20, 3600), buckets)
        scope: dict[str, object] = {"daybook.headers": []}
        results = await asyncio.gather(*(limit.spend(scope, "main/desk") for _ in range(50)), return_exceptions=True)
        refused = [result for result in results if result is not None]
        assert len(refused) == 30
        assert all(isinstance(result, TooManyRequests) for result in refused)


async def test_a_bucket_in_redis_is_gone_when_it_is_full_again(redis_url: str) -> None:
    async with redis.asyncio.Redis.from_url(redis_url) as client:
        await RedisBuckets(client).take("soon", Policy(10, 1))
        assert 0 < await client.pttl("limit:soon") <= 101


async def test_without_redis_each_process_counts_by_itself(tmp_path: Path) -> None:
    async with redis.asyncio.Redis.from_url(f"unix://{tmp_path}/none.sock") as client:
        buckets = RedisBuckets(client)
        assert await buckets.take("a", Policy(1, 3600)) > 0
        assert await buckets.take("a", Policy(1, 3600)) < 0
        assert await buckets.take("b", Policy(1, 3600)) > 0

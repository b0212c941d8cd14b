"""Passwords checked, 16 at once, each on an account of its own and each in the log before it is answered; against
Argon2id by itself, as many at once, on as many threads, in the same run."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import uvloop

from commands.accounts import CreateAccount
from commands.loop import Desk
from commands.sign_in import SIGN_IN, CheckPassword
from domain.access import Actor, Role
from domain.ports import Credentials
from infra.bench.served import folder
from infra.blinds import KeyedBlinds
from infra.embedded.data_folder import DataFolder
from infra.embedded.postgres import Postgres
from infra.event_log.log import PostgresEventLog
from infra.event_log.schema import app_dsn, migrate
from infra.holidays import PublicHolidays
from infra.ids import TimeOrderedIds
from infra.keyring import MasterKeyFile, PostgresKeyring
from infra.passwords import Argon2Passwords

AT_ONCE = 16
SIGN_INS = 600
ROUNDS = 3
HOLD = 0.8
PASSWORD = "violet anvil seventeen"  # noqa: S105 - of an invented person
_ORGANIZATION = "bench"
_OPERATOR = Actor("operator", Role.SYSTEM)


def run(size: float = 1.0) -> dict[str, Any]:
    return uvloop.run(_measure(max(AT_ONCE, int(SIGN_INS * size) // ROUNDS)))


async def _measure(each: int) -> dict[str, Any]:
    passwords = Argon2Passwords()
    async with _desk(passwords) as desk:
        emails = [f"person-{number}@example.org" for number in range(AT_ONCE)]
        for email in emails:
            command = CreateAccount(email=email, role=Role.ANALYST, password=PASSWORD)
            await desk.handle(command, _OPERATOR, _ORGANIZATION)
        hashed = await passwords.hash(PASSWORD)
        loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(os.cpu_count() or 1)

        async def bare(number: int) -> None:
            if not await loop.run_in_executor(threads, passwords.verified, hashed, PASSWORD):
                raise AssertionError("the password does not verify")

        async def whole(number: int) -> None:
            asked = CheckPassword(email=emails[number % AT_ONCE], password=PASSWORD)
            answer = await desk.handle(asked, SIGN_IN, _ORGANIZATION)
            if answer.content["outcome"] != "accepted":
                raise AssertionError(f"a sign-in was {answer.content['outcome']}")

        pairs = [(await _rate(bare, each), await _rate(whole, each)) for _ in range(ROUNDS)]
        threads.shutdown()
    baseline, figure = (statistics.median(rates) for rates in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for other, one in pairs)
    return {
        "figure": round(figure, 1),
        "unit": "sign-ins/s",
        "baseline": round(baseline, 1),
        "ratio": round(ratio, 3),
        "holds": ratio >= HOLD,
        "details": {"at_once": AT_ONCE, "sign_ins": each * ROUNDS, "baseline_is": "Argon2id verifications/s"},
    }


async def _rate(work: Callable[[int], Awaitable[None]], times: int) -> float:
    """How many a second, `AT_ONCE` at a time."""
    numbers = count()

    async def worker() -> None:
        while (number := next(numbers)) < times:
            await work(number)

    start = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
    return times / (time.perf_counter() - start)


@asynccontextmanager
async def _desk(passwords: Argon2Passwords) -> AsyncIterator[Desk]:
    with folder("sign-in") as data:
        postgres = Postgres(DataFolder.open(data))
        postgres.ensure_running()
        try:
            await asyncio.to_thread(migrate, postgres.dsn())
            dsn = app_dsn(postgres.dsn())
            keyring = PostgresKeyring(dsn, MasterKeyFile.at(data / "master.key"))
            async with PostgresEventLog(dsn, keyring) as log:
                credentials = Credentials(KeyedBlinds(bytes(32)), passwords)
                yield Desk(log, log.clock, TimeOrderedIds(), PublicHolidays(), credentials=credentials)
            await keyring.close()
        finally:
            postgres.stop()

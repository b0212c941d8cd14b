"""Argon2id as it is really used, and what is guessed first."""

from __future__ import annotations

import asyncio
import threading

import pytest
from argon2 import PasswordHasher, extract_parameters
from argon2.low_level import Type

from infra.passwords import Argon2Passwords

PASSWORD = "violet anvil seventeen"


async def test_a_hash_is_argon2id_with_owasp_s_parameters_and_a_salt_of_its_own() -> None:
    passwords = Argon2Passwords()
    one, other = await passwords.hash(PASSWORD), await passwords.hash(PASSWORD)
    assert one != other
    parameters = extract_parameters(one)
    assert (parameters.type, parameters.memory_cost, parameters.time_cost, parameters.parallelism) == (
        Type.ID,
        19 * 1024,
        2,
        1,
    )
    assert await passwords.verify(one, PASSWORD)
    assert not await passwords.verify(one, PASSWORD + " ")
    assert not passwords.needs_rehash(one)


async def test_where_there_is_no_hash_the_same_work_is_done_and_the_answer_is_no() -> None:
    passwords = Argon2Passwords()
    asked: list[str] = []
    hasher = passwords._hasher

    class Watched:
        def verify(self, hashed: str, password: str) -> bool:
            asked.append(hashed)
            return hasher.verify(hashed, password)

        def hash(self, password: str) -> str:
            return hasher.hash(password)

    passwords._hasher = Watched()  # type: ignore[assignment]
    assert not await passwords.verify(None, PASSWORD)
    (stand_in,) = asked
    assert extract_parameters(stand_in) == extract_parameters(hasher.hash(PASSWORD))


@pytest.mark.parametrize("hashed", ["", "no hash", "$argon2id$v=19$m=1,t=1,p=1$x$y"])
async def test_a_hash_that_is_none_lets_nobody_in(hashed: str) -> None:
    assert not await Argon2Passwords().verify(hashed, PASSWORD)


async def test_a_hash_with_weaker_parameters_still_verifies_and_is_to_be_made_anew() -> None:
    weak = PasswordHasher(1, 8 * 1024, 1).hash(PASSWORD)
    passwords = Argon2Passwords()
    assert await passwords.verify(weak, PASSWORD)
    assert passwords.needs_rehash(weak)


async def test_as_many_as_said_are_hashed_at_once() -> None:
    """A flood of sign-ins takes neither all memory nor all threads."""
    passwords = Argon2Passwords(at_once=2)
    lock, now, most = threading.Lock(), 0, 0
    both = threading.Barrier(2)

    class Watched:
        def hash(self, password: str) -> str:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            # Two are in here together, or this breaks.
            both.wait(60)
            with lock:
                now -= 1
            return password

    passwords._hasher = Watched()  # type: ignore[assignment]
    await asyncio.gather(*(passwords.hash(PASSWORD) for _ in range(8)))
    assert most == 2


@pytest.mark.parametrize(
    "password",
    [
        "P@ssw0rd2024!",
        "summer2026!!!!",
        "1234567890123",
        "qwertyuiop1234",
        "lkjhgfdsapoiuytrewq",
        "abcabcabcabc",
        "zzzzzzzzzzzz",
        "dragonmonkey",
        "DaybookDaybook",
        "correct horse battery staple",
        "!!!!Welcome!!!!",
    ],
)
def test_what_is_guessed_first_is_known(password: str) -> None:
    assert Argon2Passwords().is_common(password)


@pytest.mark.parametrize(
    "password",
    [
        PASSWORD,
        "mhefmqpzzkwe",
        "Ein Kamel im Regenmantel",
        "天気がとても良いので散歩する",
        " " * 3 + "x7",
        "x" * 256 + "y",
    ],
)
def test_what_is_not_is_taken(password: str) -> None:
    assert not Argon2Passwords().is_common(password)

"""The two houses, each started once for all that is asked of it here, and the last words of its processes where a test
fails."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Iterator
from itertools import count

import pytest

from infra.local.fetch import ELASTICSEARCH, KAFKA
from tests import needs
from tests.contract.book import Early, ask_early
from tests.house import EmbeddedHouse, FullHouse, House, running

_organizations = count(1)
_running: dict[str, House] = {}


@pytest.fixture(scope="package")
def embedded_house() -> Iterator[EmbeddedHouse]:
    with running(EmbeddedHouse) as house:
        _running[house.kind] = house
        yield house
        del _running[house.kind]


@pytest.fixture(scope="package")
def full_house() -> Iterator[FullHouse]:
    needs.java(21)
    needs.maven(KAFKA)
    needs.maven(ELASTICSEARCH)
    with running(FullHouse) as house:
        _running[house.kind] = house
        yield house
        del _running[house.kind]


@pytest.fixture(scope="package", params=[EmbeddedHouse.kind, FullHouse.kind])
def house(request: pytest.FixtureRequest) -> House:
    """Each of both in turn: what is asked here holds for either."""
    found: House = request.getfixturevalue(f"{request.param}_house")
    return found


@pytest.fixture(scope="package")
def early(house: House) -> Early:
    """Asked for before anything else, and looked at last."""
    return asyncio.run(ask_early(house))


@pytest.fixture
def organization() -> str:
    """One that nobody else knows: tests share a log, and nothing in it."""
    return f"clinic-{next(_organizations)}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for kind, house in _running.items():
            report.sections += [(f"last words in the {kind} house: {name}", words) for name, words in house.tails()]
    return report

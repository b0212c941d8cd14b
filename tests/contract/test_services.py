"""The full stack's processes, each by itself: who answers what, and who stands in for whom."""

from __future__ import annotations

import asyncio

import httpx

from domain.access import Role
from tests.contract.book import eventually
from tests.house import FullHouse, Service


async def test_each_api_answers_its_own_questions_alone(full_house: FullHouse, organization: str) -> None:
    headers = {"Authorization": f"Bearer {full_house.token(organization, Role.ADMIN)}"}
    async with httpx.AsyncClient(headers=headers) as http:
        for path, there, elsewhere in (
            ("/read/providers", full_house.read_url, full_house.write_url),
            ("/read/openapi.json", full_house.read_url, full_house.write_url),
            ("/write/openapi.json", full_house.write_url, full_house.read_url),
        ):
            assert (await http.get(f"{there}{path}")).status_code == 200
            assert (await http.get(f"{elsewhere}{path}")).status_code == 404
        assert (await http.post(f"{full_house.write_url}/write/patients", json={})).status_code == 201
        assert (await http.post(f"{full_house.read_url}/write/patients", json={})).status_code == 404


async def test_every_service_says_how_it_is(full_house: FullHouse) -> None:
    for service in full_house.services.values():
        for part in ("live", "ready"):
            status, told = await asyncio.to_thread(service.health, part)
            assert (status, set(told) >= {"status", "version", "tzdata", "checks"}) == (200, True), (service.name, told)
        async with httpx.AsyncClient() as http:
            metrics = await http.get(f"{service.url}/metrics")
        assert metrics.status_code == 200
        assert "daybook_" in metrics.text


async def test_one_does_the_jobs_and_another_takes_over(full_house: FullHouse) -> None:
    first = full_house.services["jobs"]
    second = full_house.service("jobs-2", "jobs")
    try:
        await asyncio.to_thread(second.start)
        await eventually(lambda: _at_work(first), "the first is at work")
        assert not await _at_work(second)
        first.kill()
        await eventually(lambda: _at_work(second), "the second took over")
        await asyncio.to_thread(first.start)
        assert not await _at_work(first)
        assert first.health()[1]["checks"]["jobs"] == "stands by"
        await asyncio.to_thread(second.stop)
        await eventually(lambda: _at_work(first), "the first took over again")
    finally:
        second.kill()


async def _at_work(jobs: Service) -> bool:
    _, told = await asyncio.to_thread(jobs.health)
    return bool(told and told["checks"]["jobs"] == "at work")

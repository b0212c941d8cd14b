"""Whom a clinic forgets is forgotten by every service, whatever it runs on, and by the log as a stranger finds it."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.contract.book import open_book
from tests.house import PATIENCE, Caller, House

DETAILS: dict[str, Any] = {
    "names": [{"family": "Quackenbush", "given": ["Zebulonia"]}],
    "birth_date": "1951-02-03",
    "phones": [{"number": "+4930987654321"}],
}


async def test_a_person_is_found_until_they_are_forgotten(house: House, organization: str) -> None:
    async with house.caller(organization) as admin:
        await open_book(admin)
        patient_id = await admin.made("/patients", {"details": DETAILS}, "patient_id")
        other = await admin.made("/patients", {"details": DETAILS}, "patient_id")
        for said in ({"name": "quack"}, {"birth_date": "1951-02-03"}, {"phone": "030 987654321"}):
            found = await admin.search("/patients/search", said)
            assert [one["patient_id"] for one in found["patients"]] == [patient_id, other], said
        answer = await admin.post(f"/patients/{patient_id}/erasure", {"ground": "objection"})
        assert answer.json()["outcome"] == "erased", answer.text
        found = await admin.search("/patients/search", {"name": "quack"})
        assert [one["patient_id"] for one in found["patients"]] == [other]
        await until_forgotten(admin, patient_id)
        assert "Quackenbush" in str(await admin.get(f"/patients/{other}"))
    # As a process finds it that is started now, with every key at hand.
    said = ("--as", "clerk-7", "--org", organization)
    told = [await asyncio.to_thread(house.run, "person", "export", one, *said) for one in (patient_id, other)]
    assert ["Quackenbush" in one for one in told] == [False, True]


async def until_forgotten(admin: Caller, patient_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while "Quackenbush" in str(await admin.get(f"/patients/{patient_id}/export")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)

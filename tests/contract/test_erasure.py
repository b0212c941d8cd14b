"""Whom a clinic forgets is forgotten by every service, whatever it runs on, and by the log as a stranger finds it."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.contract.book import open_book
from tests.house import PATIENCE, Caller, House, history_of
from tests.people import PASSWORD
from tests.signing_in import Browser

# An address of this machine's that nothing else comes from, and a programme.
ORIGIN = ("127.77.3.9", "Zebuphone/7")
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


async def test_from_where_they_signed_in_goes_with_them(house: House) -> None:
    """At the organization that people sign in to."""
    async with house.caller("main") as admin:
        patient_id = await admin.made("/patients", {"details": DETAILS}, "patient_id")
        invited = {"email": "zebulonia@example.org", "role": "patient", "patient_id": patient_id}
        who = ("--email", invited["email"], "--role", "patient", "--patient", patient_id, "--invite")
        link = json.loads(await asyncio.to_thread(house.run, "account", "create", *who, "--json"))["link"]
        transport = httpx.AsyncHTTPTransport(local_address=ORIGIN[0])
        headers = {"User-Agent": ORIGIN[1], "Accept": "text/html"}
        async with httpx.AsyncClient(
            transport=transport, base_url=house.write_url, headers=headers, timeout=60
        ) as http:
            browser = Browser(house.write_url)
            await browser.http.aclose()
            browser.http = http
            await browser.go("/oauth/account/verify", **dict(parse_qsl(urlsplit(link).query)))
            assert (await browser.send("/oauth/account/verify", password=PASSWORD)).status_code == 200
            await browser.go("/oauth/sign-in")
            answer = await browser.sign_in(invited["email"])
            assert (answer.status_code, answer.url.path) == (200, "/oauth/sessions"), answer.text
        with house.at_rest() as place:
            assert [words in repr(await history_of(place)) for words in ORIGIN] == [True, True]
        answer = await admin.post(f"/patients/{patient_id}/erasure", {"ground": "objection"})
        assert answer.json()["outcome"] == "erased", answer.text
        await until_forgotten(admin, patient_id)
        async with asyncio.timeout(PATIENCE):
            while True:
                with house.at_rest() as place:
                    told = repr(await history_of(place))
                if not [words for words in (*ORIGIN, invited["email"]) if words in told]:
                    break


async def until_forgotten(admin: Caller, patient_id: str) -> None:
    async with asyncio.timeout(PATIENCE):
        while "Quackenbush" in str(await admin.get(f"/patients/{patient_id}/export")):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.1)

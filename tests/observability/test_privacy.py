"""A clinic's day in which every field, header and address holds words that name somebody, on the way of all that goes
well and all that goes wrong: not one of them is logged, counted, traced, or put beside an event in Kafka."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from domain.access import Role
from infra.kafka.topics import Topics
from infra.settings import MODELS
from tests.clinic import in_days
from tests.contract.book import Book, eventually, open_book
from tests.house import FullHouse, House
from tests.observability.collector import Collector

# Of letters and digits alone, so that they look the same in JSON, in a URL and in a log.
WORDS = {
    "name": "Zwetschgenmus",
    "mail": "quittengelee7731",
    "phone": "01515550199",
    "reason": "Hagebuttenweh",
    "note": "Schlehenfieber",
    "reference": "MRN4711Mispel",
    "token": "eyJhbGciOiJub25lIn0Berberitze",
    "header": "Sanddornkopf",
    "address": "Kornelkirschweg",
}
MAIL, PHONE = f"{WORDS['mail']}@example.org", f"+49 {WORDS['phone'][1:4]} {WORDS['phone'][4:]}"
PERSON = f"{WORDS['name']} <{MAIL}> {WORDS['phone']}"
_FOUND = re.compile("|".join(map(re.escape, WORDS.values())).encode(), re.IGNORECASE)

_HEADERS = ("Idempotency-Key", "X-Request-Id", "If-Match", "If-None-Match", "User-Agent", "Cookie", "Referer")
_FIELDS = ("reason", "note", "name", "patient_id", "provider_id", "start", "reference", "kind", "visit_type_id")
_QUESTIONS = ("from", "to", "cursor", "as_of", "limit", "date", "patient_id", "specialty", "first", "last")


def named(text: bytes) -> set[str]:
    return {found.decode() for found in _FOUND.findall(text)}


async def a_day(house: House, organization: str) -> Book:
    """Everything that a clinic does with somebody whose every word is personal."""
    async with house.caller(organization) as admin:
        book = await open_book(admin, providers=2, patients=1, rooms=1)
        patient = await admin.made("/patients", {"reference": WORDS["reference"]}, "patient_id")
        book = Book(admin, book.providers, [patient, *book.patients], book.rooms)
        await admin.write(
            "PUT", f"/providers/{book.providers[1]}/profile", {"name": f"Dr. {PERSON}", "languages": ["de"]}
        )
        visit = book.visit(in_days(3, 9), reason=f"{WORDS['reason']} {PHONE}", mode="telemedicine")
        key = f"{WORDS['header']}-{uuid4()}"
        booked = await admin.post("/appointments", visit, key=key)
        assert booked.status_code == 201, booked.text
        assert (await admin.post("/appointments", visit, key=key)).headers["idempotency-replayed"] == "true"
        assert (await admin.post("/appointments", visit)).status_code == 409
        assert (await admin.post("/appointments", visit | {"reason": "x"}, key=key)).status_code == 422
        one = booked.json()["appointment_id"]
        moved = {"start": in_days(3, 11).isoformat(), "reason": WORDS["reason"]}
        await admin.post(f"/appointments/{one}/move", moved)
        await admin.post(f"/appointments/{one}/cancel", {"reason": "patient_request", "note": WORDS["note"]})
        await admin.post(f"/appointments/{one}/cancel", {"note": PERSON})
        for path in (f"/appointments/{one}", f"/patients/{patient}/appointments", "/providers"):
            await admin.read(path)
        return book


async def everything_wrong(base: str, api: str, token: str) -> None:
    """Every route of an API with names where none belong, in every part of a request."""
    async with httpx.AsyncClient(base_url=base, timeout=20) as http:
        document = (await http.get(f"/{api}/openapi.json")).json()
        asked = [
            http.request(method.upper(), address, **more)
            for path, operations in document["paths"].items()
            for method in operations
            for address in (re.sub(r"\{\w+\}", WORDS["address"], path), re.sub(r"\{\w+\}", str(uuid4()), path))
            for more in _faulty(token)
        ]
        for start in range(0, len(asked), 16):
            answers = await asyncio.gather(*asked[start : start + 16], return_exceptions=True)
            assert not [one for one in answers if isinstance(one, httpx.Response) and one.status_code == 500]
        await http.request(WORDS["header"].upper(), f"/{api}/appointments")
        await http.get(f"/{WORDS['address']}/{WORDS['name']}?who={MAIL}")
    host, _, port = base.removeprefix("http://").partition(":")
    for raw in (
        f"GET /{WORDS['address']} HTTP/1.1\r\n{WORDS['header']}\r\n\r\n",
        f"{WORDS['name']}\r\n\r\n",
        f"POST /{api}/patients HTTP/1.1\r\nHost: {WORDS['header']}\r\nContent-Length: 9\r\n\r\n{WORDS['name'][:3]}",
    ):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(raw.encode())
        await writer.drain()
        writer.close()


def _faulty(token: str) -> Iterator[dict[str, Any]]:
    good = {"Authorization": f"Bearer {token}", "Read-After": WORDS["header"]}
    everywhere = dict.fromkeys(_HEADERS, WORDS["header"])
    fields = dict.fromkeys(_FIELDS, PERSON)
    questions = dict.fromkeys(_QUESTIONS, PERSON)
    yield {"headers": {"Authorization": f"Bearer {WORDS['token']}"}, "json": fields}
    yield {"headers": {"Authorization": f"Basic {WORDS['token']}"}, "params": questions}
    yield {"headers": {**good, **everywhere}, "json": fields, "params": questions}
    yield {"headers": {**good, "Purpose-Of-Use": WORDS["header"]}, "json": {WORDS["name"]: [PERSON]}}
    yield {"headers": {**good, "traceparent": f"00-{WORDS['header']}-x-01"}, "content": f"{{{PERSON}".encode()}
    yield {"headers": {**good, "Content-Type": WORDS["header"]}, "content": PERSON.encode()}
    yield {"headers": {**good, "Content-Type": "application/json"}, "content": b"[" * 99 + PERSON.encode()}


def logged(house: House) -> Iterator[tuple[str, bytes]]:
    """Every file in which a process of the house says something."""
    for path in house.folder.rglob("*"):
        # Kafka calls its data a log too.
        if not path.is_file() or path.stem.isdigit():
            continue
        if path.suffix in (".log", ".json") or ".log" in path.name or path.parent.name == "logs":
            yield str(path.relative_to(house.folder)), path.read_bytes()


def counted(house: House) -> Iterator[tuple[str, bytes]]:
    for name, service in house.services.items():
        with urllib.request.urlopen(f"{service.url}/metrics", timeout=5) as answer:
            yield f"metrics of {name}", answer.read()


async def beside_events(bootstrap: str) -> list[tuple[str, bytes]]:
    """Keys and headers of every message, and what dead letters and positions say."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    found = []
    try:
        places = [
            TopicPartition(name, number) for name, (parts, _) in Topics().wanted().items() for number in range(parts)
        ]
        consumer.assign(places)
        await consumer.seek_to_beginning()
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    beside = (record.key or b"") + b"".join(key.encode() + value for key, value in record.headers)
                    if place.topic != "daybook.events":
                        beside += record.value or b""
                    found.append((f"{place.topic} {record.offset}", beside))
    finally:
        await consumer.stop()
    return found


async def spoil_the_topic(bootstrap: str) -> None:
    """What is no event, and names somebody."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    try:
        await producer.send_and_wait("daybook.events", PERSON.encode(), key=b"someone/appointment/1", partition=0)
        await producer.send_and_wait("daybook.events", b"{" + PERSON.encode(), key=None, partition=1)
    finally:
        await producer.stop()


def nothing_personal(told: Iterable[tuple[str, bytes]]) -> int:
    size = 0
    leaks = {}
    for where, text in told:
        size += len(text)
        if found := named(text):
            at = _FOUND.search(text)
            assert at is not None
            leaks[where] = (found, text[max(0, at.start() - 200) : at.end() + 100])
    assert not leaks
    return size


async def test_a_day_leaves_no_word_about_anybody(watched: tuple[House, Collector]) -> None:
    house, collector = watched
    organization = f"clinic-{uuid4().hex[:6]}"
    book = await a_day(house, organization)
    token = house.token(organization, Role.ADMIN)
    await everything_wrong(house.write_url, "write", token)
    await everything_wrong(house.read_url, "read", token)
    await _stores_go_and_come(house, book)
    if isinstance(house, FullHouse):
        await spoil_the_topic(house.kafka.bootstrap)

        async def told() -> bool:
            # 1 says that there are some.
            found = json.loads(house.run("deadletter", "list", "--json", fine=(0, 1)))["letters"]
            return len({one["model"] for one in found}) == len(MODELS)

        await eventually(told, "a dead letter")
        assert nothing_personal([("dead letters", house.run("deadletter", "list", fine=(1,)).encode())]) > 0
        assert nothing_personal(await beside_events(house.kafka.bootstrap)) > 0
    collector.wait(lambda spans: any(span.name == "command BookAppointment" for span in spans))
    assert nothing_personal(counted(house)) > 1000
    assert nothing_personal(logged(house)) > 1000
    assert nothing_personal([("spans", b"".join(collector.bodies))]) > 1000


async def _stores_go_and_come(house: House, book: Book) -> None:
    """Asked while the stores are away, as people do ask."""
    visit = book.visit(in_days(4, 9), reason=f"{WORDS['reason']} {PHONE}")
    headers = {"Authorization": f"Bearer {house.token(f'clinic-{uuid4().hex[:6]}', Role.ADMIN)}"}
    if not isinstance(house, FullHouse):
        return
    async with httpx.AsyncClient(timeout=20) as http:

        async def ask() -> None:
            await asyncio.gather(
                http.post(f"{house.write_url}/write/appointments", json=visit, headers=headers),
                http.get(f"{house.read_url}/read/appointments/{uuid4()}", params={"as_of": PERSON}, headers=headers),
                http.get(f"{house.read_url}/read/patients/{book.patients[0]}/appointments", headers=headers),
            )

        for kill, start in ((house.kill_redis, house.start_redis), (house.kill_postgres, house.start_postgres)):
            await asyncio.to_thread(kill)
            await ask()
            await asyncio.to_thread(start)
            await ask()


def test_words_are_found_where_they_are() -> None:
    assert named(f"x{PERSON}y".encode()) == {WORDS["name"], WORDS["mail"], WORDS["phone"]}

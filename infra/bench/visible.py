"""How soon a booking is seen: from its acknowledgement to an answer that holds it, asked of each read model over HTTP.

In: a server and a rate. Out: seconds, by read model. Bookings come at their times whatever the answers do (an open
loop), so a slow server is not spared. Some of them are followed: a question with `Read-After` for each read model is
sent as soon as the booking is acknowledged, and is answered when the model holds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from infra.bench.load import request
from infra.bench.served import Clinic, Served

# Bookings of a second that are followed; each asks a question of every model.
_FOLLOWED = 10


class Connection:
    """One kept-open connection; one request at a time."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, asked: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers by lower-case name, and body."""
        if self._writer is not None:
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                return await self._asked(asked)
            # The server closes what was idle for long. Bookings have a key, so asking again is safe.
            self._writer.close()
        self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        return await self._asked(asked)

    async def _asked(self, asked: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._writer is not None
        assert self._reader is not None
        self._writer.write(asked)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await self._reader.readexactly(int(headers.get("content-length", "0")))
        return int(head[0][9:12]), headers, body

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


@dataclass(slots=True)
class Seen:
    """`acknowledged` are seconds from a booking's moment to its answer; `visible`, by model, seconds from there to an
    answer that holds it; `statuses` count the answers to bookings."""

    seconds: float = 0.0
    acknowledged: list[float] = field(default_factory=list)
    visible: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)

    def p99(self, model: str) -> float:
        ordered = sorted(self.visible[model])
        return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] if ordered else 0.0


def questions(clinic: Clinic) -> Mapping[str, Callable[[str, str], str]]:
    """By read model, the address of a small question that it answers, made of an appointment's id and a provider's."""
    day = clinic.first.date().isoformat()
    return {
        "diary": lambda appointment, provider: f"/read/appointments/{appointment}",
        "free_time": lambda appointment, provider: f"/read/providers/{provider}",
        "facts": lambda appointment, provider: f"/read/facts/statuses?first={day}&last={day}",
        "directory": lambda appointment, provider: "/read/providers/directory?limit=1",
    }


class Load:
    """Open-loop bookings on one server."""

    def __init__(self, served: Served, clinic: Clinic, bookings: Iterator[tuple[str, bytes]]) -> None:
        """`bookings` are providers and requests, ready to be sent."""
        self._served = served
        self._questions = questions(clinic)
        self._bookings = bookings
        self._idle: list[Connection] = []

    async def at(self, rate: float, seconds: float) -> Seen:
        """Book `rate` a second for so long, then wait until all that is followed was seen."""
        seen = Seen(visible={name: [] for name in self._questions})
        every = max(1, round(rate / _FOLLOWED))
        tasks: set[asyncio.Task[None]] = set()
        began = time.perf_counter()
        for number in range(int(rate * seconds)):
            due = began + number / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            provider, asked = next(self._bookings)
            task = asyncio.create_task(self._book(provider, asked, due, number % every == 0, seen))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)
        seen.seconds = time.perf_counter() - began
        return seen

    async def _book(self, provider: str, asked: bytes, due: float, follow: bool, seen: Seen) -> None:
        status, headers, body = await self._ask(asked)
        done = time.perf_counter()
        seen.statuses[status] += 1
        seen.acknowledged.append(done - due)
        if follow and status == 201:
            appointment = body.partition(b'"appointment_id":"')[2][:36].decode()
            position = headers["position"]
            await asyncio.gather(
                *(
                    self._follow(model, address(appointment, provider), position, done, seen)
                    for model, address in self._questions.items()
                )
            )

    async def _follow(self, model: str, address: str, position: str, since: float, seen: Seen) -> None:
        asked = request("GET", address, token=self._served.token, Read_After=position)
        while True:
            status, _, _ = await self._ask(asked)
            # 503: not so far yet, within the bound of one question.
            if status != 503:
                break
        if status == 200:
            seen.visible[model].append(time.perf_counter() - since)

    async def _ask(self, asked: bytes) -> tuple[int, Mapping[str, str], bytes]:
        connection = self._idle.pop() if self._idle else Connection(self._served.host, self._served.port)
        answer = await connection.ask(asked)
        self._idle.append(connection)
        return answer

    def close(self) -> None:
        for connection in self._idle:
            connection.close()

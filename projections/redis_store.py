"""A store in Redis. In and out: what `projections.documents.Store` says.

Keys are `daybook:MODEL:GENERATION:NAME`; `daybook:MODEL:live` names the generation that answers. Documents are strings,
lists are sorted sets whose members all score 0, so that they are in byte order. A batch is one script: it compares the
position and writes rows and position at once, so two fillers can't mix, and a flushed Redis is noticed by the next.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from projections.documents import LAST, Change, Span
from projections.model import OutOfStep

# Other processes swap generations; for as long as this, seconds, an answer may still come from the one before.
POINTER_AGE = 1.0
_CHUNK = 1000

# ARGV: part, position before, position after, prefix, how many documents, removed and added lines, then all their
# strings as one, and the length of each as a 32-bit number, and the whole log's position. As arguments of their own the
# strings would cost the sender most of its time.
_WRITE = """
local at = redis.call('HGET', KEYS[1], ARGV[1]) or '0'
if at ~= ARGV[2] then return at end
local floor = redis.call('HGET', KEYS[1], '') or '0'
if floor ~= ARGV[10] then return floor end
local prefix, strings, lengths = ARGV[4], ARGV[8], ARGV[9]
local place, number = 1, 1
local function next_string()
    local length
    length, number = struct.unpack('>I4', lengths, number)
    place = place + length
    return string.sub(strings, place - length, place - 1)
end
for _ = 1, tonumber(ARGV[5]) do redis.call('SET', prefix .. next_string(), next_string()) end
for _ = 1, tonumber(ARGV[6]) do redis.call('ZREM', prefix .. next_string(), next_string()) end
for _ = 1, tonumber(ARGV[7]) do redis.call('ZADD', prefix .. next_string(), 0, next_string()) end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return false
"""


class RedisStore:
    """`client` answers bytes (`decode_responses=False`). Without a `generation` the store follows the live one."""

    def __init__(self, client: Redis, model: str, generation: int | None = None) -> None:
        self._client: Any = client
        self._model = model
        self._pinned = generation
        self._live = 1
        self._looked = float("-inf")
        self._script: str | None = None

    async def generation(self) -> int:
        if self._pinned is not None:
            return self._pinned
        if time.monotonic() - self._looked > POINTER_AGE:
            self._live = int(await self._client.get(f"daybook:{self._model}:live") or 1)
            self._looked = time.monotonic()
        return self._live

    async def _prefix(self) -> str:
        return f"daybook:{self._model}:{await self.generation()}:"

    async def positions(self) -> Mapping[str, int]:
        self._looked = float("-inf")
        found = await self._client.hgetall(f"{await self._prefix()}positions")
        return {part.decode(): int(position) for part, position in found.items()}

    async def documents(self, names: Sequence[str]) -> Sequence[bytes | None]:
        if not names:
            return ()
        prefix = await self._prefix()
        answer: list[bytes | None] = await self._client.execute_command("MGET", *[prefix + name for name in names])
        return answer

    async def lines(self, spans: Sequence[Span]) -> Sequence[Sequence[str]]:
        prefix = await self._prefix()
        async with self._client.pipeline(transaction=False) as pipe:
            for span in spans:
                low, high = f"[{span.low}" if span.low else "-", "+" if span.high == LAST else f"[{span.high}"
                command = ("ZREVRANGEBYLEX", prefix + span.name, high, low)
                if not span.backwards:
                    command = ("ZRANGEBYLEX", prefix + span.name, low, high)
                pipe.execute_command(*command, *(("LIMIT", 0, span.limit) if span.limit else ()))
            return [[line.decode() for line in lines] for lines in await pipe.execute()]

    async def write(self, change: Change, part: str, at: int, upto: int, floor: int) -> None:
        prefix = await self._prefix()
        strings: list[bytes] = []
        for name, document in change.documents.items():
            strings += (name.encode(), document)
        for name, line in change.removed:
            strings += (name.encode(), line.encode())
        for name, line in change.added:
            strings += (name.encode(), line.encode())
        found = await self._run(
            prefix + "positions",
            part,
            at,
            upto,
            prefix,
            len(change.documents),
            len(change.removed),
            len(change.added),
            b"".join(strings),
            struct.pack(f">{len(strings)}I", *map(len, strings)),
            floor,
        )
        if found is not None:
            raise OutOfStep(int(found))

    async def _run(self, key: str, *arguments: Any) -> Any:
        if self._script is None:
            self._script = await self._client.script_load(_WRITE)
        try:
            return await self._client.evalsha(self._script, 1, key, *arguments)
        except NoScriptError:
            self._script = await self._client.script_load(_WRITE)
            return await self._client.evalsha(self._script, 1, key, *arguments)

    async def next_generation(self) -> Self:
        await self.clean()
        live = int(await self._client.get(f"daybook:{self._model}:live") or 1)
        return type(self)(self._client, self._model, live + 1)

    async def go_live(self) -> None:
        if self._pinned is not None:
            await self._client.set(f"daybook:{self._model}:live", self._pinned)
            self._pinned = None
            self._looked = float("-inf")

    async def clean(self) -> None:
        self._looked = float("-inf")
        kept = (await self._prefix()).encode()
        pointer = f"daybook:{self._model}:live".encode()
        gone: list[bytes] = []
        async for key in self._client.scan_iter(match=f"daybook:{self._model}:*", count=_CHUNK):
            if not key.startswith(kept) and key != pointer:
                gone.append(key)
            if len(gone) == _CHUNK:
                await self._client.unlink(*gone)
                gone.clear()
        if gone:
            await self._client.unlink(*gone)

"""Rows of the log as messages, and manifests: what stands in the topics, byte for byte.

An event's key is its stream's full name, its value row v1, its headers its position and a W3C trace context: the
correlation id is the trace, the command the span. A manifest has no key; its value says how many events of which
positions went to its partition.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from infra.event_log.rows import NotARow, columns, command_and_correlation_in
from streams.inbox import Arrived, Manifest
from streams.relay import Published, Row

POSITION_KEY: Final = b"position"


def headers_of(row: Row) -> list[tuple[str, bytes]]:
    command, correlation = command_and_correlation_in(row.data)
    # The last bytes of a UUIDv7 are random; its first tell the time.
    trace = f"00-{correlation.hex()}-{command[8:].hex()}-01"
    return [("position", b"%d" % row.position), ("traceparent", trace.encode())]


def arrived(records: Iterable[Any]) -> list[Arrived]:
    """What consumers of `aiokafka` got, as the worker takes it."""
    found = []
    for record in records:
        row: Any = None
        manifest = None
        try:
            if record.key is None:
                manifest = Manifest.from_json(record.value or b"")
            else:
                row = columns(record.value or b"")
        except (NotARow, ValueError):
            row = manifest = None
        if row is None:
            found.append(Arrived(record.offset, record.timestamp / 1000, 0, "", None, manifest))
        else:
            found.append(Arrived(record.offset, record.timestamp / 1000, row[0], row[2], row, None))
    return found


def position_to_json(published: Published) -> bytes:
    return json.dumps({"position": published.position, "hash": published.hash.hex()}).encode()


def position_from_json(data: bytes) -> Published:
    """Raises `ValueError` for what is none. One that was written without a hash has an empty one."""
    known = json.loads(data)
    if not isinstance(known, dict) or type(known.get("position")) is not int:
        raise ValueError("not a position")
    link = known.get("hash", "")
    if not isinstance(link, str):
        raise ValueError("not a hash")
    return Published(known["position"], bytes.fromhex(link))

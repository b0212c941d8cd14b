"""Checks an export of the audit trail against its proofs. Needs Python 3.11, `cryptography`, and nothing of Daybook.

    python check_proof.py EXPORT PROOFS --key KEY.pub [--checkpoints checkpoints.jsonl]

EXPORT is what `daybook log export` wrote: FHIR R4 AuditEvents as NDJSON, or CSV. PROOFS lies beside it. KEY is the
public key of whoever signs the log, 64 hex digits, which you should have got from them by another way than this export;
and so your own copy of the checkpoints, if you have one. Exit code 0: every record is in the signed log as it is told.
1: not.

What is checked, so that you can write this anew. PROOFS is JSON by lines. The first line is a checkpoint: the log had
`size` events, the root of its Merkle tree was `root`. Then comes one line for each record of the export, in its order.

1. The signature: Ed25519 over the bytes "daybook checkpoint v1", a zero byte, and the JSON of the checkpoint's members
   size, root, hash, recorded_at, signed_at and key, keys sorted, without spaces, in UTF-8.
2. Each record's `row`, base64, holds the event as it was hashed. Fields follow each other, each its length (4 bytes,
   big-endian; -1 is null) and its bytes: position (int8), organization, stream, version (int8), event_id (16 bytes),
   name, payload (JSON), actor, on_behalf_of, purpose, command_id, correlation_id, causation_id (16 bytes each),
   occurred_at, recorded_at (int8, microseconds since 2000-01-01 UTC).
3. The leaf is SHA-256 of a zero byte and the row. `path` leads from it to the root as RFC 9162 §2.1.3.2 says, the
   leaf's index being the position less one: a node is SHA-256 of a one byte, the left hash and the right one.
4. What the record says is what the row says: all that is listed above. A record's network address, its user agent and
   its sentence in English are not in the row, and are not proved.
"""

from __future__ import annotations

import argparse
import base64
import csv
import json
import struct
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from itertools import zip_longest
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNED = ("size", "root", "hash", "recorded_at", "signed_at", "key")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


class Wrong(Exception):
    """What does not hold, in words."""


def check_signature(checkpoint: dict[str, Any], key: bytes) -> None:
    words = json.dumps({name: checkpoint[name] for name in SIGNED}, sort_keys=True, separators=(",", ":"))
    try:
        signature = bytes.fromhex(checkpoint["signature"])
        Ed25519PublicKey.from_public_bytes(key).verify(signature, b"daybook checkpoint v1\x00" + words.encode())
    except (InvalidSignature, ValueError):
        raise Wrong("the checkpoint is not signed by this key") from None


def check_inclusion(row: bytes, index: int, size: int, path: list[str], root: bytes) -> None:
    """RFC 9162 §2.1.3.2."""
    if not 0 <= index < size:
        raise Wrong("its position is not below the checkpoint")
    found, at, last = sha256(b"\x00" + row).digest(), index, size - 1
    for step in map(bytes.fromhex, path):
        if last == 0:
            raise Wrong("its path is too long")
        if at % 2 or at == last:
            found = sha256(b"\x01" + step + found).digest()
            while at % 2 == 0 and at:
                at, last = at // 2, last // 2
        else:
            found = sha256(b"\x01" + found + step).digest()
        at, last = at // 2, last // 2
    if last or found != root:
        raise Wrong("it is not in the signed log")


def fields_of(row: bytes) -> Iterator[bytes | None]:
    at = 0
    while at < len(row):
        (length,) = struct.unpack_from(">i", row, at)
        at += 4
        if length < 0:
            yield None
        elif at + length > len(row):
            raise Wrong("its row is cut off")
        else:
            yield row[at : at + length]
            at += length


def facts_of(row: bytes) -> dict[str, Any]:
    """What a row says. What is null is left out."""

    def number(data: bytes) -> int:
        return int.from_bytes(data, "big", signed=True)

    def instant(data: bytes) -> str:
        return (EPOCH + timedelta(microseconds=number(data))).isoformat()

    def uuid(data: bytes) -> str:
        return str(UUID(bytes=data))

    text = bytes.decode
    readers: dict[str, Callable[[bytes], Any]] = {
        "position": number,
        "organization": text,
        "stream": text,
        "version": number,
        "event_id": uuid,
        "name": text,
        "payload": json.loads,
        "actor": text,
        "on_behalf_of": text,
        "purpose": text,
        "command_id": uuid,
        "correlation_id": uuid,
        "causation_id": uuid,
        "occurred_at": instant,
        "recorded_at": instant,
    }
    values = list(fields_of(row))
    if len(values) != len(readers):
        raise Wrong("its row is no row")
    facts = {
        name: read(value) for (name, read), value in zip(readers.items(), values, strict=True) if value is not None
    }
    facts["stream"] = facts["stream"].removeprefix(facts["organization"] + "/")
    patient = facts.pop("payload").get("patient_id")
    return {name: str(value) for name, value in {**facts, **({"patient_id": patient} if patient else {})}.items()}


def claims_of_audit_event(resource: dict[str, Any]) -> dict[str, Any]:
    """The same, as an AuditEvent says it."""
    entity = resource["entity"][0]
    claims = {detail["type"]: detail["valueString"] for detail in entity["detail"]}
    claims |= {
        "event_id": resource["id"],
        "recorded_at": resource["recorded"],
        "name": resource["subtype"][0]["code"],
        "organization": resource["source"]["site"],
        "stream": entity["what"]["identifier"]["value"],
        "actor": resource["agent"][0]["altId"],
    }
    if resource["agent"][0]["who"]["identifier"]["value"] != claims["actor"]:
        raise Wrong("it names two actors")
    if len(resource["agent"]) > 1:
        claims["on_behalf_of"] = resource["agent"][1]["who"]["identifier"]["value"]
    if "purposeOfEvent" in resource:
        claims["purpose"] = resource["purposeOfEvent"][0]["text"]
    if len(resource["entity"]) > 1:
        claims["patient_id"] = resource["entity"][1]["what"]["identifier"]["value"]
    return claims


UNPROVED = ("action", "sentence", "address", "agent")


def claims_of_csv(line: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in line.items() if value and name not in UNPROVED}


def claims_in(path: str) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        if file.read(1) == "{":
            file.seek(0)
            yield from (claims_of_audit_event(json.loads(line)) for line in file)
        else:
            file.seek(0)
            yield from map(claims_of_csv, csv.DictReader(file))


def check(export: str, proofs: str, key: bytes, checkpoints: str | None) -> tuple[int, int, int, dict[str, Any]]:
    """How many records hold, the positions of the first and the last, and the checkpoint. Raises `Wrong`."""
    with open(proofs, encoding="utf-8") as file:
        checkpoint = json.loads(file.readline())
        check_signature(checkpoint, key)
        if checkpoints is not None and checkpoint["root"] not in own_roots(checkpoints, checkpoint["size"]):
            raise Wrong("the checkpoint is not among your own copies")
        root = bytes.fromhex(checkpoint["root"])
        first = last = count = 0
        for number, (claims, line) in enumerate(zip_longest(claims_in(export), file), 1):
            if claims is None or line is None:
                raise Wrong(f"record {number}: the export and its proofs are not of one length")
            try:
                proof = json.loads(line)
                row = base64.b64decode(proof["row"], validate=True)
                facts = facts_of(row)
                position = int(facts["position"])
                check_inclusion(row, position - 1, checkpoint["size"], proof["path"], root)
                for name in sorted({*facts, *claims}):
                    if facts.get(name) != claims.get(name):
                        raise Wrong(f"it tells another {name}")
                if position <= last:
                    raise Wrong("it stands out of order, or twice")
            except Wrong as wrong:
                raise Wrong(f"record {number}: {wrong}") from None
            first, last, count = first or position, position, count + 1
        return count, first, last, checkpoint


def own_roots(path: str, size: int) -> list[str]:
    with open(path, encoding="utf-8") as file:
        lines = [json.loads(line) for line in file if line.endswith("\n")]
    return [line["root"] for line in lines if line["size"] == size]


def main() -> int:
    words = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=words[0], epilog=words[2], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export")
    parser.add_argument("proofs")
    parser.add_argument("--key", required=True, help="a file with the public key, 64 hex digits")
    parser.add_argument("--checkpoints", help="your own copy of the checkpoints")
    asked = parser.parse_args()
    try:
        with open(asked.key, encoding="ascii") as file:
            key = bytes.fromhex(file.read().strip())
        count, first, last, checkpoint = check(asked.export, asked.proofs, key, asked.checkpoints)
    except Wrong as wrong:
        print(f"WRONG: {wrong}.")
        return 1
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, struct.error) as error:
        print(f"WRONG: something is not of the right form ({type(error).__name__}: {error}).")
        return 1
    signed = f"signed {checkpoint['signed_at']} over {checkpoint['size']} events"
    print(f"{count} records are in the log as it was {signed}.")
    if count:
        left_out = last - first + 1 - count
        print(f"They are positions {first} to {last}, {left_out or 'none'} of these left out.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

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
4. The record is the one that follows from the row, member by member and cell by cell, and nothing stands beside them:
   `audit_event` and `csv_line` below say how it is made. Three things are in no row and are NOT PROVED: the sentence in
   English, the network address, and (in CSV) the user agent.
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
from functools import partial
from hashlib import sha256
from itertools import zip_longest
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

SIGNED = ("size", "root", "hash", "recorded_at", "signed_at", "key")
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)


# What comes of bytes that are not of the form that is expected.
MALFORMED = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
    csv.Error,
)


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


def facts_of(row: bytes) -> dict[str, str]:
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


# How a record follows from the facts. Daybook's own export is made by these too.

DICOM = "http://dicom.nema.org/resources/ontology/DCM"
REASON = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
ENTITY = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
# Names of Daybook's own; `urn:daybook:` is no registered namespace, and its names are told by this file alone.
EVENT, ACTOR, PATIENT, STREAM = "urn:daybook:event", "urn:daybook:actor", "urn:daybook:patient", "urn:daybook:stream"

# XSPA's words, in HL7's (value set PurposeOfUse).
PURPOSES = {
    "TREATMENT": ("TREAT", "treatment"),
    "PAYMENT": ("HPAYMT", "healthcare payment"),
    "OPERATIONS": ("HOPERAT", "healthcare operations"),
    "EMERGENCY": ("ETREAT", "Emergency Treatment"),
    "REQUEST": ("PATRQT", "patient requested"),
    "PUBLICHEALTH": ("PUBHLTH", "public health"),
    "RESEARCH": ("HRESCH", "healthcare research"),
    "SYSADMIN": ("SYSADMIN", "health system administration"),
}
# By the beginning of an event's name: what DICOM calls it. The first that fits counts.
KINDS = (
    (("SignIn", "Session", "Password", "Totp", "Passkey", "Recovery", "Origin"), ("110114", "User Authentication")),
    (("Account", "Role", "Client", "Mfa", "Proxy", "Glass", "Access", "Consent"), ("110113", "Security Alert")),
    (("LogUnsealed",), ("110101", "Audit Log Used")),
    (("",), ("110110", "Patient Record")),
)
# Past participles that end something, and those that only carry it out.
DELETES = ("Erased", "Closed", "Removed", "Retired", "EnteredInError")
EXECUTES = ("SignIn", "Session", "LogUnsealed", "GlassBroken", "ReminderSent")
# The log holds what was done; what was refused and is recorded all the same says so by its name.
REFUSED = ("SignInFailed", "AccessRefused", "ErasureRefused")
DETAILS = ("position", "version", "command_id", "correlation_id", "causation_id", "occurred_at")

COLUMNS = (
    "position",
    "recorded_at",
    "occurred_at",
    "organization",
    "name",
    "action",
    "sentence",
    "actor",
    "on_behalf_of",
    "purpose",
    "patient_id",
    "stream",
    "version",
    "event_id",
    "command_id",
    "correlation_id",
    "causation_id",
    "address",
    "agent",
)
UNPROVED = ("sentence", "address", "agent")


def action_of(facts: dict[str, str]) -> str:
    """C, R, U, D or E (https://hl7.org/fhir/R4/valueset-audit-event-action.html)."""
    kind = facts["name"].rpartition(".v")[0]
    if kind == "RecordSeen":
        return "R"
    if kind.startswith(EXECUTES):
        return "E"
    if kind.endswith(DELETES):
        return "D"
    return "C" if facts["version"] == "1" else "U"


def audit_event(facts: dict[str, str]) -> dict[str, Any]:
    """An AuditEvent (https://hl7.org/fhir/R4/auditevent.html) without what is not proved."""
    name, actor = facts["name"], facts["actor"]
    code, display = next(kind for beginnings, kind in KINDS if name.startswith(beginnings))
    agents: list[dict[str, Any]] = [{"who": named(ACTOR, actor), "altId": actor, "requestor": True}]
    if "on_behalf_of" in facts:
        agents.append({"who": named(PATIENT, facts["on_behalf_of"]), "requestor": False})
    entities: list[dict[str, Any]] = [
        {
            "what": named(STREAM, facts["stream"]),
            "type": {"system": ENTITY, "code": "2", "display": "System Object"},
            "role": {"system": ROLE, "code": "4", "display": "Domain Resource"},
            "detail": [{"type": name, "valueString": facts[name]} for name in DETAILS if name in facts],
        }
    ]
    if "patient_id" in facts:
        entities.append(
            {
                "what": named(PATIENT, facts["patient_id"]),
                "type": {"system": ENTITY, "code": "1", "display": "Person"},
                "role": {"system": ROLE, "code": "1", "display": "Patient"},
            }
        )
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": facts["event_id"],
        "type": {"system": DICOM, "code": code, "display": display},
        "subtype": [{"system": EVENT, "code": name}],
        "action": action_of(facts),
        "recorded": facts["recorded_at"],
        "outcome": "4" if name.startswith(REFUSED) else "0",
        "agent": agents,
        "source": {"site": facts["organization"], "observer": {"display": "Daybook"}},
        "entity": entities,
    }
    if "purpose" in facts:
        concept: dict[str, Any] = {"text": facts["purpose"]}
        if facts["purpose"] in PURPOSES:
            code, display = PURPOSES[facts["purpose"]]
            concept["coding"] = [{"system": REASON, "code": code, "display": display}]
        resource["purposeOfEvent"] = [concept]
    return resource


def named(system: str, value: str) -> dict[str, Any]:
    return {"identifier": {"system": system, "value": value}}


def csv_line(facts: dict[str, str]) -> dict[str, str]:
    """A line of CSV without what is not proved."""
    told = {**facts, "action": action_of(facts)}
    return {name: told.get(name, "") for name in COLUMNS if name not in UNPROVED}


def check_audit_event(line: str, facts: dict[str, str]) -> None:
    resource = parsed(line)
    sentence = resource.pop("outcomeDesc")
    asker = resource["agent"][0]
    if not isinstance(sentence, str) or not sentence:
        raise Wrong("its sentence is none")
    if "network" in asker:
        network = asker.pop("network")
        address = network.pop("address")
        if not isinstance(address, str) or not address or network != {"type": "2"}:
            raise Wrong("its network address is none")
    check_same(resource, audit_event(facts))


def check_line(cells: list[str], facts: dict[str, str]) -> None:
    if len(cells) != len(COLUMNS):
        raise Wrong("it has more or fewer cells than columns")
    told = dict(zip(COLUMNS, cells, strict=True))
    check_same({name: cell for name, cell in told.items() if name not in UNPROVED}, csv_line(facts))


def check_same(told: Any, proved: Any, where: str = "") -> None:
    if isinstance(told, dict) and isinstance(proved, dict):
        for name in sorted({*told, *proved}):
            if name not in proved:
                raise Wrong(f"it tells {where}{name!a}, which is not in its row")
            if name not in told:
                raise Wrong(f"it leaves out {where}{name}")
            check_same(told[name], proved[name], f"{where}{name}.")
    elif isinstance(told, list) and isinstance(proved, list):
        if len(told) != len(proved):
            raise Wrong(f"it tells {len(told)} of {where[:-1]} and not {len(proved)}")
        for number, (one, other) in enumerate(zip(told, proved, strict=True)):
            check_same(one, other, f"{where}{number}.")
    # A number one is no `true`.
    elif type(told) is not type(proved) or told != proved:
        raise Wrong(f"it tells another {where[:-1]}")


def parsed(line: str) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise Wrong("a member stands there twice, and who reads which is open")
        return dict(pairs)

    return json.loads(line, object_pairs_hook=members)


def records_in(path: str) -> Iterator[Callable[[dict[str, str]], None]]:
    """What checks each record against the facts."""
    with open(path, encoding="utf-8", newline="") as file:
        if file.read(1) == "{":
            file.seek(0)
            for line in file:
                yield partial(check_audit_event, line)
        else:
            file.seek(0)
            table = csv.reader(file, strict=True)
            if tuple(next(table, COLUMNS)) != COLUMNS:
                raise Wrong("its columns are not those of an export")
            for cells in table:
                yield partial(check_line, cells)


def check(export: str, proofs: str, key: bytes, checkpoints: str | None) -> tuple[int, int, int, dict[str, Any]]:
    """How many records hold, the positions of the first and the last, and the checkpoint. Raises `Wrong`."""
    with open(proofs, encoding="utf-8") as file:
        checkpoint = parsed(file.readline())
        check_signature(checkpoint, key)
        if checkpoints is not None and checkpoint["root"] not in own_roots(checkpoints, checkpoint["size"]):
            raise Wrong("the checkpoint is not among your own copies")
        root = bytes.fromhex(checkpoint["root"])
        first = last = count = 0
        for number, (check_record, line) in enumerate(zip_longest(records_in(export), file), 1):
            if check_record is None or line is None:
                raise Wrong(f"record {number}: the export and its proofs are not of one length")
            try:
                proof = parsed(line)
                row = base64.b64decode(proof["row"], validate=True)
                facts = facts_of(row)
                position = int(facts["position"])
                check_inclusion(row, position - 1, checkpoint["size"], proof["path"], root)
                check_record(facts)
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


def main(arguments: list[str] | None = None) -> int:
    words = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=words[0], epilog=words[2], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("export")
    parser.add_argument("proofs")
    parser.add_argument("--key", required=True, help="a file with the public key, 64 hex digits")
    parser.add_argument("--checkpoints", help="your own copy of the checkpoints")
    asked = parser.parse_args(arguments)
    try:
        with open(asked.key, encoding="ascii") as file:
            key = bytes.fromhex(file.read().strip())
        count, first, last, checkpoint = check(asked.export, asked.proofs, key, asked.checkpoints)
    except Wrong as wrong:
        print(f"WRONG: {wrong}.")
        return 1
    except MALFORMED as error:
        print(f"WRONG: something is not of the right form ({type(error).__name__}: {error}).")
        return 1
    signed = f"signed {checkpoint['signed_at']} over {checkpoint['size']} events"
    print(f"{count} records are in the log as it was {signed}.")
    if count:
        left_out = last - first + 1 - count
        print(f"They are positions {first} to {last}, {left_out or 'none'} of these left out.")
    print("Not proved, since no row holds them: sentences in English, network addresses, user agents.")
    return 0


if __name__ == "__main__":
    sys.exit(main())

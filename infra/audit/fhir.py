"""An event of the log as a FHIR R4 AuditEvent (https://hl7.org/fhir/R4/auditevent.html), or as a line of CSV.

In: a row of the log with its event. Out: a resource, JSON-ready. All of it but the sentence and the network address
follows from the row, which a proof can stand for: `check_proof.py` makes it from the row's bytes in the same way, and
compares.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from domain.ports import Recorded
from infra.audit import check_proof
from infra.audit.telling import told

_AS_THEY_ARE = ("organization", "stream", "actor", "on_behalf_of", "purpose")
_AS_WORDS = ("position", "version", "event_id", "command_id", "correlation_id", "causation_id")


def audit_event(recorded: Recorded, name: str, address: str | None = None) -> dict[str, Any]:
    """`name` is the event's as the log has it. `address` is the network address of the origin, where its seal was
    opened."""
    resource = check_proof.audit_event(_facts(recorded, name))
    resource["outcomeDesc"] = told(recorded)
    if address:
        # 2: an IP address (https://hl7.org/fhir/R4/valueset-network-type.html).
        resource["agent"][0]["network"] = {"address": address, "type": "2"}
    return resource


def csv_line(recorded: Recorded, name: str) -> dict[str, str]:
    """The cells, by `check_proof.COLUMNS`; those of an origin are left out."""
    return {**check_proof.csv_line(_facts(recorded, name)), "sentence": told(recorded)}


def _facts(recorded: Recorded, name: str) -> dict[str, str]:
    """As `check_proof.facts_of` reads them off the row."""
    facts: dict[str, Any] = {
        "name": name,
        "recorded_at": recorded.recorded_at.isoformat(),
        "occurred_at": recorded.occurred_at.isoformat(),
        **{key: getattr(recorded, key) for key in (*_AS_THEY_ARE, *_AS_WORDS)},
    }
    patient = getattr(recorded.event, "patient_id", None)
    if isinstance(patient, UUID):
        facts["patient_id"] = patient
    return {key: str(value) for key, value in facts.items() if value is not None}

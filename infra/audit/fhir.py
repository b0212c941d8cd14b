"""An event of the log as a FHIR R4 AuditEvent (https://hl7.org/fhir/R4/auditevent.html).

In: a row of the log with its event. Out: a resource, JSON-ready. Everything in it but the network address follows from
the row, which a proof can stand for: `check_proof.py` reads it off both and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from domain.look import LogUnsealed, RecordSeen
from domain.ports import Recorded
from domain.purpose import Purpose
from infra.audit.telling import told

_DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
_REASON: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"
_ENTITY: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
# Names of our own; `urn:daybook:` is no registered namespace, and its names are told by this file alone.
EVENT: Final = "urn:daybook:event"
ACTOR: Final = "urn:daybook:actor"
PATIENT: Final = "urn:daybook:patient"
STREAM: Final = "urn:daybook:stream"

# XSPA's words, in HL7's (value set PurposeOfUse).
PURPOSES: Final[Mapping[str, tuple[str, str]]] = {
    Purpose.TREATMENT: ("TREAT", "treatment"),
    Purpose.PAYMENT: ("HPAYMT", "healthcare payment"),
    Purpose.OPERATIONS: ("HOPERAT", "healthcare operations"),
    Purpose.EMERGENCY: ("ETREAT", "Emergency Treatment"),
    Purpose.REQUEST: ("PATRQT", "patient requested"),
    Purpose.PUBLIC_HEALTH: ("PUBHLTH", "public health"),
    Purpose.RESEARCH: ("HRESCH", "healthcare research"),
    Purpose.SYSTEM_ADMINISTRATION: ("SYSADMIN", "health system administration"),
}

# By the beginning of an event's name: what DICOM calls it. The first that fits counts.
_KINDS: Final = (
    (("SignIn", "Session", "Password", "Totp", "Passkey", "Recovery", "Origin"), ("110114", "User Authentication")),
    (("Account", "Role", "Client", "Mfa", "Proxy", "Glass", "Access", "Consent"), ("110113", "Security Alert")),
    (("LogUnsealed",), ("110101", "Audit Log Used")),
    (("",), ("110110", "Patient Record")),
)
# Past participles that end something, and those that only carry it out.
_DELETES: Final = ("Erased", "Closed", "Removed", "Retired", "EnteredInError")
_EXECUTES: Final = ("SignIn", "Session", "LogUnsealed", "GlassBroken", "ReminderSent")


def audit_event(recorded: Recorded, name: str, address: str | None = None) -> dict[str, Any]:
    """`name` is the event's as the log has it. `address` is the network address of the origin, where its seal was
    opened."""
    resource: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "id": str(recorded.event_id),
        "type": _kind(name),
        "subtype": [{"system": EVENT, "code": name}],
        "action": action(recorded),
        "recorded": recorded.recorded_at.isoformat(),
        # The log holds what was done; what was refused and is recorded all the same says so by its name.
        "outcome": "4" if name.startswith(("SignInFailed", "AccessRefused", "ErasureRefused")) else "0",
        "outcomeDesc": told(recorded),
        "agent": _agents(recorded, address),
        "source": {"site": recorded.organization, "observer": {"display": "Daybook"}},
        "entity": _entities(recorded),
    }
    if recorded.purpose is not None:
        code, display = PURPOSES.get(recorded.purpose, (None, None))
        concept: dict[str, Any] = {"text": recorded.purpose}
        if code is not None:
            concept["coding"] = [{"system": _REASON, "code": code, "display": display}]
        resource["purposeOfEvent"] = [concept]
    return resource


def action(recorded: Recorded) -> str:
    """C, R, U, D or E (https://hl7.org/fhir/R4/valueset-audit-event-action.html)."""
    event = recorded.event
    kind = type(event).__name__
    if isinstance(event, RecordSeen):
        return "R"
    if isinstance(event, LogUnsealed) or kind.startswith(_EXECUTES):
        return "E"
    if kind.endswith(_DELETES):
        return "D"
    return "C" if recorded.version == 1 else "U"


def _kind(name: str) -> dict[str, str]:
    code, display = next(kind for beginnings, kind in _KINDS if name.startswith(beginnings))
    return {"system": _DICOM, "code": code, "display": display}


def _agents(recorded: Recorded, address: str | None) -> list[dict[str, Any]]:
    asker: dict[str, Any] = {
        "who": {"identifier": {"system": ACTOR, "value": recorded.actor}},
        "altId": recorded.actor,
        "requestor": True,
    }
    if address:
        # 2: an IP address (https://hl7.org/fhir/R4/valueset-network-type.html).
        asker["network"] = {"address": address, "type": "2"}
    if recorded.on_behalf_of is None:
        return [asker]
    behalf = {"identifier": {"system": PATIENT, "value": recorded.on_behalf_of}}
    return [asker, {"who": behalf, "requestor": False}]


def _entities(recorded: Recorded) -> list[dict[str, Any]]:
    details = {
        "position": recorded.position,
        "version": recorded.version,
        "command_id": recorded.command_id,
        "correlation_id": recorded.correlation_id,
        "causation_id": recorded.causation_id,
        "occurred_at": recorded.occurred_at.isoformat(),
    }
    entities: list[dict[str, Any]] = [
        {
            "what": {"identifier": {"system": STREAM, "value": recorded.stream}},
            "type": {"system": _ENTITY, "code": "2", "display": "System Object"},
            "role": {"system": _ROLE, "code": "4", "display": "Domain Resource"},
            "detail": [{"type": key, "valueString": str(value)} for key, value in details.items() if value is not None],
        }
    ]
    patient = getattr(recorded.event, "patient_id", None)
    if isinstance(patient, UUID):
        entities.append(
            {
                "what": {"identifier": {"system": PATIENT, "value": str(patient)}},
                "type": {"system": _ENTITY, "code": "1", "display": "Person"},
                "role": {"system": _ROLE, "code": "1", "display": "Patient"},
            }
        )
    return entities

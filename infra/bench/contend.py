"""A thousand clients after one slot: one wins, the others hear clearly that it is taken, nobody gets an error."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

from pydantic_core import from_json, to_json

from infra.bench.load import drive, request
from infra.bench.served import daybook, open_clinic

CLIENTS = 1000


def run(size: float = 1.0) -> dict[str, Any]:
    clients = max(50, int(CLIENTS * size))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, max(4096, clients + 200)), most))
    with daybook("contend") as served:
        clinic = open_clinic(served, providers=1, patients=clients)
        wanted = [
            request(
                "POST",
                "/write/appointments",
                token=served.token,
                body=to_json(
                    {
                        "patient_id": patient,
                        "provider_id": clinic.providers[0],
                        "location_id": clinic.location_id,
                        "visit_type_id": clinic.visit_type_id,
                        "start": clinic.first,
                    }
                ),
            )
            for patient in clinic.patients
        ]
        measured = asyncio.run(drive("127.0.0.1", served.port, wanted, clients=clients, keep_bodies=True))
    answers = [from_json(body) for body in measured.bodies]
    refused = sum(1 for one in answers if one.get("code") == "slot_taken" and len(one.get("alternatives", ())) == 3)
    winners = measured.statuses[201]
    return {
        "figure": winners,
        "unit": "winners",
        "baseline": 1,
        "ratio": float(winners),
        "holds": winners == 1 and refused == clients - 1,
        "details": {
            "clients": clients,
            "clear_refusals_with_three_alternatives": refused,
            "errors": clients - winners - refused,
            "seconds": round(measured.seconds, 2),
            "p99_ms": round(1000 * measured.percentile(0.99)),
        },
    }

"""Who stands in for a patient: granted, ended, given up."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

from fastapi import APIRouter
from starlette.responses import Response

from commands.proxies import EndProxy, GiveUpProxy, GrantProxy
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["proxies"])

GRANT: Final = Body(GrantProxy, "patient_id")
END: Final = Body(EndProxy, "patient_id", "proxy_id")
GIVE_UP: Final = Body(GiveUpProxy, "patient_id", "proxy_id")

_GRANT: Final[dict[str, Any]] = {
    "proxy_patient_id": "019a0000-0000-7000-8000-00000000000b",
    "basis": "consent",
    "allows": ["read", "book"],
    "until": "2030-03-01T00:00:00+01:00",
}


class ProxyAnswer(Answered):
    patient_id: UUID
    proxy_id: UUID


class GrantedProxy(ProxyAnswer):
    """From now on until then, unless it is ended earlier."""

    until: datetime


@router.post(
    "/patients/{patient_id}/proxies",
    response_model=GrantedProxy,
    **takes(
        GRANT,
        status=201,
        refusals=(404, 409),
        located=True,
        examples={
            "Somebody the patient trusts": _GRANT,
            "A parent, as the desk has seen": {
                **_GRANT,
                "basis": "parent_of_minor",
                "document": "Birth certificate, shown on 3 March",
            },
        },
    ),
)
async def grant_proxy(patient_id: UUID, asked: Asked) -> Response:
    """Let somebody read or book for a patient, until a stated end.

    A patient grants by consent; front desk and administrators record what holds by law, with where it is written down.
    Nobody who stands in may let others do so. Needs a fresh sign-in.
    """
    command = await asked.read(GRANT, patient_id=patient_id)
    return await asked.take(command, status=201, made="patients/{patient_id}/proxies")


@router.post(
    "/patients/{patient_id}/proxies/{proxy_id}/end",
    response_model=ProxyAnswer,
    **takes(END, refusals=(404, 409), examples={"The patient withdrew it": {"reason": "withdrawn"}}),
)
async def end_proxy(patient_id: UUID, proxy_id: UUID, asked: Asked) -> Response:
    """End it at once. The patient, front desk and administrators."""
    return await asked.take(await asked.read(END, patient_id=patient_id, proxy_id=proxy_id))


@router.post(
    "/patients/{patient_id}/proxies/{proxy_id}/give-up",
    response_model=ProxyAnswer,
    **takes(GIVE_UP, refusals=(404, 409)),
)
async def give_up_proxy(patient_id: UUID, proxy_id: UUID, asked: Asked) -> Response:
    """Stand in no longer. Whoever stands in."""
    return await asked.take(await asked.read(GIVE_UP, patient_id=patient_id, proxy_id=proxy_id))

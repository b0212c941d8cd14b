"""The apps and systems that may get tokens; from the log, as it is at this moment."""

from __future__ import annotations

from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from domain import client
from domain.client import Details
from read_api.asking import Asked
from read_api.describing import answers
from read_api.folding import folded

router = APIRouter(tags=["clients"])


class ClientView(BaseModel):
    client_id: UUID
    details: Details


class Clients(BaseModel):
    """Those that were not removed, the latest first."""

    clients: list[ClientView]


@router.get("/clients", response_model=Clients, **answers())
async def read_clients(asked: Asked) -> Response:
    """What apps and systems are registered. Administrators."""
    asked.may("read_clients")
    log = asked.library.log
    head = await log.head()
    names = await log.streams(asked.organization, *client.streams())
    found = await log.load(asked.organization, dict.fromkeys(names, 0), upto=head)
    states = [folded(client.evolve, found[name]) for name in reversed(names)]
    shown = [
        ClientView(client_id=state.id, details=state.details)
        for state in states
        if state is not None and not state.removed
    ]
    return asked.answer(Clients(clients=shown), head)

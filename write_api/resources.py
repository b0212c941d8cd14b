"""Rooms and devices, and the times of anybody that are not to be booked."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from commands.resources import BlockTimes, RegisterResource, RetireResource
from write_api.asking import Asked
from write_api.bodies import Body
from write_api.describing import Answered, takes

router = APIRouter(tags=["resources"])

REGISTER: Final = Body(RegisterResource)
RETIRE: Final = Body(RetireResource, "resource_id")
BLOCK: Final = Body(BlockTimes)


class ResourceAnswer(Answered):
    resource_id: UUID


class BlockMade(BaseModel):
    block_id: UUID
    resource_id: UUID


class BlocksAnswer(Answered):
    """The blocks that were set, in the order asked for."""

    blocks: list[BlockMade]


@router.post(
    "/resources",
    response_model=ResourceAnswer,
    **takes(REGISTER, status=201, located=True, examples={"A room": {"kind": "room", "name": "Room 1"}}),
)
async def register_resource(asked: Asked) -> Response:
    """Make a room or device known, so that visits can take it. Front desk and administrators."""
    return await asked.take(await asked.read(REGISTER), status=201, made="resources/{resource_id}")


@router.post("/resources/{resource_id}/retire", response_model=ResourceAnswer, **takes(RETIRE, refusals=(404, 409)))
async def retire_resource(resource_id: UUID, asked: Asked) -> Response:
    """Take a room or device out of use: no new visit may name it, those booked stand."""
    return await asked.take(await asked.read(RETIRE, resource_id=resource_id))


@router.post(
    "/blocks",
    response_model=BlocksAnswer,
    **takes(
        BLOCK,
        refusals=(404, 409),
        examples={
            "A meeting": {
                "block": [
                    {
                        "resource_id": "019a0000-0000-7000-8000-00000000000d",
                        "period": {"start": "2027-03-01T12:00:00+01:00", "end": "2027-03-01T13:00:00+01:00"},
                        "reason": "meeting",
                    }
                ]
            },
            "Open it again": {
                "unblock": [
                    {
                        "resource_id": "019a0000-0000-7000-8000-00000000000d",
                        "block_id": "019a0000-0000-7000-8000-0000000000b1",
                        "period": {"start": "2027-03-01T12:00:00+01:00", "end": "2027-03-01T13:00:00+01:00"},
                    }
                ]
            },
        },
    ),
)
async def block_times(asked: Asked) -> Response:
    """Keep times of providers, rooms or devices from being booked, or open them again: a whole batch or nothing of it.

    Over booked visits this is refused with `time_in_use` and their ids, unless `over_visits` insists; the visits then
    stand until they are moved or cancelled.
    """
    return await asked.take(await asked.read(BLOCK))

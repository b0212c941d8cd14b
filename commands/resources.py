"""Rooms and devices, and what keeps a time from being booked: blocks and outside busy time, in batches."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Self
from uuid import UUID

from pydantic import Field, model_validator

from commands.access import reach
from commands.loop import PROVIDER, RESOURCE, Command, Decision, Reading, handles
from domain import availability, resource
from domain.access import Actor
from domain.availability import BlockReason, page_stream
from domain.events import Event
from domain.provider import ResourceKind, Value, Words
from domain.refusals import Unknown
from domain.resource import ResourceRegistered
from domain.time import Period

LONGEST_BLOCK = timedelta(days=31)


class RegisterResource(Command):
    kind: ResourceKind
    name: Words


class RetireResource(Command):
    resource_id: UUID


class Block(Value):
    """A time of a provider, room or device that is not to be booked."""

    resource_id: UUID
    period: Period
    reason: BlockReason = BlockReason.OTHER
    over_visits: bool = False

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.period.length > LONGEST_BLOCK:
            raise ValueError("a block is at most 31 days; plan time off for longer")
        return self


class Unblock(Value):
    resource_id: UUID
    block_id: UUID
    period: Period

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.period.length > LONGEST_BLOCK:
            raise ValueError("a block is at most 31 days, so its period is too")
        return self


class BlockTimes(Command):
    """Blocks set and taken away in one batch, all or nothing."""

    block: Annotated[tuple[Block, ...], Field(max_length=100)] = ()
    unblock: Annotated[tuple[Unblock, ...], Field(max_length=100)] = ()

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not (self.block or self.unblock):
            raise ValueError("nothing to do: give `block` or `unblock`")
        return self


@handles(RegisterResource, "register_resource")
async def register_resource(command: RegisterResource, reading: Reading, actor: Actor) -> Decision:
    resource_id = reading.desk.ids.new()
    event = ResourceRegistered(resource_id=resource_id, kind=command.kind, name=command.name)
    return Decision([(resource.stream(resource_id), event)], {"resource_id": str(resource_id)})


@handles(RetireResource, "register_resource")
async def retire_resource(command: RetireResource, reading: Reading, actor: Actor) -> Decision:
    state = await reading.get(RESOURCE, command.resource_id)
    return Decision([(resource.stream(state.id), resource.retire(state))], {"resource_id": str(state.id)})


@handles(BlockTimes, "block_time")
async def block_times(command: BlockTimes, reading: Reading, actor: Actor) -> Decision:
    owners = [*(one.resource_id for one in command.block), *(one.resource_id for one in command.unblock)]
    for owner in dict.fromkeys(owners):
        await _known(owner, reading, actor)
    gone = [(one, await _whole(one, reading)) for one in command.unblock]
    pages = [(one.resource_id, day) for one, period in gone for day in period.utc_days()]
    pages += [(one.resource_id, day) for one in command.block for day in one.period.utc_days()]
    shelf = await reading.pages(pages)
    changes: list[tuple[str, Event]] = []
    for one, period in gone:
        for event in list(availability.unblock(shelf, one.resource_id, one.block_id, period)):
            shelf.apply(event)
            changes.append((page_stream(event.resource_id, event.day), event))
    blocks = []
    for wanted in command.block:
        block_id = reading.desk.ids.new()
        for set_event in availability.block(
            shelf,
            wanted.resource_id,
            wanted.period,
            block_id=block_id,
            reason=wanted.reason,
            over_visits=wanted.over_visits,
            now=reading.now,
        ):
            changes.append((page_stream(set_event.resource_id, set_event.day), set_event))
        blocks.append({"block_id": str(block_id), "resource_id": str(wanted.resource_id)})
    return Decision(changes, {"blocks": blocks})


async def _whole(unblock: Unblock, reading: Reading) -> Period:
    """The whole time of a block, of which the request may name a part: all its pages are to change."""
    shelf = await reading.glance((unblock.resource_id, day) for day in unblock.period.utc_days())
    entries = shelf.entries(unblock.resource_id, unblock.period)
    return next((entry.occupied for entry in entries if entry.id == unblock.block_id), unblock.period)


async def _known(owner: UUID, reading: Reading, actor: Actor) -> None:
    await reading.both((PROVIDER, owner), (RESOURCE, owner))
    if await reading.find(PROVIDER, owner) is not None:
        await reach(reading, actor, "block_time", provider_id=owner)
    elif await reading.find(RESOURCE, owner) is not None:
        await reach(reading, actor, "block_time")
    else:
        raise Unknown("no provider, room or device has this id", id=str(owner))

"""What a day of many bookings does to an installation, played through on paper.

In: what one command costs in each part (measured), how many of each part there are, and how commands come over the day.
Out: how busy each part is and how long things take at the worst minute. Pure: no clock, and chance from a seed.

Parts are queues. An API process serves one command after another. The log's writer, the relay and a worker take
whatever waits as one batch, so that each batch costs a fixed time and a little for each of what is in it: under load
their batches grow, and the fixed cost is shared. That is how the real ones work, and why they bend late.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

# Share of a day's bookings by the hour at which they are made, 06:00 to 20:59: 110,527 real ones of 27 April to
# 8 June 2016 in one city (the "Medical Appointment No Shows" table), so the peak is not smoothed by other time zones.
BY_HOUR: Mapping[int, float] = {
    6: 0.0143, 7: 0.1738, 8: 0.1389, 9: 0.1160, 10: 0.1000, 11: 0.0766, 12: 0.0491, 13: 0.0818,
    14: 0.0826, 15: 0.0731, 16: 0.0501, 17: 0.0263, 18: 0.0121, 19: 0.0044, 20: 0.0009,
}  # fmt: skip
# The busiest minute of the busiest day there, against the mean minute of its busiest hour.
RUSH = 31 / (871 / 60)
# More than this share of what a part can do leaves nothing for a part that fails.
_FULL: Final = 0.7


@dataclass(frozen=True, slots=True)
class Batches:
    """A part that works in batches: seconds for each, seconds for each item in it, and the most it takes at once."""

    fixed: float
    each: float
    most: int

    @property
    def capacity(self) -> float:
        """Items a second, when every batch is full."""
        return self.most / (self.fixed + self.most * self.each)


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of work. `command` is an API process's for one command; the log counts saves, the relay and the workers
    count events. `events` is how many events a command writes, on average."""

    command: float
    events: float
    log: Batches
    relay: Batches
    workers: Mapping[str, Batches]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many there are of each part. `logs` are independent logs, one a tenant group; each has a relay of its own.
    `workers` is by read model, for each log."""

    apis: int
    logs: int
    workers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """One part at the worst minute: `busy` is what is asked of it, as a share of the most that it can do, and seconds
    from arrival to done."""

    busy: float
    p50: float
    p99: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """`parts` by name. `answered` is from request to acknowledgement, `visible` from there to each read model."""

    parts: Mapping[str, Seen]
    answered_p99: float
    visible_p99: Mapping[str, float]

    @property
    def first_to_saturate(self) -> str:
        return max(self.parts, key=lambda name: self.parts[name].busy)


def peak(commands_a_day: float) -> float:
    """Commands a second in the busiest minute of a day with so many."""
    return commands_a_day * max(BY_HOUR.values()) / 3600 * RUSH


def rushing(commands_a_day: float, seconds: float, seed: int) -> Iterator[float]:
    """When commands come, in seconds: `seconds` of the busiest hour, the last quarter at the busiest minute's rate."""
    chance = random.Random(seed)  # noqa: S311 - a simulation
    usual, worst = peak(commands_a_day) / RUSH, peak(commands_a_day)
    now = 0.0
    while True:
        now += chance.expovariate(worst if now >= seconds * 0.75 else usual)
        if now >= seconds:
            return
        yield now


def asked(costs: Costs, plan: Plan, commands_a_day: float) -> Mapping[str, float]:
    """What the worst minute asks of each part, by name, as a share of the most that it can do."""
    capacities = {
        "api": plan.apis / costs.command,
        "log": plan.logs * costs.log.capacity,
        "relay": plan.logs * costs.relay.capacity / costs.events,
    } | {
        f"worker {name}": plan.logs * plan.workers[name] * cost.capacity / costs.events
        for name, cost in costs.workers.items()
    }
    return {name: round(peak(commands_a_day) / capacity, 3) for name, capacity in capacities.items()}


def played(costs: Costs, plan: Plan, commands_a_day: float, *, seconds: float = 120.0, seed: int = 1) -> Outcome:
    """Play the worst part of a day through."""
    chance = random.Random(seed + 1)  # noqa: S311 - a simulation
    arrivals = list(rushing(commands_a_day, seconds, seed))
    late = [i for i, at in enumerate(arrivals) if at >= seconds * 0.75]
    parts: dict[str, Seen] = {}

    busy = asked(costs, plan, commands_a_day)

    def seen(name: str, came: Sequence[float], done: Sequence[float]) -> None:
        took = [done[i] - came[i] for i in late]
        parts[name] = Seen(busy[name], _percentile(took, 0.5), _percentile(took, 0.99))

    served = _served(arrivals, plan.apis, costs.command, chance)
    seen("api", arrivals, served)

    # A clinic's commands all go to one log.
    places = [chance.randrange(plan.logs) for _ in arrivals]
    saved, published = [0.0] * len(arrivals), [0.0] * len(arrivals)
    worked = {name: [0.0] * len(arrivals) for name in costs.workers}
    for log in range(plan.logs):
        mine = [i for i, place in enumerate(places) if place == log]
        _batched(mine, served, costs.log, 1.0, saved)
        _batched(mine, saved, costs.relay, costs.events, published)
        for name, cost in costs.workers.items():
            dealt: list[list[int]] = [[] for _ in range(plan.workers[name])]
            for i in mine:
                dealt[chance.randrange(len(dealt))].append(i)
            for some in dealt:
                _batched(some, published, cost, costs.events, worked[name])
    seen("log", served, saved)
    seen("relay", saved, published)
    for name, done in worked.items():
        seen(f"worker {name}", published, done)
    return Outcome(
        parts,
        _percentile([saved[i] - arrivals[i] for i in late], 0.99),
        {name: _percentile([done[i] - saved[i] for i in late], 0.99) for name, done in worked.items()},
    )


def enough(costs: Costs, commands_a_day: float, *, answered: float = 0.1, visible: float = 1.0) -> tuple[Plan, Outcome]:
    """The smallest plan, or close to it, that at the worst minute asks no part for more than seven tenths of what it
    can do, and no more than half of that where 99 of 100 commands are not answered within `answered` seconds, or not
    shown within `visible` more."""
    plan = Plan(1, 1, dict.fromkeys(costs.workers, 1))

    def more(late_answers: bool, late_models: Container[str]) -> Plan | None:
        """One more of what has too much to do; None when nothing has. What is late may be asked for half."""
        busy = asked(costs, plan, commands_a_day)
        slow = [
            name
            for name in costs.workers
            # One that waits for its batches more than it works is not made quicker by another beside it.
            if busy[f"worker {name}"] > (_FULL / 2 if name in late_models else _FULL)
        ]
        if max(busy["log"], busy["relay"]) > _FULL:
            return replace(plan, logs=plan.logs + 1)
        if busy["api"] > (_FULL / 2 if late_answers else _FULL):
            return replace(plan, apis=plan.apis + 1)
        if slow:
            return replace(plan, workers={**plan.workers, **{name: plan.workers[name] + 1 for name in slow}})
        return None

    # Playing takes seconds; what is asked for too much however quick it is need not be played.
    while larger := more(False, ()):
        plan = larger
    while True:
        outcome = played(costs, plan, commands_a_day, seconds=60.0)
        late = {name for name, seconds in outcome.visible_p99.items() if seconds > visible}
        larger = more(outcome.answered_p99 > answered, late)
        if larger is None:
            return plan, outcome
        plan = larger


def _served(arrivals: Sequence[float], servers: int, cost: float, chance: random.Random) -> list[float]:
    """When each is done, by the first server that is free. Half of the cost is the same for all, half varies."""
    free = [0.0] * servers
    heapq.heapify(free)
    done = []
    for at in arrivals:
        start = max(at, heapq.heappop(free))
        end = start + cost / 2 + chance.expovariate(2 / cost)
        heapq.heappush(free, end)
        done.append(end)
    return done


def _batched(who: Sequence[int], came: Sequence[float], cost: Batches, weight: float, done: list[float]) -> None:
    """Serve those who wait, in the order in which they came, in batches. Each weighs `weight` items."""
    waiting = sorted(who, key=came.__getitem__)
    most = max(1, int(cost.most / weight))
    free, start = 0.0, 0
    while start < len(waiting):
        begin = max(free, came[waiting[start]])
        end = start + 1
        while end < len(waiting) and end - start < most and came[waiting[end]] <= begin:
            end += 1
        free = begin + cost.fixed + (end - start) * weight * cost.each
        for i in waiting[start:end]:
            done[i] = free
        start = end


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

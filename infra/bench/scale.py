"""How far an installation goes: what a booking costs in each part, measured, and days of many bookings played through.

The costs come from the full stack on this machine at half its top load (`lag`), and from the log alone (`append`); the
simulation says what the worst minute of a day needs, up to ten million bookings and beyond (docs/scale.md).
"""

from __future__ import annotations

from typing import Any, Final

from infra.bench import append
from infra.bench.lag import missing_parts, on_the_full_stack
from infra.bench.simulation import Batches, Costs, Outcome, Plan, enough, peak, played

DAYS: Final = (100_000, 1_000_000, 3_000_000, 10_000_000, 30_000_000)
TARGET: Final = 10_000_000
# A plain visit: the appointment, and a page each of the provider and the patient.
_EVENTS: Final = 3
# The relay's largest transaction, a fetch of a worker, and what one commit of the log gathers.
_RELAYED, _FETCHED, _SAVED = 1_000, 5_000, 256
# A commit that gathers nothing waits for the disk all the same.
_COMMIT: Final = 0.003
# Parts that are processes of ours; the rest are stores.
_OURS: Final = ("serve", "relay", "work-", "jobs")


def run(size: float = 1.0) -> dict[str, Any] | None:
    """`figure` is how many times the day of ten million bookings one log takes at its worst minute, at seven tenths of
    what it can do; None where the full stack is not to be had."""
    if missing_parts() is not None:
        return None
    measured = on_the_full_stack(size)
    saves = append.run(min(size, 0.3))
    costs = costs_of(measured, float(saves["figure"]))
    room = 0.7 * costs.log.capacity / peak(TARGET)
    days = {f"{bookings:,}": _day(costs, bookings, measured["processor_ms_a_booking"]) for bookings in DAYS}
    return {
        "figure": round(room, 2),
        "unit": "days of ten million bookings that one log takes",
        "baseline": 1,
        "ratio": round(room, 2),
        "holds": room >= 1,
        "details": {
            "processor_ms_a_booking": measured["processor_ms_a_booking"],
            "relay_transaction_s": measured["relay_transaction_s"],
            "saves_per_second": saves["figure"],
            "one_of_each_saturates_at_bookings_a_second": _ceilings(costs),
            "days": days,
        },
    }


def costs_of(measured: dict[str, Any], saves_per_second: float) -> Costs:
    """Seconds, from what `lag` and `append` measured."""
    processor = {name: value / 1000 for name, value in measured["processor_ms_a_booking"].items()}
    calm = measured["loads"]["0.25"]["p50_visible_s"]
    relay = measured["relay_transaction_s"]
    return Costs(
        command=processor["serve"],
        events=_EVENTS,
        log=Batches(_COMMIT, 1 / saves_per_second, _SAVED),
        relay=Batches(relay, processor["relay"] / _EVENTS, _RELAYED),
        workers={
            name.removeprefix("work-"): Batches(
                # What a calm worker takes, but for its share of the processor: fetching, lingering, writing.
                max(0.002, calm[name.removeprefix("work-")] - relay),
                value / _EVENTS,
                _FETCHED,
            )
            for name, value in processor.items()
            # A booking shows in no other model.
            if name.startswith("work-") and name.removeprefix("work-") in calm
        },
    )


def _ceilings(costs: Costs) -> dict[str, int]:
    """Bookings a second at which one process of each part has no room left, the lowest first."""
    outcome = played(costs, Plan(1, 1, dict.fromkeys(costs.workers, 1)), 1_000_000, seconds=4.0)
    rate = peak(1_000_000)
    ceilings = {name: round(rate / seen.busy) for name, seen in outcome.parts.items() if seen.busy}
    return dict(sorted(ceilings.items(), key=lambda item: item[1]))


def _day(costs: Costs, bookings: int, processor: dict[str, float]) -> dict[str, Any]:
    plan, outcome = enough(costs, bookings)
    rate = peak(bookings)
    return {
        "worst_minute_bookings_per_second": round(rate),
        "processes": {"api": plan.apis, "logs": plan.logs, "relay": plan.logs, **_workers(plan)},
        "cores": {
            "ours": round(sum(value for name, value in processor.items() if name.startswith(_OURS)) * rate / 1000, 1),
            "stores": round(
                sum(value for name, value in processor.items() if not name.startswith(_OURS)) * rate / 1000, 1
            ),
        },
        **_told(outcome),
    }


def _workers(plan: Plan) -> dict[str, int]:
    return {f"work {name}": count * plan.logs for name, count in plan.workers.items()}


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "p99_answered_ms": round(1000 * outcome.answered_p99, 1),
        "p99_visible_ms": {name: round(1000 * value) for name, value in outcome.visible_p99.items()},
        "busiest": outcome.first_to_saturate,
    }

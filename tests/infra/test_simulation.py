"""The simulation behind docs/scale.md: it keeps what is known of queues."""

from __future__ import annotations

from dataclasses import replace

import pytest

from infra.bench.simulation import BY_HOUR, Batches, Costs, Plan, enough, peak, played, rushing

FREE = Batches(0.0, 1e-9, 1_000_000)
COSTS = Costs(
    command=0.001,
    events=3,
    log=Batches(0.003, 0.00005, 500),
    relay=Batches(0.01, 0.00003, 1000),
    workers={"diary": Batches(0.01, 0.0001, 2000)},
)
ONE = Plan(apis=1, logs=1, workers={"diary": 1})


def test_the_day_is_whole_and_its_worst_minute_stands_out() -> None:
    assert sum(BY_HOUR.values()) == pytest.approx(1, abs=0.001)
    assert peak(10_000_000) == pytest.approx(1031, abs=1)
    arrivals = list(rushing(10_000_000, 60, seed=5))
    assert arrivals == sorted(arrivals)
    worst = sum(at >= 45 for at in arrivals) / 15
    assert worst == pytest.approx(peak(10_000_000), rel=0.05)


def test_an_idle_part_takes_its_own_time_and_no_more() -> None:
    outcome = played(COSTS, ONE, 10_000)
    assert outcome.parts["log"].p50 == pytest.approx(0.00305, rel=0.01)
    assert outcome.parts["relay"].p50 == pytest.approx(0.01 + 3 * 0.00003, rel=0.01)
    assert outcome.parts["worker diary"].p50 == pytest.approx(0.01 + 3 * 0.0001, rel=0.01)


def test_one_server_waits_as_theory_says() -> None:
    # Pollaczek and Khinchine: the mean wait in M/G/1. Service is half fixed, half exponential, so its variance is a
    # quarter of its mean squared. At this load the middle of the wait is close to the mean of an exponential's.
    rate, mean = peak(4_000_000), 0.001
    load = rate * mean
    wait = rate * mean**2 * 1.25 / (2 * (1 - load))
    costs = replace(COSTS, log=FREE, relay=FREE, workers={})
    plan = Plan(1, 1, {})
    seen = [played(costs, plan, 4_000_000, seconds=400, seed=seed).parts["api"] for seed in range(3)]
    assert sum(one.p50 for one in seen) / 3 == pytest.approx(wait + mean, rel=0.35)
    assert all(one.busy == pytest.approx(load, abs=0.001) for one in seen)


def test_batches_share_their_fixed_cost_under_load() -> None:
    # Three milliseconds each would allow 333 a second; in batches the log takes thirty times that.
    assert COSTS.log.capacity > 10_000
    costs = replace(COSTS, command=1e-6)
    outcome = played(costs, ONE, 20_000_000, seconds=20)
    assert outcome.parts["log"].p99 < 0.02
    assert outcome.visible_p99["diary"] < 0.5


def test_too_little_of_a_part_is_seen_and_mended() -> None:
    short = played(COSTS, ONE, 20_000_000, seconds=20)
    assert short.first_to_saturate == "api"
    assert short.answered_p99 > 1
    plan, outcome = enough(COSTS, 20_000_000)
    assert plan.apis > 2
    assert outcome.answered_p99 < 0.1
    assert all(seen.busy <= 0.7 for seen in outcome.parts.values())


def test_the_same_seed_plays_the_same_day() -> None:
    assert played(COSTS, ONE, 1_000_000, seconds=10) == played(COSTS, ONE, 1_000_000, seconds=10)

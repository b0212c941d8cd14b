"""A token checked on each request: known already, and never seen before; against a bare `jwt.decode` of the same token,
in the same run. What has ended is looked up each time, among as many endings as a busy day leaves in memory."""

from __future__ import annotations

import os
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import jwt

from domain.access import Role
from infra.http.tokens import WRITE, Bearers, Caller, SigningKey, mint
from infra.revocations import Ended, holds

CHECKS = 200_000
COLD = 2_000
ENDINGS = 20_000
ROUNDS = 5
# Microseconds, warm.
HOLD = 100.0


def run(size: float = 1.0) -> dict[str, Any]:
    key = SigningKey(os.urandom(32))
    ended: OrderedDict[tuple[str, str], Ended] = OrderedDict(
        (("bench", str(uuid4())), Ended(time.time(), 1)) for _ in range(ENDINGS)
    )

    def gone(caller: Caller, made: float) -> bool:
        return not holds(ended, {}, caller, made)

    known = _token(key)
    bearers = Bearers({key.id: key.public}, WRITE, ended=gone)
    header = f"Bearer {known}"
    fresh = [f"Bearer {_token(key)}" for _ in range(max(ROUNDS, int(COLD * size)))]
    options = {"audience": WRITE, "issuer": "daybook"}

    def bare() -> None:
        jwt.decode(known, key.public, algorithms=["EdDSA"], **options)  # type: ignore[arg-type]

    bearers.check(header)
    checks = max(1000, int(CHECKS * size) // ROUNDS)
    rounds = [
        (
            _microseconds(lambda: bearers.check(header), checks),
            _each([(lambda one=one: bearers.check(one)) for one in fresh[part::ROUNDS]]),  # type: ignore[misc]
            _microseconds(bare, max(200, checks // 50)),
        )
        for part in range(ROUNDS)
    ]
    warm, cold, baseline = (statistics.median(times) for times in zip(*rounds, strict=True))
    return {
        "figure": round(warm, 2),
        "unit": "µs a check, warm",
        "baseline": round(baseline, 2),
        "ratio": round(warm / baseline, 4),
        "holds": warm <= HOLD,
        "details": {"cold_us": round(cold, 2), "endings_known": ENDINGS, "baseline_is": "jwt.decode of the same token"},
    }


def _token(key: SigningKey) -> str:
    """One as an app holds it, with all that such tokens say."""
    return mint(
        key,
        role=Role.PATIENT,
        organization="bench",
        subject=str(uuid4()),
        now=datetime.now(UTC),
        lifetime=timedelta(hours=1),
        patient_id=uuid4(),
        account_id=uuid4(),
        session_id=uuid4(),
        client_id=str(uuid4()),
        scopes=("openid", "fhirUser", "patient/Appointment.cruds", "patient/Slot.rs"),
        factors=("pwd", "otp", "mfa"),
        authenticated_at=datetime.now(UTC),
        era=1,
        client_era=0,
    )


def _microseconds(work: Callable[[], object], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times * 1e6


def _each(works: list[Callable[[], object]]) -> float:
    started = time.perf_counter()
    for work in works:
        work()
    return (time.perf_counter() - started) / len(works) * 1e6

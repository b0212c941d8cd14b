"""One process at a time. In: work that must not be done twice at once. Out: its turn, for as long as it is sure.

The turn is a lease of the database. A leader that can't reach it stops its work before another can begin, unless it is
frozen in between: for a moment after it wakes two may be at work. What they do must bear that, or be fenced by what it
writes to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from domain.ports import LogUnavailable
from infra.event_log.lease import Lease
from streams.while_open import WhileOpen

_LOOK_EVERY: Final = 1.0
_HELD_EVERY: Final = 0.25
_log = logging.getLogger("daybook.leadership")


class Leader(WhileOpen):
    """Does `work` while it leads, from entering to leaving; stands by otherwise. An async context manager.

    `unless` are errors of entering `work` that mean: not yet.
    """

    def __init__(
        self,
        dsn: str,
        name: str,
        work: Callable[[], AbstractAsyncContextManager[object]],
        *,
        unless: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._name = name
        self.title = f"leader of {name}"
        self._lease = Lease.named(dsn, name)
        self._work = work
        self._unless = unless
        self.leads = False
        # Why the work ended or could not start, the name of a class; None while all is well.
        self.error: str | None = None
        self.metrics: Collector = _Metrics(self)

    @property
    def name(self) -> str:
        return self._name

    async def _run(self) -> None:
        while True:
            try:
                if await self._lease.take():
                    await self._lead()
            except LogUnavailable:
                _log.warning("%s: the database is out of reach", self._name)
            except self._unless as error:
                _log.warning("%s can't start yet (%s)", self._name, type(error).__name__)
            except Exception as error:  # whatever the work raises: it is tried again, and health tells
                self.error = type(error).__name__
                _log.error("%s does not run (%s)", self._name, self.error)
            finally:
                await self._lease.let_go()
            await asyncio.sleep(_LOOK_EVERY)

    async def _lead(self) -> None:
        """Do the work until the turn is lost."""
        async with self._work():
            self.leads, self.error = True, None
            _log.info("%s: this process leads", self._name)
            try:
                while self._lease.held:  # noqa: ASYNC110 - it ends by the clock
                    await asyncio.sleep(_HELD_EVERY)
            finally:
                self.leads = False
                _log.info("%s: this process leads no more", self._name)


class _Metrics(Collector):
    def __init__(self, leader: Leader) -> None:
        self._leader = leader

    def collect(self) -> Iterable[Metric]:
        leads = GaugeMetricFamily("daybook_leads", "1 while this process has the turn.", labels=["what"])
        leads.add_metric([self._leader.name], int(self._leader.leads))
        yield leads

"""The two houses, each with a collector of traces, talking as much as they can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.local.fetch import ELASTICSEARCH, KAFKA
from tests import needs
from tests.house import EmbeddedHouse, FullHouse, House, running
from tests.observability.collector import Collector, collecting


class _Talkative(House):
    collector: Collector

    @property
    def environ(self) -> dict[str, str]:
        return {
            **super().environ,  # type: ignore[safe-super]
            "DAYBOOK_OTLP_ENDPOINT": self.collector.url,
            "DAYBOOK_LOG_LEVEL": "debug",
            "DAYBOOK_LOG_FORMAT": "json",
        }


class TalkativeEmbeddedHouse(_Talkative, EmbeddedHouse):
    pass


class TalkativeFullHouse(_Talkative, FullHouse):
    pass


@pytest.fixture(scope="package", params=["embedded", "full"])
def watched(request: pytest.FixtureRequest) -> Iterator[tuple[House, Collector]]:
    """A house and what it told the collector."""
    kind: type[House] = TalkativeEmbeddedHouse
    if request.param == "full":
        needs.java(21)
        needs.maven(KAFKA)
        needs.maven(ELASTICSEARCH)
        kind = TalkativeFullHouse
    with collecting() as _Talkative.collector, running(kind) as house:
        yield house, _Talkative.collector

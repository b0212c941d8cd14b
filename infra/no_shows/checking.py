"""Compares the read models with the table. In: counts straight from the file, and those of the facts. Out: where they
differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from infra.no_shows.table import Facts
from projections.facts import LEAD_BANDS


@dataclass(frozen=True, slots=True)
class Check:
    """`agrees` is None where nothing was compared. A difference has what it is of, the file's and the book's figure."""

    agrees: bool | None
    compared: int = 0
    differences: list[dict[str, Any]] = field(default_factory=list)

    def words(self) -> Iterator[str]:
        if self.agrees is None:
            yield "The read models were not compared with the file."
        elif self.agrees:
            yield f"The read models agree with the file in all {self.compared} figures."
        for one in self.differences:
            yield f"The read models differ: {one['of']} is {one['file']:,} in the file and {one['book']:,} in the book."
        if self.differences:
            yield "Other visits may stand in this organization's book on the same days."


def compared(facts: Facts, told: Mapping[str, Any]) -> Check:
    """`told` is what `infra.filling.counted` says of the days of the facts."""
    expected: dict[str, int] = {"messages sent": facts.messages}
    expected |= _named("weekday", [(day + 1, *both) for day, both in facts.by_weekday.items()])
    expected |= _named("lead time from day", _banded(facts.by_lead))
    found: dict[str, int] = {"messages sent": told["messages"]}
    found |= _named("weekday", told["by_weekday"])
    found |= _named("lead time from day", told["by_lead"])
    differences = [
        {"of": name, "file": expected.get(name, 0), "book": found.get(name, 0)}
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name, 0) != found.get(name, 0)
    ]
    return Check(not differences, len(expected), differences)


def _named(what: str, rows: Sequence[Sequence[int]]) -> dict[str, int]:
    return {
        f"{kind}, {what} {key}": count
        for key, visits, no_shows in rows
        for kind, count in (("visits", visits), ("no-shows", no_shows))
    }


def _banded(by_lead: Mapping[int, Sequence[int]]) -> list[tuple[int, int, int]]:
    return [
        (low, sum(both[0] for both in some), sum(both[1] for both in some))
        for low, high in LEAD_BANDS
        if (some := [both for days, both in by_lead.items() if low <= days and (high is None or days <= high)])
    ]

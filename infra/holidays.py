"""Public holidays of the world, from the `holidays` library."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import holidays

from domain.ports import PublicHoliday
from domain.refusals import Invalid


class UnknownPlace(Invalid):
    code = "unknown_holiday_calendar"


class PublicHolidays:
    """The `HolidayCalendar` port. Names are English where the library has them, else the country's own."""

    def between(self, country: str, subdivision: str | None, first: date, last: date) -> Sequence[PublicHoliday]:
        years = range(first.year, last.year + 1)
        try:
            known = holidays.country_holidays(country, subdiv=subdivision or None, years=years)
        except NotImplementedError:
            raise UnknownPlace(
                "no public holidays are known for this country and subdivision",
                country=country,
                subdivision=subdivision,
            ) from None
        return [PublicHoliday(day, name) for day, name in sorted(known.items()) if first <= day <= last]

"""Options that several commands share, each meaning the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def data_option(function: F) -> F:
    option = click.option(
        "--data",
        type=click.Path(path_type=Path, file_okay=False),
        help="The data folder. [default: $DATA, or ./data]",
    )
    return option(function)


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for machines.")(function)


class Duration(click.ParamType):
    """A length of time: `90s`, `15m`, `8h`, `2d`."""

    name = "duration"
    _units: ClassVar = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([1-9]\d{0,8})([smhd])", value)
        if not found:
            self.fail(f"{value!r} is no duration; write 90s, 15m, 8h or 2d", param, ctx)
        return timedelta(**{self._units[found[2]]: int(found[1])})

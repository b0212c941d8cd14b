"""`docs/refusals.md` is what clients read: every code of the house stands there, and nothing else."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

from domain.refusals import Refusal
from infra.http.problems import Refused

ROOMS = ("domain", "commands", "infra.http", "infra.holidays", "write_api", "read_api")
# Said by handlers that have no class of their own for it.
PLAIN = {"unavailable", "idempotency_key_reused"}


def codes() -> set[str]:
    for room in ROOMS:
        module = importlib.import_module(room)
        for found in pkgutil.walk_packages(getattr(module, "__path__", []), f"{room}."):
            importlib.import_module(found.name)

    def below(kind: type[Any]) -> list[type[Any]]:
        return [kind, *(deeper for child in kind.__subclasses__() for deeper in below(child))]

    told = {
        kind.code
        for base in (Refusal, Refused)
        for kind in below(base)
        if "code" in vars(kind) and not kind.__module__.startswith("tests")
    }
    return told - {"refused"} | PLAIN


def test_every_code_stands_on_the_page_and_the_page_names_no_other() -> None:
    page = Path(__file__).parents[1].joinpath("docs", "refusals.md").read_text()
    first_cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {code for cell in first_cells for code in re.findall(r"`([a-z_]+)`", cell)} == codes()

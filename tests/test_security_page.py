"""`docs/security.md` promises what tests show: each that it names is there, and no duty is left without one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT.joinpath("docs", "security.md").read_text("utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)))

HIPAA = (
    "(a)(1)",
    "(a)(2)(i)",
    "(a)(2)(ii)",
    "(a)(2)(iii)",
    "(a)(2)(iv)",
    "(b)",
    "(c)(1)",
    "(c)(2)",
    "(d)",
    "(e)(1)",
    "(e)(2)",
)
GDPR = ("5", "12", "15", "16", "17", "18", "19", "20", "25", "30", "32", "33")


@cache
def functions_of(file: str) -> frozenset[str]:
    path = ROOT / "tests" / file
    if not path.is_file():
        return frozenset()
    nodes = ast.walk(ast.parse(path.read_text("utf-8")))
    return frozenset(node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def rows(heading: str) -> list[list[str]]:
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_every_test_that_the_page_names_is_there(file: str, test: str) -> None:
    assert test in functions_of(file)


@pytest.mark.parametrize(
    ("heading", "duties"), [("HIPAA, 45 CFR 164.312", HIPAA), ("GDPR", GDPR)], ids=["HIPAA", "GDPR"]
)
def test_every_duty_has_its_mechanism_and_its_test(heading: str, duties: tuple[str, ...]) -> None:
    found = rows(heading)
    told = [cells[0] for cells in found]
    for duty in duties:
        assert any(re.match(rf"{re.escape(duty)}(?![0-9])", cell) for cell in told), duty
    for cells in found:
        assert cells[1], cells[0]
        assert "::" in cells[2], f"{cells[0]} names no test"


def test_every_threat_names_its_test() -> None:
    found = rows("What could be tried (STRIDE), and what stands in its way")
    assert {cells[0][:5] for cells in found} == {f"**{letter}**" for letter in "STRIDE"}
    assert [cells[0] for cells in found if "::" not in cells[2]] == []


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link

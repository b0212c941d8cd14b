"""`docs/access.md` is what clinics and auditors read: its table is the one that the book goes by.

`uv run python -m tests.test_access_page` writes the table anew.
"""

from __future__ import annotations

from pathlib import Path

from domain.access import POLICY, ROLES, Reach

PAGE = Path(__file__).parents[1] / "docs" / "access.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"


def table() -> str:
    roles = " | ".join(role.value.replace("_", " ") for role in ROLES)
    lines = [f"| what | scope | {roles} |", "|---|---|" + "---|" * len(ROLES)]
    for what, rule in sorted(POLICY.items()):
        reaches = " | ".join(_told(rule.reach.get(role)) for role in ROLES)
        words = what.replace("_", " ") + (" ¶" if rule.personal else "")
        lines.append(f"| {words} | {f'`{rule.scope}`' if rule.scope else ''} | {reaches} |")
    return "\n".join(lines) + "\n"


def _told(reach: Reach | None) -> str:
    return "" if reach is None else reach.value.replace("_", " ")


def test_the_page_shows_the_table_that_the_book_goes_by() -> None:
    page = PAGE.read_text(encoding="utf-8")
    shown = page.partition(BEGIN)[2].partition(END)[0]
    assert shown == table(), "write it anew: uv run python -m tests.test_access_page"


def test_the_page_says_what_each_reach_means() -> None:
    page = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    untold = [reach.value for reach in Reach if f"**{_told(reach)}**" not in page]
    assert untold == []


if __name__ == "__main__":
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")

"""Cells of a CSV file that strangers wrote. In: their words. Out: the same, that no spreadsheet takes for a formula."""

from __future__ import annotations


def harmless(words: str) -> str:
    """After OWASP's advice on CSV injection: what could begin a formula gets an apostrophe in front."""
    return f"'{words}" if words[:1] in ("=", "+", "-", "@", "\t", "\r") else words

"""As much of ClickHouse's SQL as its HTTP interface must know. In: a request's text. Out: what kind of statement it is,
and for an INSERT with data, where the data begin."""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    rb"""
    (?P<blank>\s+|--[^\n]*|\#[!\ ][^\n]*|/\*.*?\*/)
  | (?P<quoted>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*"|`(?:[^`\\]|\\.|``)*`)
  | (?P<word>[A-Za-z_][A-Za-z0-9_]*)
  | (?P<mark>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_END_OF_HEAD = re.compile(rb"[ \t]*;?[ \t]*(?:\r?\n)?")

_BRACKETS = {b"(": 1, b"[": 1, b"{": 1, b")": -1, b"]": -1, b"}": -1}
_RETURNING = frozenset({"SELECT", "WITH", "SHOW", "DESCRIBE", "DESC", "EXISTS", "EXPLAIN", "CHECK", "VALUES", "FROM"})
_READING = _RETURNING | {"USE", "SET"}


@dataclass(frozen=True, slots=True)
class Statement:
    """`keyword` is the first word, in capitals. `format` is the output format that the statement names. An INSERT whose
    data follow has `data_format`, `data`, and `before_format`: the statement without its format."""

    keyword: str
    format: str | None = None
    data_format: str | None = None
    before_format: bytes = b""
    data: bytes = b""
    more: bool = False

    @property
    def returns(self) -> bool:
        """Whether it has a result, be it without rows."""
        return self.keyword in _RETURNING

    @property
    def reads(self) -> bool:
        return self.keyword in _READING


def read(text: bytes) -> Statement:
    """Walks the words outside quotes, comments and brackets; data that follow an INSERT are not looked into."""
    keyword = ""
    form: str | None = None
    depth = at = 0
    ended = inserts_data = in_settings = False
    after_format: int | None = None
    while (token := _TOKEN.match(text, at)) is not None:
        start, at = token.span()
        if token.lastgroup == "blank":
            continue
        if ended:
            return Statement(keyword, form, more=True)
        word = token[0].decode().upper() if token.lastgroup == "word" else ""
        if word and not keyword:
            keyword, inserts_data = word, word == "INSERT"
        elif word == "FORMAT" and depth == 0:
            after_format = start
            continue
        elif word and after_format is not None:
            form = token[0].decode()
            if inserts_data:
                data = text[_END_OF_HEAD.match(text, at).end() :]  # type: ignore[union-attr]  # it may match nothing
                return Statement(keyword, data_format=form, before_format=text[:after_format].rstrip(), data=data)
        elif inserts_data and word == "VALUES" and depth == 0:
            return Statement(
                keyword, data_format="Values", before_format=text[:start].rstrip(), data=text[at:].lstrip()
            )
        elif inserts_data and word in ("SELECT", "WITH", "INFILE"):
            inserts_data = False
        elif token[0] == b";" and depth <= 0:
            ended = True
        elif token[0] in _BRACKETS:
            depth += _BRACKETS[token[0]]
        elif word == "SETTINGS":
            in_settings = True
        elif not in_settings:
            # The format stands at the end; one with more behind it was a name.
            form = None
        after_format = None
    return Statement(keyword, form)

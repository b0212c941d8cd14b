"""Secrets come by the environment or a file, never by an argument; they are never shown, and never compared in a way
that tells how much of a guess was right."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from infra import settings
from infra.cli.main import daybook
from infra.settings import Settings

ROOT = Path(__file__).parents[2]
ROOMS = ("domain", "commands", "write_api", "read_api", "streams", "projections", "infra")

# Words of names that hold a secret, and names that have such a word and hold none.
SECRET = re.compile(r"(^|_)(secret|password|passphrase|credential|dsn|api_key|private_key|token)s?($|_)")
NO_SECRET = {"token_issuer", "token_leeway"}


def options(command: click.Command, path: str = "daybook") -> Iterator[tuple[str, click.Parameter]]:
    for parameter in command.params:
        yield path, parameter
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            found = command.get_command(click.Context(command), name)
            assert found is not None, name
            yield from options(found, f"{path} {name}")


def takes_a_secret(parameter: click.Parameter) -> bool:
    """Whether its value is one: not a file that holds it, nor a choice, nor a yes or no."""
    harmless = isinstance(parameter.type, click.Path | click.File | click.Choice) or getattr(
        parameter, "is_flag", False
    )
    return not harmless and SECRET.search(parameter.name or "") is not None


def test_no_option_of_the_command_line_takes_a_secret() -> None:
    found = list(options(daybook))
    assert len({path for path, _ in found}) > 15, "the whole tree was walked"
    assert [(path, one.name) for path, one in found if takes_a_secret(one) or one.name in settings._SECRETS] == []


def test_every_setting_that_holds_a_secret_may_lie_in_a_file_and_is_not_shown() -> None:
    fields = {field.name: field for field in dataclasses.fields(Settings)}
    named = {name for name in fields if SECRET.search(name)} - NO_SECRET
    assert named <= set(settings._SECRETS)
    assert not any(fields[name].repr for name in settings._SECRETS)
    # An address may carry a user and a password.
    assert {name for name in fields if name.endswith("_url")} - set(settings._SECRETS) <= {"issuer_url"}


# What an attacker could guess piece by piece, if the time that a comparison takes told how far it got.
GUESSED = re.compile(r"(^|_)(secret|password|token|tag|mac|signature|otp|csrf|verifier|code_hash|secret_hash)$")


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        return _name(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def compared(source: str) -> Iterator[int]:
    """Lines that compare something guessable by `==`, `!=` or `in`. With a constant there is nothing to guess."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq | ast.NotEq):
            sides = [node.left, *node.comparators]
            if any(GUESSED.search(_name(side)) for side in sides) and not any(
                isinstance(side, ast.Constant) for side in sides
            ):
                yield node.lineno


def test_nothing_that_can_be_guessed_is_compared_in_a_way_that_tells_how_far_a_guess_got() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for room in ROOMS
        for file in sorted((ROOT / room).rglob("*.py"))
        for line in compared(file.read_text("utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("if given.tag == self._tag(body): ...", [1]),
        ("ok = secret_hash != hashed(secret)", [1]),
        ("if tag == 'patients': ...", []),
        ("hmac.compare_digest(tag, wanted)", []),
    ],
)
def test_such_a_comparison_would_be_found(source: str, lines: list[int]) -> None:
    assert list(compared(source)) == lines

"""What a test needs. Where it is missing the test is left out, saying so; in CI, where all is there, it fails."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any, NoReturn

import pytest

from infra.local.fetch import Package, is_fetched
from infra.local.java import find as find_java
from infra.troubles import CannotStart


def left_out(missing: str) -> NoReturn:
    """End the running test: left out because something is missing. With `CI=true` that is a failure."""
    if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
        pytest.fail(f"CI has everything, and yet {missing} is missing")
    pytest.skip(f"left out because {missing} is missing")


def program(name: str) -> str:
    """The path of a program on this machine."""
    return shutil.which(name) or left_out(f"the program {name}")


def module(name: str) -> Any:
    """An importable module."""
    if importlib.util.find_spec(name) is None:
        left_out(f"the package {name}")
    return importlib.import_module(name)


def java(at_least: int) -> None:
    """A Java of this version or newer."""
    try:
        find_java(at_least, "this test")
    except CannotStart:
        left_out(f"Java {at_least} or newer")


def maven(package: Package) -> None:
    """Maven, unless what it would bring has been fetched before."""
    if not is_fetched(package) and shutil.which("mvn") is None:
        left_out(f"the program mvn, which brings {package.name},")

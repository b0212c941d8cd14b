"""The image, built once for all tests that run something in it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.deploy.image import Image, build


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    # pytest's own folders are closed to other users, and the image's is another.
    folder = Path(tempfile.mkdtemp(prefix="daybook-image-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield build(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

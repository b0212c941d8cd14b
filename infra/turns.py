"""How long one thread may keep the others waiting."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TURN = 0.0005


@contextmanager
def short_turns() -> Iterator[None]:
    """Threads that fill ClickHouse give way after half a millisecond instead of five. The event loop gives way at every
    wait of its own, however short, so with long turns it stands still most of the time that such a thread works."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(_TURN)
    try:
        yield
    finally:
        sys.setswitchinterval(before)

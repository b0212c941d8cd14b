"""How often Python looks for garbage that refers to itself."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


def fewer_collections() -> None:
    """For a process that begins: what it loads stays, and looking for garbage meanwhile took a tenth of the time."""
    gc.set_threshold(50_000, 20, 100)


@contextmanager
def few_collections() -> Iterator[None]:
    """What stands in memory now is taken to stay, and the cycle collector to find little: it would walk through
    everything again and again, a third of a long run."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 50, 1000)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()

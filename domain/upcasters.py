"""How events of an older shape are read today.

In: the name and payload that the log keeps. Out: the newest name and the payload in its shape. The log itself never
changes. An upcaster is pure and steps one version; steps are chained until a name has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Payload = dict[str, Any]
Upcaster = Callable[[Payload], tuple[str, Payload]]

# By the old name, for instance "AppointmentBooked.v1". Personal fields arrive opened, or as ERASED.
UPCASTERS: dict[str, Upcaster] = {}


def upcast(name: str, payload: Payload) -> tuple[str, Payload]:
    """Chain the steps from `name` on. The payload given is not altered by the chain itself."""
    while (step := UPCASTERS.get(name)) is not None:
        name, payload = step(payload)
    return name, payload

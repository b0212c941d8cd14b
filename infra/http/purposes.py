"""Why a request is made, as its `Purpose-Of-Use` header says. In: the header. Out: a `Purpose`, the role's usual one
where nothing is said."""

from __future__ import annotations

from typing import Any, Final

from domain.access import Role
from domain.purpose import Purpose, usual
from infra.http.problems import InvalidParameter

ALLOWED: Final = [purpose.value for purpose in Purpose]

# As OpenAPI describes it, in both APIs.
HEADER: Final[dict[str, Any]] = {
    "name": "Purpose-Of-Use",
    "in": "header",
    "description": "Why this is asked (OASIS XSPA); written into the audit trail. Unsaid, it is what the role usually "
    "asks for: TREATMENT, OPERATIONS, or REQUEST for a patient.",
    "schema": {"type": "string", "enum": ALLOWED},
}


def purpose_of(said: str | None, role: Role) -> Purpose:
    """Raises `InvalidParameter`."""
    if said is None:
        return usual(role)
    try:
        return Purpose(said.strip())
    except ValueError:
        raise InvalidParameter(f"Purpose-Of-Use is one of {', '.join(ALLOWED)}.", allowed=ALLOWED) from None

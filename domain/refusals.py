"""Refusals: what the book says when it may not do what was asked, each with a stable code.

A refusal is an answer, never a failure. It is raised by a decision, travels through the command loop untouched and
becomes an RFC 9457 problem at the API. Its words and details name no other patient.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Refusal(Exception):
    """`code` is stable and machine-readable; `details`, plain values and instants, become members of the problem."""

    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 409

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


class Unknown(Refusal):
    """The id names nothing in this organization. Another organization's ids read just the same."""

    code = "unknown"
    status = 404


class NotAllowed(Refusal):
    """The actor's role or relationship does not reach this."""

    code = "not_allowed"
    status = 403


class Invalid(Refusal):
    """The request is well-formed JSON but means nothing: a range without length, an unknown zone …"""

    code = "invalid"
    status = 422

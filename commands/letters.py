"""Letters that a command's answer asks for: to whom, of which kind, with which link. In: an account. Out: what the
answer holds, to be sent once its events are in the log (`write_api/letters.py` has the words)."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from domain.account import Account
from domain.events import Erased


class Letter(StrEnum):
    """What is written to the owner of an address. Whoever changes how an account is signed in to is not always its
    owner, who hears of each change at the address (NIST SP 800-63B-4 §4.6, OWASP ASVS 5.0 6.3.7)."""

    VERIFY = "verify"
    INVITATION = "invitation"
    RESET = "reset"
    TAKEN = "taken"
    PASSWORD_CHANGED = "password_changed"  # noqa: S105 - a name
    FACTORS_RESET = "factors_reset"
    FACTOR_ADDED = "factor_added"
    FACTOR_REMOVED = "factor_removed"
    RECOVERY_CODES_MADE = "recovery_codes_made"
    RECOVERY_CODE_USED = "recovery_code_used"
    PROVIDER_LINKED = "provider_linked"
    PROVIDER_UNLINKED = "provider_unlinked"


def letter(state: Account, kind: Letter, token: str | None = None) -> dict[str, Any] | None:
    """To the address that the account has, never to the one that was typed, which may only look like it."""
    if isinstance(state.email, Erased):
        return None
    return {"kind": kind.value, "to": state.email, "token": token}

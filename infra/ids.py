"""New ids: UUIDv7, so that rows written together lie together; and secrets that can't be guessed."""

from __future__ import annotations

import secrets
from uuid import UUID

from uuid_utils.compat import uuid7


class TimeOrderedIds:
    """The `Ids` port."""

    def new(self) -> UUID:
        return uuid7()

    def secret(self) -> str:
        return secrets.token_urlsafe(18)

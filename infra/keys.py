"""Secrets of one installation, each a file in the data folder made on first use. Out: what they are used for."""

from __future__ import annotations

from infra.embedded.data_folder import DataFolder
from infra.http.cursors import Cursors
from infra.http.positions import Positions
from infra.http.tokens import SigningKey


def token_key(folder: DataFolder) -> SigningKey:
    """Signs the tokens that `daybook token` mints. Raises `CannotStart` when its file is damaged."""
    return SigningKey(folder.secret("tokens.ed25519"))


def cursors(folder: DataFolder) -> Cursors:
    return Cursors(folder.secret("http"))


def positions(folder: DataFolder) -> Positions:
    return Positions(folder.secret("http"))

"""`daybook token`: mint a bearer token for development."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import click

from domain.access import Role
from infra.cli._options import Duration, data_option, json_option
from infra.embedded.data_folder import DataFolder
from infra.http.tokens import READ, WRITE, mint
from infra.keys import KeyFolder
from infra.settings import Settings

_AUDIENCES = {"write": (WRITE,), "read": (READ,), "both": (WRITE, READ)}


@click.command("token")
@click.option("--role", type=click.Choice([role.value for role in Role]), required=True, help="What the caller may do.")
@click.option("--org", help="The organization inside which everything happens. [default: main]")
@click.option("--subject", help="The caller's opaque id, written beside every event. [default: dev-ROLE]")
@click.option("--patient", type=click.UUID, help="The patient that the caller is; needed for the role patient.")
@click.option("--provider", type=click.UUID, help="The provider that the caller is; needed for the role provider.")
@click.option("--for", "service", type=click.Choice(list(_AUDIENCES)), default="both", help="Which API takes it.")
@click.option("--ttl", type=Duration(), default="8h", show_default=True, help="How long it is good: 90s, 15m, 8h, 2d.")
@data_option
@json_option
def command(
    role: str,
    org: str | None,
    subject: str | None,
    patient: UUID | None,
    provider: UUID | None,
    service: str,
    ttl: timedelta,
    data: Path | None,
    as_json: bool,
) -> None:
    """Mint a token, signed with the key in the data folder. It works whether Daybook runs or not.

    \b
    TOKEN=$(daybook token --role front_desk)
    curl -H "Authorization: Bearer $TOKEN" http://127.0.0.1:8000/read/…

    Whoever can read the data folder can be anybody, so this is for development; accounts come with their own minting.
    """
    if role == Role.PATIENT and patient is None:
        raise click.UsageError("A patient's token says which patient: --patient ID.")
    if role == Role.PROVIDER and provider is None:
        raise click.UsageError("A provider's token says which provider: --provider ID.")
    settings = Settings.load(data=data)
    now = datetime.now(UTC)
    try:
        token = mint(
            _keys(settings).tokens(),
            role=Role(role),
            organization=org or settings.organization,
            subject=subject or f"dev-{role}",
            now=now,
            lifetime=ttl,
            audiences=_AUDIENCES[service],
            issuer=settings.token_issuer,
            patient_id=patient,
            provider_id=provider,
        )
    except ValueError as error:
        raise click.UsageError(f"{error}") from error
    if as_json:
        click.echo(json.dumps({"token": token, "expires_at": (now + ttl).isoformat(timespec="seconds")}))
    else:
        click.echo(token)


def _keys(settings: Settings) -> KeyFolder:
    if settings.stack == "full":
        return KeyFolder(settings.keys_folder, make=False)
    return KeyFolder(DataFolder.open(settings.data).keys, make=True)

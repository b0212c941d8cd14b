"""`daybook status`: say whether a Daybook runs on this data, and where."""

from __future__ import annotations

import json
from pathlib import Path

import click

from infra.cli._options import data_option, json_option
from infra.control import result
from infra.embedded.data_folder import DataFolder
from infra.settings import Settings
from infra.troubles import NotRunning


@click.command("status")
@data_option
@json_option
def command(data: Path | None, as_json: bool) -> None:
    """Ask the running Daybook where it answers and how its servers are. Exit code 5 when none runs."""
    path = Settings.load(data=data).data
    if not path.exists():
        raise NotRunning(f"There is no data at {path.absolute()} yet. Start Daybook with `daybook serve`.")
    folder = DataFolder.open(path)
    holder = folder.holder()
    if holder is not None and holder.what == "stack":
        raise NotRunning(f"The full stack runs on {folder.path}: `daybook stack status` shows its parts.")
    found = {"url": holder.url, "pid": holder.pid} if holder and holder.what == "serve" else {}
    found |= result(folder, "status")
    if as_json:
        click.echo(json.dumps(found))
        return
    for name, value in found.items():
        click.echo(f"{name:<10} {json.dumps(value) if isinstance(value, dict) else value}")

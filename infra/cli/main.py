"""`daybook`: finds the command, runs it, and says in words what went wrong.

A command is a file in this folder: `serve.py` (or, where Python keeps the word for itself, `import_.py`) holds the
click command or group of that name. Its docstring begins with "`daybook NAME`: " and the words that `--help` shows.
Files that start with an underscore are shared by commands. A command's file is loaded when it is run, so that help is
there at once.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import click

from infra.garbage import fewer_collections
from infra.troubles import Trouble

_FOLDER = Path(__file__).parent
_WORDS = re.compile(r'\A"""`daybook [^`]*`: (.*?)(?:\.?"""|\.?\n\n|\. )', re.DOTALL)


class Lazy(click.Group):
    """A group whose commands are files of this folder."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_files())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        file = _files().get(cmd_name)
        if file is None:
            return None
        module = importlib.import_module(f"infra.cli.{file.stem}")
        found = (value for value in vars(module).values() if isinstance(value, click.Command))
        return next((command for command in found if command.name == cmd_name), None)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _words(file)) for name, file in sorted(_files().items())])


def _files() -> dict[str, Path]:
    files = (path for path in _FOLDER.glob("*.py") if not path.stem.startswith("_") and path.stem != "main")
    return {path.stem.rstrip("_").replace("_", "-"): path for path in files}


def _words(file: Path) -> str:
    found = _WORDS.match(file.read_text("utf-8"))
    return " ".join(found[1].split()) if found else ""


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="daybook")
def daybook() -> None:
    """The appointment book that clinics can trust.

    \b
    Start everything:     daybook serve
    The first account:    daybook account create --role admin --email you@example.org
    Get a token:          daybook token --role front_desk
    Ask what runs:        daybook status

    Each command has its own --help. Settings come from options, or from the environment: DATA (the folder, ./data),
    PORT (8000), and the rest as DAYBOOK_…; secrets only from the environment or a file (DAYBOOK_…_FILE).

    \b
    Exit codes:
      0  done
      1  done, and a fault was found (a broken chain, a failed job)
      2  wrong usage or settings
      3  the data folder is in use by another Daybook
      4  an embedded server does not start
      5  a running Daybook is needed and none answers
    """


def main(arguments: list[str] | None = None) -> Any:
    fewer_collections()
    try:
        daybook.main(args=arguments, prog_name="daybook")
    except Trouble as trouble:
        click.echo(f"daybook: {trouble}", err=True)
        sys.exit(trouble.exit_code)


if __name__ == "__main__":
    main()

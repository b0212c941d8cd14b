"""People with accounts, for tests: a house where passwords cost nothing, and a clock that is moved by hand."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pyotp

from commands.accounts import CreateAccount, FollowLink, RegisterAccount
from commands.loop import ACCOUNT, NOTHING, Answer, Command, Desk
from commands.second_factors import ConfirmTotp, EnrolTotp
from commands.sign_in import SIGN_IN, CheckPassword
from domain.access import Actor, Role
from domain.account import Account, LinkPurpose, step_at
from domain.ports import Credentials, FixedClock
from infra.blinds import KeyedBlinds
from tests.clinic import ORGANIZATION

SITE = "https://book.example.org"
PASSWORD = "violet anvil seventeen"
OTHER_PASSWORD = "another long harbour"
OPERATOR = Actor("operator", Role.SYSTEM)


class QuickPasswords:
    """A fake of the port: hashes that cost nothing. `asked` counts how often one was verified."""

    def __init__(self) -> None:
        self.asked = 0

    async def hash(self, password: str) -> str:
        return "v2$" + hashlib.sha256(password.encode()).hexdigest()

    async def verify(self, hashed: str | None, password: str) -> bool:
        self.asked += 1
        return hashed is not None and hashed[3:] == (await self.hash(password))[3:]

    def needs_rehash(self, hashed: str) -> bool:
        return not hashed.startswith("v2$")

    def is_common(self, password: str) -> bool:
        return password == "qwertyqwerty"


def credentials(secret: bytes = bytes(32)) -> Credentials:
    return Credentials(KeyedBlinds(secret), QuickPasswords(), site=SITE)


@dataclass
class Letterbox:
    """A fake of the mail port: what was sent, oldest first, each to whom, subject and words."""

    letters: list[tuple[str, str, str]] = field(default_factory=list)

    async def send(self, to: str, subject: str, text: str) -> None:
        self.letters.append((to, subject, text))

    def token(self) -> str:
        """The token of the link in the last letter."""
        found = re.search(r"token=([\w-]+)", self.letters[-1][2])
        assert found is not None, self.letters[-1]
        return found[1]


@dataclass
class People:
    """`asked` carries a command out as somebody; the rest are steps that many stories share."""

    desk: Desk
    clock: FixedClock

    async def asked(self, command: Command, who: Actor = SIGN_IN) -> dict[str, Any]:
        return dict((await self.answer(command, who)).content)

    async def answer(self, command: Command, who: Actor = SIGN_IN) -> Answer:
        return await self.desk.handle(command, who, ORGANIZATION)

    async def account(self, account_id: UUID) -> Account:
        stream = ACCOUNT.stream(account_id)
        state = (await self.desk.catch_up(ORGANIZATION, {stream: NOTHING}))[stream][1]
        assert isinstance(state, Account)
        return state

    async def events(self, stream: str) -> list[str]:
        rows = (await self.desk.log.load(ORGANIZATION, {stream: 0}))[stream]
        return [row.event.NAME.partition(".")[0] for row in rows]

    def later(self, by: timedelta) -> datetime:
        self.clock.instant += by
        return self.clock.instant

    async def patient(self, email: str = "ada@example.org", password: str = PASSWORD) -> Actor:
        """Registered and verified, the way a patient does it."""
        letter = (await self.asked(RegisterAccount(email=email)))["letter"]
        link = FollowLink(purpose=LinkPurpose.VERIFY, token=letter["token"], password=password)
        return await self.actor(UUID((await self.asked(link))["account_id"]))

    async def staff(self, role: Role, email: str = "grace@example.org", **who: UUID) -> Actor:
        made = CreateAccount(email=email, role=role, password=PASSWORD, **who)
        return await self.actor(UUID((await self.asked(made, OPERATOR))["account_id"]))

    async def actor(self, account_id: UUID) -> Actor:
        """Whoever just signed in to this account."""
        state = await self.account(account_id)
        return Actor(
            str(account_id),
            state.role,
            state.patient_id,
            state.provider_id,
            account_id,
            authenticated_at=self.clock.now(),
        )

    async def sign_in(self, email: str = "ada@example.org", password: str = PASSWORD) -> dict[str, Any]:
        return await self.asked(CheckPassword(email=email, password=password))

    async def with_totp(self, who: Actor) -> pyotp.TOTP:
        """Their authenticator app, set up."""
        secret = (await self.asked(EnrolTotp(), who))["secret"]
        app = pyotp.TOTP(secret)
        await self.asked(ConfirmTotp(code=self.code(app)), who)
        return app

    def code(self, app: pyotp.TOTP, steps: int = 0) -> str:
        return app.generate_otp(step_at(self.clock.now()) + steps)

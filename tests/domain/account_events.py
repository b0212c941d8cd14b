"""One of each event of accounts, every field told, and which of their fields are sealed."""

from __future__ import annotations

from datetime import UTC, datetime

from domain import account, address, holder, mfa_policy, outside
from domain.access import Role
from domain.events import Event
from tests.domain.clinic import uid

AT = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)

EXAMPLES: list[Event] = [
    account.AccountRegistered(
        account_id=uid(1),
        email="ada@example.org",
        address=uid(2),
        role=Role.PATIENT,
        patient_id=uid(3),
        provider_id=uid(4),
        origin=account.Origin.SELF,
        failures=6,
        locked_until=AT,
    ),
    account.AddressTakenAgain(account_id=uid(1)),
    account.LinkIssued(account_id=uid(1), purpose=account.LinkPurpose.VERIFY, nonce="n0nce", expires_at=AT),
    account.EmailVerified(account_id=uid(1)),
    account.PasswordChanged(account_id=uid(1), password_hash="$argon2id$…"),
    account.PasswordRehashed(account_id=uid(1), password_hash="$argon2id$…"),
    account.PasswordAccepted(account_id=uid(1)),
    account.SignInFailed(
        account_id=uid(1), factor=account.Factor.TOTP, reason=account.FailureReason.REPLAYED, locked_until=AT
    ),
    account.TotpEnrolled(account_id=uid(1), secret="JBSWY3DPEHPK3PXP"),
    account.TotpConfirmed(account_id=uid(1), step=59083213),
    account.TotpAccepted(account_id=uid(1), step=59083214),
    account.TotpRemoved(account_id=uid(1)),
    account.RecoveryCodesMade(account_id=uid(1), hashes=("aa", "bb")),
    account.RecoveryCodeUsed(account_id=uid(1), place=7),
    account.PasskeyAdded(
        account_id=uid(1),
        passkey_id=uid(5),
        credential_id="Y3JlZGVudGlhbA",
        public_key="a2V5",
        name="my phone",
        sign_count=0,
        challenge_id=uid(6),
        challenge_until=AT,
    ),
    account.PasskeyAccepted(
        account_id=uid(1), passkey_id=uid(5), sign_count=1, challenge_id=uid(6), challenge_until=AT
    ),
    account.PasskeyRemoved(account_id=uid(1), passkey_id=uid(5)),
    account.ProviderLinked(
        account_id=uid(1), identity=uid(7), issuer="https://id.example.org", subject="10769150350006"
    ),
    account.ProviderAccepted(account_id=uid(1), identity=uid(7), multi_factor=True),
    account.ProviderUnlinked(account_id=uid(1), identity=uid(7)),
    outside.IdentityClaimed(identity=uid(7), account_id=uid(1)),
    outside.IdentityReleased(identity=uid(7), account_id=uid(1)),
    outside.UnknownIdentityTried(identity=uid(7)),
    account.SecondFactorsReset(account_id=uid(1)),
    account.RoleChanged(account_id=uid(1), role=Role.PROVIDER, patient_id=uid(3), provider_id=uid(4)),
    account.AccountLockedByAdministrator(account_id=uid(1)),
    account.AccountUnlocked(account_id=uid(1)),
    account.AccountClosed(account_id=uid(1), reason=account.ClosingReason.PERSON_ERASED),
    account.RegistrationLapsed(account_id=uid(1)),
    address.AddressClaimed(address=uid(2), account_id=uid(1)),
    address.AddressReleased(address=uid(2), account_id=uid(1)),
    address.UnknownAddressTried(address=uid(2), attempt=address.Attempt.SIGN_IN, counts=True, locked_until=AT),
    holder.HolderNamed(person_id=uid(3), account_id=uid(1)),
    holder.HolderDismissed(person_id=uid(3), account_id=uid(1)),
    mfa_policy.MfaPolicySet(roles={Role.PATIENT: mfa_policy.Mfa.OFF, Role.ADMIN: mfa_policy.Mfa.REQUIRED}),
]
# All are sealed with the account's own key.
SEALED = {
    "AccountRegistered.v1": ("email",),
    "PasswordChanged.v1": ("password_hash",),
    "PasswordRehashed.v1": ("password_hash",),
    "TotpEnrolled.v1": ("secret",),
    "RecoveryCodesMade.v1": ("hashes",),
    "PasskeyAdded.v1": ("credential_id", "public_key", "name"),
    "ProviderLinked.v1": ("issuer", "subject"),
}

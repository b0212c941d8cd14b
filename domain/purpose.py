"""Why somebody asks: the purpose of use that stands beside every event (45 CFR 164.312(b), 164.528).

The words are those of the OASIS XSPA profile of SAML 2.0; an accounting of disclosures is grouped by them.
"""

from __future__ import annotations

from enum import StrEnum

from domain.access import Role


class Purpose(StrEnum):
    TREATMENT = "TREATMENT"
    PAYMENT = "PAYMENT"
    OPERATIONS = "OPERATIONS"
    EMERGENCY = "EMERGENCY"
    REQUEST = "REQUEST"
    PUBLIC_HEALTH = "PUBLICHEALTH"
    RESEARCH = "RESEARCH"
    SYSTEM_ADMINISTRATION = "SYSADMIN"


def usual(role: Role) -> Purpose:
    """What somebody of a role asks for who says nothing else. To coordinate care is to treat (45 CFR 164.501), so the
    front desk's is a provider's; a patient asks for their own."""
    match role:
        case Role.PROVIDER | Role.FRONT_DESK:
            return Purpose.TREATMENT
        case Role.PATIENT:
            return Purpose.REQUEST
    return Purpose.OPERATIONS

"""A code: given after a sign-in, to the app that asked, for one use within a minute."""

from __future__ import annotations

import jwt

from domain.access import Actor
from tests.signing_in import App, House


async def test_an_app_gets_tokens_that_say_who_signed_in(house: House, app: App, ada: Actor) -> None:
    told = await house.tokens(app, nonce="n-1")
    assert told["token_type"] == "Bearer"
    assert told["patient"] == str(ada.patient_id)
    assert "patient/Appointment.rs" in told["scope"].split()
    assert house.keys.newest().id == jwt.get_unverified_header(told["id_token"])["kid"]
    claims = jwt.decode(
        told["id_token"], house.keys.newest().public, algorithms=["EdDSA"], audience=app.id, issuer=house.url
    )
    assert (claims["sub"], claims["nonce"], claims["amr"]) == (str(ada.account_id), "n-1", ["pwd"])
    assert claims["fhirUser"].endswith(f"/Patient/{ada.patient_id}")

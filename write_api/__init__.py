"""Commands over HTTP: request → command → answer. No rules live here."""

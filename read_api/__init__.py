"""Questions over HTTP: parameters → one question to a read model → answer. No rules live here."""

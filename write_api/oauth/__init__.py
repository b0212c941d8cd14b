"""Signing in and getting tokens: OAuth 2.1, OpenID Connect and SMART App Launch 2.2, on authlib's server core."""

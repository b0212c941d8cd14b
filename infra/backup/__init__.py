"""Backups of the log: by position, signed, checked without a database (docs/decisions/0070-backup-by-position.md)."""

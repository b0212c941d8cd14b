"""Real servers that come as Python packages, started and stopped by us: Postgres, Redis, the ClickHouse engine."""

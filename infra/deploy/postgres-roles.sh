#!/bin/sh
# Run once, on an empty volume: the role that the services enter as, with its password. `daybook migrate` gives it its
# rights.
set -eu
psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  -v password="$(cat /run/secrets/postgres_app_password)" <<'SQL'
CREATE ROLE daybook_app LOGIN PASSWORD :'password';
REVOKE CONNECT, TEMPORARY ON DATABASE daybook FROM PUBLIC;
GRANT CONNECT ON DATABASE daybook TO daybook_app;
SQL

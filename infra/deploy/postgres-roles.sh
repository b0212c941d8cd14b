#!/bin/sh
# Run once, on an empty volume: the roles that services enter as, with their passwords. `daybook migrate` gives them their
# rights.
set -eu
secrets=${SECRETS:-/run/secrets}
psql -v ON_ERROR_STOP=1 --no-psqlrc --quiet --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  -v database="$POSTGRES_DB" \
  -v app="$(cat "$secrets/postgres_app_password")" -v backup="$(cat "$secrets/postgres_backup_password")" <<'SQL'
CREATE ROLE daybook_app LOGIN PASSWORD :'app';
CREATE ROLE daybook_backup LOGIN PASSWORD :'backup';
REVOKE CONNECT, TEMPORARY ON DATABASE :"database" FROM PUBLIC;
GRANT CONNECT ON DATABASE :"database" TO daybook_app, daybook_backup;
SQL

#!/bin/bash
# Run at every start, and changes nothing the second time.
set -euo pipefail
host=${ELASTICSEARCH:-http://elasticsearch:9200}
secrets=${SECRETS:-/run/secrets}

# Passwords go in by standard input: arguments can be read by every user of the machine.
send() {
  curl -fsS -o /dev/null -K <(printf 'user = "elastic:%s"\n' "$(cat "$secrets/elastic_password")") \
    -H 'Content-Type: application/json' -X "$1" "$host/$2" --data-binary @-
}

printf '{"password": "%s"}' "$(cat "$secrets/kibana_password")" |
  send POST _security/user/kibana_system/_password
send PUT _security/role/daybook <<'JSON'
{"cluster": ["monitor", "manage_index_templates"],
 "indices": [{"names": ["daybook*"], "privileges": ["all"]}]}
JSON
printf '{"password": "%s", "roles": ["daybook"]}' "$(cat "$secrets/elastic_daybook_password")" |
  send PUT _security/user/daybook

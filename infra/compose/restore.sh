#!/usr/bin/env bash
# restore.sh DIR: puts a backup into a stack that holds nothing yet, and starts it. docs/operations.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra compose <<<"${COMPOSE:-docker compose}"
source=${1:-}
[ -n "$source" ] || { echo "Say which: make restore DIR=folder" >&2; exit 2; }
for file in mlflow.dump mlflow_auth.dump prefect.dump bucket.tar keys.tar CHECKSUMS; do
    [ -f "$source/$file" ] || { echo "$source holds no $file; it is no whole backup." >&2; exit 2; }
done
(cd "$source" && for file in *.dump *.tar; do cksum "$file"; done) | cmp -s - "$source/CHECKSUMS" ||
    { echo "$source is damaged: its files are not what CHECKSUMS says." >&2; exit 2; }

job() { "${compose[@]}" --profile tools run --rm -T "$@"; }
sql() { "${compose[@]}" exec -T postgres psql -U postgres -d "$1" -Atc "$2"; }
# Roles and empty databases, with the passwords of .env; the databases and the bucket start for it.
job setup python -m infra.containers setup --databases-only
for database in mlflow mlflow_auth prefect; do
    tables=$(sql "$database" "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')")
    [ "$tables" = 0 ] || {
        echo "The database $database holds $tables tables already; a backup goes into an empty stack." >&2
        echo "To throw away what is here: docker compose down --volumes, then restore again." >&2
        exit 1
    }
done
for database in mlflow mlflow_auth prefect; do
    "${compose[@]}" exec -T postgres pg_restore -U postgres --exit-on-error --single-transaction -d "$database" \
        <"$source/$database.dump"
done
job --no-deps backup python -m infra.containers objects load <"$source/bucket.tar"
job --no-deps backup tar -C /etc/greenroom -xf - <"$source/keys.tar"
COMPOSE="${COMPOSE:-docker compose}" bash infra/compose/up.sh
echo "Restored from $source. make compose-verify checks the audit's chain and every model's bytes."

#!/usr/bin/env bash
# backup.sh DIR: databases, bucket and keys of the running stack into a new folder. docs/operations.md.
# The databases first: whatever they name is in the bucket already, so the later copy of it holds that too.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra compose <<<"${COMPOSE:-docker compose}"
target=${1:-}
[ -n "$target" ] || { echo "Say where to: make backup DIR=folder" >&2; exit 2; }
[ ! -e "$target" ] || { echo "$target is there already; a backup goes into a new folder." >&2; exit 2; }
umask 077
mkdir -p "$(dirname "$target")"
partial="$target.partial"
rm -rf "$partial"
mkdir "$partial"

for database in mlflow mlflow_auth prefect; do
    "${compose[@]}" exec -T postgres pg_dump -U postgres -Fc "$database" >"$partial/$database.dump"
    # A dump that was cut off has no table of contents.
    "${compose[@]}" exec -T postgres pg_restore --list <"$partial/$database.dump" >/dev/null
done
job() { "${compose[@]}" --profile tools run --rm --no-deps -T backup "$@"; }
job python -m infra.containers objects dump >"$partial/bucket.tar"
job tar -C /etc/greenroom -cf - private trusted >"$partial/keys.tar"
tar -tf "$partial/keys.tar" >/dev/null
(cd "$partial" && for file in *.dump *.tar; do cksum "$file"; done) >"$partial/CHECKSUMS"
# Renamed last: a folder without `.partial` is a whole backup.
mv "$partial" "$target"
echo "Backed up to $target ($(du -sh "$target" | cut -f1)). It holds the gate's private key and password hashes."

#!/usr/bin/env bash
# Starts the stack and waits until each service is healthy; Compose 1.29 cannot wait by itself.
# Arguments come before `up`, such as `--profile monitoring`.
set -euo pipefail
cd "$(dirname "$0")/../.."
read -ra compose <<<"${COMPOSE:-docker compose}"
env_file=${GREENROOM_ENV_FILE:-.env}
[ -f "$env_file" ] || { echo "There is no $env_file; run make compose-env first." >&2; exit 1; }

if ! "${compose[@]}" "$@" up -d; then
    echo "The stack did not start. The jobs said:" >&2
    "${compose[@]}" logs --no-color --tail=5 preflight setup accounts >&2 || true
    exit 1
fi
ids=$("${compose[@]}" "$@" ps -q)
format='{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{.RestartCount}} {{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}'
deadline=$((SECONDS + ${GREENROOM_WAIT:-180}))
while :; do
    waiting=""
    # shellcheck disable=SC2086 # one id per word
    while read -r name status code restarts health; do
        case "$status/$code/$health" in
            exited/0/*) ;;
            exited/*) echo "${name#/} ended with exit code $code: docker logs ${name#/}" >&2; exit 1 ;;
            running/*/healthy) ;;
            restarting/*) [ "$restarts" -lt 3 ] || { echo "${name#/} ends again and again: docker logs ${name#/}" >&2; exit 1; }
                waiting="$waiting ${name#/}" ;;
            *) waiting="$waiting ${name#/}" ;;
        esac
    done < <(docker inspect -f "$format" $ids)
    [ -n "$waiting" ] || { echo "Every service is healthy."; exit 0; }
    [ "$SECONDS" -lt "$deadline" ] || break
    sleep 1
done
echo "Not healthy after ${GREENROOM_WAIT:-180} s:$waiting. docker logs NAME says more." >&2
exit 1

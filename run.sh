#!/usr/bin/env bash
# The servers of the demo and the gateway, until Ctrl-C: then `curl http://127.0.0.1:5000/trigger-etl`.
# Options are those of `etl-assets gateway`, for example --port 5001.
set -euo pipefail
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
etl_assets=$here/.venv/bin/etl-assets
gateway='' started='' stopping=''

# Once is enough: a second Ctrl-C would cut off what ends the servers.
stop() {
    stopping=yes
    trap '' INT TERM HUP
    if [ -n "$gateway" ]; then kill "$gateway" 2>/dev/null || true; fi
}

# Servers that were there before stay.
finish() {
    stop
    if [ -n "$started" ]; then "$etl_assets" down; fi
}

make --no-print-directory -C "$here" install

trap stop INT TERM HUP
trap finish EXIT
# A Ctrl-C now waits: cut off, this would leave servers behind of which nobody knows.
answer=$(trap '' INT TERM HUP; exec "$etl_assets" up)
echo "$answer"
case $answer in started*) started=yes ;; esac
if [ -n "$stopping" ]; then exit 130; fi

# In the background, so that a signal to this script alone reaches the gateway as well.
"$etl_assets" gateway "$@" &
gateway=$!
if [ -n "$stopping" ]; then stop; fi
code=0
wait "$gateway" || code=$?
if [ -n "$stopping" ]; then
    # The signal has ended the wait, not the gateway.
    code=0
    wait "$gateway" || code=$?
fi
exit "$code"

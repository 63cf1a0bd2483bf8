#!/usr/bin/env bash
# The servers of the demo and the gateway, until Ctrl-C: then `curl http://127.0.0.1:5000/trigger-etl`.
set -euo pipefail
cd "$(dirname "$0")"

make --no-print-directory install
# Servers that were running before stay.
if .venv/bin/etl-assets up | tee /dev/stderr | grep -q '^started'; then
    trap '.venv/bin/etl-assets down' EXIT
fi
.venv/bin/etl-assets gateway "$@"

#!/usr/bin/env bash
#
# Installs what is missing, brings up a real cloud on loopback, and imports a
# real Debian image into its Ceph as an ordinary user:
#
#     tools/demo.sh           import, and show what is where
#     tools/demo.sh --boot    and boot a clone of the imported image
#     tools/demo.sh --down    stop the cloud and remove it
#
# VENV names the virtual environment (default: .venv in the repository).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-$PWD/.venv}

# pbr takes the version from git; an unpacked archive has none to give.
if ! git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    export PBR_VERSION=${PBR_VERSION:-0.0.1}
fi

python3 tools/cloud --venv "$VENV" install
exec "$VENV/bin/python" tools/demo.py "$@"

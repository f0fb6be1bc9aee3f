#!/usr/bin/env bash
#
# Installs what is missing, then runs lint and the unit, contract and
# functional tests. Arguments go to pytest:
#
#     tools/test.sh                        everything
#     tools/test.sh -x tests/unit          unit tests, up to the first failure
#
# VENV names the virtual environment (default: .venv in the repository).
# A failed lint does not keep the tests from running; the exit status is
# that of the worst. The last line is pytest's own.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
VENV=${VENV:-$PWD/.venv}

# pbr takes the version from git; an unpacked archive has none to give.
if ! git rev-parse --quiet --verify HEAD >/dev/null 2>&1; then
    export PBR_VERSION=${PBR_VERSION:-0.0.1}
fi

install_missing() {
    python3 tools/cloud --venv "$VENV" install
    "$VENV/bin/python" -m pip install --quiet \
        -r requirements.txt -r test-requirements.txt --editable .
}

summary=()
status=0

check() {
    local name=$1
    shift
    printf '== %s\n' "$name"
    if "$VENV/bin/python" -m "$@"; then
        summary+=("$name ok")
    else
        summary+=("$name FAILED")
        status=1
    fi
}

install_missing
check ruff ruff check .
check hacking flake8 --select H
check mypy mypy

log=$(mktemp)
trap 'rm -f "$log"' EXIT

run_tests() {
    "$VENV/bin/python" -m pytest "$@" 2>&1 | tee "$log"
}

# The test paths, and their order, are in pyproject.toml.
printf '== tests\n'
if run_tests "$@"; then
    summary+=("tests ok")
else
    summary+=("tests FAILED")
    status=1
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
tail -n 1 "$log"
exit "$status"

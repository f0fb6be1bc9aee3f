#!/usr/bin/env bash
#
# Installs what is missing, then runs lint and the unit, contract and
# functional tests. Arguments go to pytest:
#
#     tools/test.sh                        everything
#     tools/test.sh -x tests/unit          unit tests, up to the first failure
#
# Without arguments the tests that need a cloud, which often only wait, run
# beside those that need none; what the latter say comes at the end.
#
# VENV names the virtual environment (default: .venv in the repository).
# A failed lint does not keep the tests from running; the exit status is
# that of the worst. The last lines are pytest's own.
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

# Run a command and note under a name whether it succeeded.
note() {
    local name=$1
    shift
    if "$@"; then
        summary+=("$name ok")
    else
        summary+=("$name FAILED")
        status=1
    fi
}

check() {
    printf '== %s\n' "$1"
    note "$1" "$VENV/bin/python" -m "${@:2}"
}

install_missing
check ruff ruff check .
check hacking flake8 --select H
check mypy mypy

logs=$(mktemp -d)
# What runs in the background ignores an interrupt: it is ended here.
trap 'exit 130' INT
trap 'kill $(jobs -p) 2>/dev/null || :; rm -rf "$logs"' EXIT

run_tests() {
    "$VENV/bin/python" -m pytest "${@:2}" 2>&1 | tee "$logs/$1"
}

# The test paths, and their order, are in pyproject.toml.
if (($#)); then
    printf '== tests\n'
    note tests run_tests all "$@"
else
    "$VENV/bin/python" -m pytest tests/unit tests/contract \
        tests/hostile tests/fuzz tests/simulation >"$logs/without-cloud" 2>&1 &
    printf '== tests with a cloud\n'
    # Two clouds: a test often waits for one of many services.
    note 'tests with a cloud' run_tests with-cloud tests/functional \
        --numprocesses 2 --max-worker-restart 0 \
        --dist loadfile --no-loadscope-reorder --durations 40
    note 'tests without a cloud' wait $!
    printf '\n== tests without a cloud\n'
    cat "$logs/without-cloud"
fi

printf '\n== summary\n'
printf '%s\n' "${summary[@]}"
grep --no-filename --extended-regexp '^(FAILED|ERROR) ' "$logs"/* || :
tail --quiet --lines 1 "$logs"/*
exit "$status"

#!/usr/bin/env bash
# Bring .venv up to date: `runtime` installs what the commands need, `dev` what tests and checks need as well.
# Quick when nothing changed. PYTHON=path chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly kind="${1:-}"
case "$kind" in runtime | dev) ;; *) echo "usage: setup.sh runtime|dev" >&2; exit 2 ;; esac
readonly venv="$PWD/.venv"

fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

usable() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

complete() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() {
    local name
    for name in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        if usable "$name"; then
            echo "$name"
            return
        fi
    done
    fail 'Python 3.11, 3.12 or 3.13 is needed: install one, or name one with PYTHON=path'
}

make_venv() {
    local python
    python="$(find_python)"
    if ! complete "$python" && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo 'Python lacks its venv module: installing python3-venv' >&2
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q >&2 </dev/null && apt-get install -q -y python3-venv >&2 </dev/null
    fi
    complete "$python" || fail "$python lacks its venv module: on Debian, \`apt-get install python3-venv\` as root"
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

# An environment knows its own path: one that was moved or copied with the tree would run the other tree's code.
here() { usable "$venv/bin/python" && grep -qsF "$venv/bin/python" "$venv/bin/pip"; }

fingerprint() { cat pyproject.toml requirements/*.txt scripts/setup.sh | sha256sum; }

current() {
    local stamp
    for stamp in "$venv/.setup-$kind" "$venv/.setup-dev"; do
        if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint)" ]; then return 0; fi
    done
    return 1
}

install() {
    local pip=("$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input install)
    local -A files=([runtime]='-r requirements/runtime.txt -r requirements/build.txt' [dev]='-r requirements/dev.txt')
    # shellcheck disable=SC2086 # each value is several words
    "${pip[@]}" --require-hashes ${files[$kind]}
    "${pip[@]}" --no-deps --no-build-isolation --editable .
}

if here && current; then exit 0; fi
here || make_venv
echo "Setting up .venv ($kind)" >&2
rm -f "$venv"/.setup-*
install
fingerprint >"$venv/.setup-$kind"

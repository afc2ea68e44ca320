#!/usr/bin/env bash
# Pin requirements/*.in anew, with hashes and without addresses, by pip-tools in a throw-away environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh dev

tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
.venv/bin/python -m venv "$tools"
"$tools/bin/python" -m pip --quiet --disable-pip-version-check install pip-tools

pin() {
    echo "Pinning requirements/$1.txt"
    "$tools/bin/pip-compile" --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header \
        --no-emit-index-url --no-emit-trusted-host --no-emit-find-links --no-emit-options \
        --output-file "$1.txt" "${@:2}" "$1.in"
}

cd requirements
pin runtime
pin build
pin go
pin dev --constraint runtime.txt --constraint build.txt # what users run is what was tested

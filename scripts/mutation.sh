#!/usr/bin/env bash
# Mutate the pure modules, run their unit tests against every mutant, and list those that survive: docs/mutation.md explains
# each that may. Arguments limit the run to some mutants, for example `scripts/mutation.sh 'keyvault.states.*'`.
# JOBS=n chooses how many run at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts/setup.sh dev

nice .venv/bin/mutmut run --max-children "${JOBS:-$(nproc)}" "$@" >&2
survivors="$(.venv/bin/mutmut results | sed -n 's/^ *\([^ ]*\): \(survived\|no tests\|suspicious\|segfault\)$/\1/p')"

unexplained=0
for mutant in $survivors; do
    if grep -qF "\`$mutant\`" docs/mutation.md; then
        echo "explained    $mutant"
    else
        echo "unexplained  $mutant"
        unexplained=1
    fi
done
exit "$unexplained"

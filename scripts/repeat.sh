#!/usr/bin/env bash
# Repeats the tests on a busy machine, to find those that fail once in many runs.
#
#   scripts/repeat.sh [RACING [OTHERS]]   number of runs of the tests that race (default: 20), and of all tests (default: 3)
#
# Builds once. Each processor has a busy loop beside the tests. Ends with the counts, and status 1 if a test failed; the
# output of failed runs stays below target/repeat/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

racing=${1:-20} others=${2:-3}
logs=target/repeat
export MEMORY_MODEL_QEMU=skip # scripts/qemu.sh runs these
rm -rf "$logs"
mkdir -p "$logs"
cargo test --workspace --lib --bins --tests --no-run

busy=()
trap 'kill "${busy[@]}" 2>/dev/null || true' EXIT
for ((number = $(nproc); number > 0; number--)); do
    (while :; do :; done) &
    busy+=($!)
done

# repeat TIMES NAME ARGUMENT...: runs `cargo test` that number of times.
repeat() {
    local run
    (($1 > 0)) || return 0
    for ((run = 1; run <= $1; run++)); do
        if ! cargo test --no-fail-fast "${@:3}" >"$logs/$2-$run.log" 2>&1; then
            say "failed: $logs/$2-$run.log"
            grep -E '^test .* FAILED|panicked at|signal:' "$logs/$2-$run.log" || true
        fi
    done
    cat "$logs/$2"-*.log | awk -v "name=$2" -v "runs=$1" '/^test result:/ { passed += $4; failed += $6 }
        END { printf "%-8s %2d runs: %d passed, %d failed\n", name, runs, passed, failed }'
}

for name in faults atomic dirty plug buffers; do
    repeat "$racing" "$name" -p memory-model --test "$name"
done
repeat "$racing" threads --workspace --lib --bins --tests threads
repeat "$others" all --workspace --lib --bins --tests

if grep -lE '^test result: FAILED|process didn.t exit' "$logs"/*.log; then
    die "some runs failed"
fi

#!/usr/bin/env bash
# Instructions of the library for one message, by valgrind's callgrind; see docs/performance.md.
#
#   benches/instructions.sh                     all workloads
#   benches/instructions.sh echo-64 proxy-64    some
#   benches/instructions.sh --top 15 echo-64    and the functions that take the most
#
# EVRING_MESSAGES=4096 sets how many messages are counted; of 16 KiB an eighth of it.
set -euo pipefail
cd "$(dirname "$0")/.."

top=0
if [ "${1-}" = --top ]; then
    top=$2
    shift 2
fi
workloads=("$@")
[ ${#workloads[@]} -gt 0 ] || workloads=(echo-64 echo-64-timed echo-16k proxy-64 proxy-16k pair)
messages=${EVRING_MESSAGES:-4096}

command -v valgrind >/dev/null || { echo "valgrind is not installed" >&2; exit 1; }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

program=$(cargo test -q --release --lib --no-run --message-format=json |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4)

# Counts while the library runs: neither in the simulated kernel nor in the far ends.
count() { # workload messages
    EVRING_WORKLOAD=$1 EVRING_MESSAGES=$2 valgrind --tool=callgrind \
        --callgrind-out-file="$scratch/$1.$2" \
        --toggle-collect='*driver::sim::Sim as *driver::Driver>::*' \
        --toggle-collect='*simulation::instructions::next_round' \
        --collect-atstart=yes \
        "$program" --ignored --exact --nocapture --test-threads=1 \
        simulation::instructions::count_instructions >"$scratch/log" 2>&1 ||
        { cat "$scratch/log" >&2; exit 1; }
    sed -n 's/^summary: //p; s/^totals: //p' "$scratch/$1.$2" | head -n 1
}

printf '%-16s %12s %12s\n' workload instructions messages
for workload in "${workloads[@]}"; do
    counted=$messages
    # The simulated kernel moves them byte by byte.
    [[ $workload != *-16k ]] || counted=$((messages / 8))
    once=$(count "$workload" "$counted")
    twice=$(count "$workload" $((2 * counted)))
    # What start and end of the program cost is in both.
    each=$(awk "BEGIN { printf \"%.1f\", ($twice - $once) / $counted }")
    printf '%-16s %12s %12s\n' "$workload" "$each" "$counted"
    if [ "$top" -gt 0 ]; then
        callgrind_annotate "$scratch/$workload.$((2 * counted))" |
            sed -n '/file:function/,$p' | grep -v '^-' | grep -v '^$' | head -n $((top + 1))
    fi
done

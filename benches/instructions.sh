#!/usr/bin/env bash
# Instructions of the library for one message, by valgrind's callgrind; see docs/performance.md.
#
#   benches/instructions.sh                     all workloads
#   benches/instructions.sh echo-64 proxy-64    some
#   benches/instructions.sh --top 15 echo-64    and the functions that take the most, in both runs
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

program=$(cargo test -q --release -p evring --lib --no-run --message-format=json |
    grep -o '"executable":"[^"]*"' | cut -d'"' -f4)

# What is spent in the library's own functions, wherever they are called from; not in those of the
# simulated kernel, of the far ends, of the allocator and of the C library.
count() { # workload messages
    EVRING_WORKLOAD=$1 EVRING_MESSAGES=$2 valgrind --tool=callgrind \
        --callgrind-out-file="$scratch/$1.$2" \
        "$program" --ignored --exact --nocapture --test-threads=1 \
        simulation::instructions::count_instructions >"$scratch/log" 2>&1 ||
        { cat "$scratch/log" >&2; exit 1; }
    python3 - "$scratch/$1.$2" "$top" <<'PYTHON'
import re, sys
outside = re.compile(r"driver::sim|evring::simulation::|SpecFromIterNested")
names, costs, function = {}, {}, ""
def name(text):
    number, _, given = text.partition(" ")
    return names.setdefault(number, given)
lines = iter(open(sys.argv[1], errors="replace"))
for line in lines:
    if line.startswith("fn="):
        function = name(line[3:].strip())
    elif line.startswith("cfn="):
        name(line[4:].strip())
    elif line.startswith("calls="):
        next(lines)  # what the callee costs is counted there
    elif line[0] in "0123456789+-*":
        costs[function] = costs.get(function, 0) + int(line.split()[-1])
library = [f for f in costs if "evring" in f and not outside.search(f)]
print(sum(costs[f] for f in library))
for function in sorted(library, key=costs.get, reverse=True)[: int(sys.argv[2])]:
    print(f"    {costs[function]:>12}  {function}", file=sys.stderr)
PYTHON
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
done

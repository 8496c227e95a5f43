#!/usr/bin/env bash
# Checks the layering that ARCHITECTURE.md promises, from what cargo resolves:
#
#   1. a crate depends only on crates that stand before it in `order`
#   2. the pure crates reach none of `impure`, however far down
#   3. only tidemill-engine depends on DataFusion itself
#   4. development dependencies add no feature to a crate that the binary is built from too, so that `cargo run` and
#      `cargo test --workspace` share one build of the dependencies
#
# Otherwise development dependencies are free: tests may look at everything.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly order=(
    tidemill-types tidemill-dstream tidemill-scheduler tidemill-config tidemill-rpc tidemill-journal tidemill-storage tidemill-engine
    tidemill-connectors tidemill-driver tidemill-executor tidemill-client tidemill-local tidemill tidemill-testkit
    tidemill-bench tidemill-tests custom-build
)
readonly pure=(tidemill-types tidemill-dstream tidemill-scheduler)
readonly impure='^(tokio|tonic|prost|arrow|datafusion)(-|$)'

faults=0
fault() {
    printf 'layering: %s\n' "$*" >&2
    faults=$((faults + 1))
}
tree() { cargo tree --locked --edges normal,build --prefix depth --no-dedupe --format ' {p}' "$@"; }
place() {
    local i
    for i in "${!order[@]}"; do
        if [ "${order[$i]}" = "$1" ]; then
            printf '%s\n' "$i"
            return
        fi
    done
}

# Lines of "depth crate version".
direct=$(tree --workspace --depth 1)
crate="" own=""
while read -r depth name _; do
    case $depth in
        0)
            crate=$name
            own=$(place "$crate")
            [ -n "$own" ] || fault "$crate has no place in the order: add it to $0"
            ;;
        1)
            below=$(place "$name")
            if [ -n "$below" ] && [ "$below" -ge "${own:-${#order[@]}}" ]; then
                fault "$crate depends on $name, which stands behind it"
            fi
            case $name in
                datafusion | datafusion-*)
                    [ "$crate" = tidemill-engine ] || fault "$crate depends on $name, which is for tidemill-engine alone"
                    ;;
            esac
            ;;
    esac
done <<<"$direct"

for crate in "${pure[@]}"; do
    found=$(tree -p "$crate" | awk '{ print $2 }' | sort -u | grep -E "$impure" | paste -sd ' ' || true)
    [ -z "$found" ] || fault "$crate is pure and yet reaches: $found"
done

# Lines of "crate version features", of what is built for the target.
features() {
    cargo tree --locked --workspace --prefix none --format '{p} {f}' --edges "$1" | sed 's/ (\*)$//' | LC_ALL=C sort -u
}
run=$(features normal,no-proc-macro)
test=$(features normal,dev,no-proc-macro)
split=$(LC_ALL=C comm -23 <(printf '%s\n' "$run") <(printf '%s\n' "$test") | cut -d ' ' -f 1-2 | paste -sd ' ')
[ -z "$split" ] || fault "built twice, because development dependencies add features: $split"

if [ "$faults" -gt 0 ]; then
    exit 1
fi
printf 'layering: %s crates in order\n' "$(grep -c '^0 ' <<<"$direct")"

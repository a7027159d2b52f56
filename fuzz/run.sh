#!/bin/sh
# Fuzzes each target for FUZZ_SECONDS, or only those named. What is found is written to artifacts/ and ends the run.
# No sanitizer: there is no unsafe code to watch, and so the stable compiler will do.
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-20}
# A stack of cargo-fuzz's own would hide the compiler's error above it.
export RUST_BACKTRACE=0
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install --locked --debug --version "^0.13" cargo-fuzz
fi
cargo fuzz build --fuzz-dir . --sanitizer none
[ $# -gt 0 ] || set -- $(cargo fuzz list --fuzz-dir .)
for target in "$@"; do
    seeds="seeds/$target"
    [ "$target" = configuration ] && seeds="../conf ../tests/config_corpus/wrong ../tests/config_corpus/risky"
    mkdir -p "corpus/$target"
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # shellcheck disable=SC2086 # several folders
    cargo fuzz run --fuzz-dir . --sanitizer none "$target" "corpus/$target" $seeds -- \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=0
done

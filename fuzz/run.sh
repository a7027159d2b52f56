#!/bin/sh
# Fuzzes each target for FUZZ_SECONDS, or only those named. What is found is written to artifacts/ and ends the run.
# The libraries are built as for everything else with FUZZ_PROFILE; only our own code is watched, by LLVM's counters of
# branches and comparisons. No sanitizer: there is no unsafe code to watch, and so the stable compiler will do.
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-20}
profile=${FUZZ_PROFILE:-fuzz}
[ $# -gt 0 ] || set -- $(ls fuzz_targets | sed 's/\.rs$//')
export RUSTC_WORKSPACE_WRAPPER="$PWD/watch.sh"
cargo build --locked --profile "$profile" --package portcullis-fuzz
for target in "$@"; do
    seeds="seeds/$target"
    [ "$target" = configuration ] && seeds="../conf ../tests/config_corpus/wrong ../tests/config_corpus/risky"
    mkdir -p "corpus/$target" "artifacts/$target"
    printf '\n== %s, %s s\n' "$target" "$seconds"
    # shellcheck disable=SC2086 # several folders
    cargo run --quiet --locked --profile "$profile" --package portcullis-fuzz --bin "$target" -- \
        "corpus/$target" $seeds -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -timeout=20 -rss_limit_mb=3000 -print_final_stats=1 -verbosity=0
done

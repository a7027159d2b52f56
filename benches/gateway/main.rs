//! What the whole gateway costs beside a raw Pingora passthrough with the same allocator, and beside HAProxy
//! and Envoy if they are on the path: CPU time per request, in pairs of short runs in alternating order, as ratios with
//! quartiles. `PAIRS` and `REQUESTS` (per run) change how many.
//!
//! With the argument `instructions` it counts instructions per request under callgrind instead, which no
//! neighbour on the machine disturbs; with `gate` it does so and fails if the warm path has grown.

// A bench panics to fail, and is told how long to run by the environment.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::disallowed_methods, clippy::cast_precision_loss, clippy::doc_markdown, unreachable_pub)]

mod compare;
mod floor;
mod instructions;
mod load;
mod site;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // Cargo adds `--bench`.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => compare::run(),
        ["instructions"] => instructions::run(),
        ["gate"] => instructions::gate(),
        ["passthrough", listen, upstream] => floor::run(listen, upstream.parse().unwrap()),
        _ => panic!("arguments: none, `instructions` or `gate`"),
    }
}

/// A number from the environment.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

//! The `portcullis` binary: the allocator, the cryptography, then the command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // First of all: whoever builds a TLS configuration before this would choose another provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("portcullis: a cryptography provider is installed already");
        return ExitCode::FAILURE;
    }
    portcullis::cli::main()
}

//! The `portcullis` binary: the allocator, the cryptography, then the command line.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // No huge pages, whatever the machine's setting. The kernel's thread that gathers them for a process has the lowest
    // priority, and where it sleeps among busy process groups Linux (seen with 6.18) may keep threads of others from a
    // core for 0.2 s and more: upstreams and clients on this machine would wait for it.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // First of all: whoever builds a TLS configuration before this would choose another provider.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("portcullis: a cryptography provider is installed already");
        return ExitCode::FAILURE;
    }
    portcullis::cli::main()
}

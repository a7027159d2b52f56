//! The command line: what `portcullis` understands.

mod account;
pub mod check;
pub mod explain;
pub mod hash_password;
mod junit;
pub mod keys;
pub mod routes;
pub mod run;
pub mod schema;
mod terminal;
pub mod test;
mod trial;

use clap::{Parser, Subcommand};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

/// The arguments of the program.
#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    about = "A reverse-proxy auth gateway",
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway until it is told to stop
    Run {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Take over from the gateway that runs, once this one is ready (`server.upgrade_socket`)
        #[arg(long)]
        upgrade: bool,
    },
    /// Check a configuration: every error and every risk, with its place and its mend
    Check {
        /// The configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// List the routes and what each asks for
    Routes(routes::Arguments),
    /// Say what would become of a request: the route, every check, the reason, what the upstream gets
    Explain(explain::Arguments),
    /// Hold the policy against a file of cases: requests, callers, expected decisions
    Test(test::Arguments),
    /// List our signing keys, or make the next one
    #[command(subcommand)]
    Keys(keys::Action),
    /// Print the JSON Schema of the configuration for editors, or the reference of its keys for people
    Schema(schema::Arguments),
    /// Read a password on standard input and print its hash for the users file
    HashPassword,
}

/// Does what the arguments of this process say.
pub fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config, upgrade } => run::run(&config, upgrade),
        Command::Check { config } => check::run(&config),
        Command::Routes(arguments) => routes::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Keys(action) => keys::run(&action),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::HashPassword => hash_password::run(),
    }
}

/// Prints what a command was asked for. That nobody listens is a failure: the reader may be a program.
fn print(text: &str) -> ExitCode {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Says why there is nothing to print.
fn fail(why: &str) -> ExitCode {
    // Nobody is left to tell that nobody listens.
    let _ = writeln!(io::stderr().lock(), "{why}");
    ExitCode::FAILURE
}

/// Runs what waits, for a command that does nothing else.
fn blocking<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| format!("the system refuses: {error}"))?.block_on(work)
}

//! Diagnostics: where they go, how they look, and what is never among them.

use crate::gateway::settings::{LogFormat, LogLevel, LogSettings};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, fmt};

/// Sends diagnostics to standard error; standard output is for access and audit lines. Libraries are heard
/// from `warn` up whatever the level: below it they print header fields, and those hold tokens. Pingora's
/// proxy and the servers of its core are not heard at all: they quote requests they cannot parse, and the
/// gateway itself says what became of each request. The TLS library and Pingora's reader of bodies warn of what the
/// other side does wrong: whoever connects could fill the log.
pub(super) fn start(settings: LogSettings) {
    let level = filter(settings.level);
    let targets = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("portcullis", level)
        .with_target("pingora_proxy", LevelFilter::OFF)
        .with_target("pingora_core::apps", LevelFilter::OFF)
        .with_target("pingora_core::protocols::http::v1::body", LevelFilter::ERROR.min(level))
        .with_target("rustls", LevelFilter::ERROR.min(level));
    let layer = match settings.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => fmt::layer().with_ansi(false).with_writer(std::io::stderr).boxed(),
    };
    // Fails only if logging was started before, and then it works already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(targets)).try_init();
    // None of them is heard below that, and Pingora makes texts for it of what is none, and panics.
    log::set_max_level(log::LevelFilter::Warn);
}

const fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

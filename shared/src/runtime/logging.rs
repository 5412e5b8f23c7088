//! Writes logs as JSON lines to standard output, which Lambda sends to CloudWatch Logs.
//! `docs/LOGGING.md` lists the fields.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Starts logging: Stepward's events from level `INFO`, and other crates' events from level `WARN`,
/// because the SDK's debug logs contain HTTP headers.
pub fn init() {
    let levels = Targets::new()
        .with_target("stepward", LevelFilter::INFO)
        // This target repeats every error that a function returns, without fields.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
        .with_default(LevelFilter::WARN);
    let json_lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_target(false);
    // In tests, a subscriber may be installed already.
    let _ = tracing_subscriber::registry()
        .with(json_lines.with_filter(levels))
        .try_init();
    std::panic::set_hook(Box::new(|panic| {
        // Log only the location: the message may contain a parameter's value.
        let location = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(
            panic.location = location,
            "internal error (panic); please report it with this location"
        );
    }));
}

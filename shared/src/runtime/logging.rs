//! Logs as JSON lines on standard output, which Lambda takes to CloudWatch Logs. `docs/LOGGING.md`
//! lists the fields.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Begins logging: ours from `INFO`, other crates' from `WARN`, because the SDK's own debug logs
/// hold headers.
pub fn init() {
    let ours = Targets::new()
        .with_target("stepward", LevelFilter::INFO)
        // It repeats every error that a function answers, without fields.
        .with_target("lambda_runtime::layers::panic", LevelFilter::OFF)
        .with_default(LevelFilter::WARN);
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_span_list(false)
        .with_target(false);
    // A second call, in tests, finds one in place already.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(ours))
        .try_init();
    std::panic::set_hook(Box::new(|panic| {
        // The place only: the message may hold a parameter's value.
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(
            panic.location = place,
            "a panic in the step; this is a fault in Stepward"
        );
    }));
}

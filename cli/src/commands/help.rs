//! The help of commands.

/// A help template that ends with examples.
///
/// clap wraps everything that is set with `after_help` at the terminal's width. An operator cannot
/// paste a wrapped example, so the examples are part of the template, which clap prints unchanged.
/// Explanations stay in `after_help`.
///
/// The template is clap's default; `examples` are lines without indentation.
pub(crate) fn with_examples(examples: &str) -> String {
    let lines: Vec<_> = examples.lines().map(|line| format!("  {line}")).collect();
    format!(
        "{{before-help}}{{about-with-newline}}\n{{usage-heading}} {{usage}}\n\n\
         {{all-args}}{{after-help}}\n\nExamples:\n{}",
        lines.join("\n")
    )
}

//! Errors in texts that an operator wrote, with the position of the error.

use std::fmt::Display;

use crate::model::error::{ErrorName, StepError};

/// Returns `InvalidInput` with the line and the column of the error, both counted from 1.
///
/// `position` is the byte of `text` at which the error is.
#[must_use]
pub fn syntax_error(
    parameter: &str,
    text: &str,
    position: usize,
    problem: impl Display,
) -> StepError {
    let mut position = position.min(text.len());
    while !text.is_char_boundary(position) {
        position -= 1;
    }
    let before = &text[..position];
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    let location = match before.matches('\n').count() {
        0 if !text.trim_end().contains('\n') => format!("column {column}"),
        lines => format!("line {}, column {column}", lines + 1),
    };
    ErrorName::InvalidInput.with_message(format!("{parameter}, {location}: {problem}"))
}

/// Quotes the beginning of a text for an error message, after "found".
#[must_use]
pub fn quote_found(text: &str) -> String {
    const MAX_LENGTH: usize = 24;
    let text = text.trim_start();
    match text.chars().count() {
        0 => "the end".into(),
        1..=MAX_LENGTH => format!("{text:?}"),
        _ => {
            let beginning = text.chars().take(MAX_LENGTH).chain(['…']);
            format!("{:?}", beginning.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_has_a_line_only_in_multiline_texts() {
        let message = |text, position| syntax_error("filter", text, position, "no").message;
        assert_eq!(message("näme: x", 3), "filter, column 3: no");
        assert_eq!(message("a\nbc", 3), "filter, line 2, column 2: no");
        assert_eq!(message("a\nbc", 0), "filter, line 1, column 1: no");
        assert_eq!(message("ä", 1), "filter, column 1: no");
        assert_eq!(message("a", 99), "filter, column 2: no");
    }
}

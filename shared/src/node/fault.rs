//! Where a text that a person wrote is wrong.

use std::fmt::Display;

use crate::model::error::{ErrorName, StepError};

/// `InvalidInput` that says where in the text the fault is, by line and column from 1, and what it
/// is.
#[must_use]
pub fn fault(parameter: &str, text: &str, at: usize, what: impl Display) -> StepError {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    let place = match before.matches('\n').count() {
        0 if !text.trim_end().contains('\n') => format!("column {column}"),
        lines => format!("line {}, column {column}", lines + 1),
    };
    ErrorName::InvalidInput.with_message(format!("{parameter}, {place}: {what}"))
}

/// What stands at a place, for a message.
#[must_use]
pub fn found(text: &str) -> String {
    const SHOWN: usize = 24;
    let word = text.trim_start();
    match word.chars().count() {
        0 => "the end".into(),
        1..=SHOWN => format!("{word:?}"),
        _ => format!(
            "{:?}",
            word.chars().take(SHOWN).chain(['…']).collect::<String>()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_by_characters_and_by_lines_where_there_are_several() {
        let said = |text, at| fault("filter", text, at, "no").message;
        assert_eq!(said("näme: x", 3), "filter, column 3: no");
        assert_eq!(said("a\nbc", 3), "filter, line 2, column 2: no");
        assert_eq!(said("a\nbc", 0), "filter, line 1, column 1: no");
        assert_eq!(said("ä", 1), "filter, column 1: no");
        assert_eq!(said("a", 99), "filter, column 2: no");
    }
}

//! Text that a shell reads as what it is, and never as code.

/// A value as one word of a POSIX shell.
///
/// SSM documents put values of their own in place of `{{name}}`, and of `$$` perhaps one `$`: neither is in a word made
/// here, because quotes are closed and opened between the two, which a shell takes for nothing.
/// <https://docs.aws.amazon.com/systems-manager/latest/userguide/sysman-param-runcommand.html>
#[must_use]
pub fn word(value: &str) -> String {
    let mut word = String::with_capacity(value.len() + 2);
    let mut before = None;
    word.push('\'');
    for c in value.chars() {
        match c {
            '\'' => word.push_str(r"'\''"),
            '{' | '$' if before == Some(c) => word.extend(["''", c.encode_utf8(&mut [0; 4])]),
            c => word.push(c),
        }
        before = Some(c);
    }
    word.push('\'');
    word
}

/// Values as words of one line.
#[must_use]
pub fn line<'a>(values: impl IntoIterator<Item = &'a str>) -> String {
    values.into_iter().map(word).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_ends_where_it_ends_and_holds_nothing_that_a_document_would_replace() {
        assert_eq!(word(""), "''");
        assert_eq!(word("it's"), r"'it'\''s'");
        assert_eq!(word("{{{x}} $$"), "'{''{''{x}} $''$'");
        assert_eq!(line(["a b", "-c"]), "'a b' '-c'");
    }
}

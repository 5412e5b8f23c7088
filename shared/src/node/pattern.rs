//! The regular expressions of node filters.
//!
//! Operators wrote them for Java's engine. Stepward uses Rust's engine, which takes time in
//! proportion to the length of the text. It does not support every feature of Java's engine. A
//! pattern that uses such a feature is refused, because ignoring the feature would select other
//! nodes.

use regex::{Regex, RegexBuilder};
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSetItem, Flag, FlagsItemKind,
    RepetitionKind, Span,
};
use regex_syntax::hir;
use regex_syntax::hir::translate::Translator;

/// The maximum memory for a compiled pattern, in bytes. It is enough for `\w{1,63}(\.\w{1,63}){3}`
/// ten times.
const MAX_MEMORY: usize = 1024 * 1024;
/// How deep groups may be nested.
const MAX_DEPTH: u32 = 64;

/// The reason why a pattern cannot be used.
#[derive(Debug)]
pub(super) struct PatternError {
    /// The position of the error in the pattern, in bytes.
    pub(super) position: usize,
    /// The error, with advice.
    pub(super) message: String,
    /// Whether the pattern is not a regular expression for Java's engine either.
    pub(super) is_malformed: bool,
}

impl PatternError {
    fn java_only_feature(position: usize, feature: &str) -> Self {
        Self {
            position,
            message: format!(
                "{feature} is supported only by Java's regular expressions; \
                 write the pattern without it"
            ),
            is_malformed: false,
        }
    }

    fn malformed_pattern(position: usize, problem: impl std::fmt::Display) -> Self {
        Self {
            position,
            message: format!("not a regular expression: {problem}"),
            is_malformed: true,
        }
    }
}

/// Compiles a pattern that must match a whole text.
pub(super) fn compile(pattern: &str) -> Result<Regex, PatternError> {
    let ast = ParserBuilder::new()
        .nest_limit(MAX_DEPTH)
        .build()
        .parse(pattern)
        .map_err(|error| syntax_error(pattern, &error))?;
    let classes = ast::visit(
        &ast,
        JavaCheck {
            pattern,
            classes: Vec::new(),
        },
    )?;
    Translator::new()
        .translate(pattern, &ast)
        .map_err(|error| translation_error(pattern, &error))?;

    let mut pattern = pattern.to_owned();
    for (span, class) in classes.into_iter().rev() {
        pattern.replace_range(span.start.offset..span.end.offset, class);
    }
    // The pattern was parsed without the surrounding group, so it cannot close that group.
    let regex = RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .size_limit(MAX_MEMORY)
        .dfa_size_limit(MAX_MEMORY)
        .build();
    regex.map_err(|_| PatternError {
        position: 0,
        message: format!(
            "the pattern needs more than {} MiB of memory; use a smaller pattern",
            MAX_MEMORY / 1024 / 1024
        ),
        is_malformed: false,
    })
}

/// Refuses syntax that Rust's engine accepts with another meaning than Java's. Collects the classes
/// `\d`, `\s` and `\w`, which contain only ASCII characters in Java.
struct JavaCheck<'p> {
    pattern: &'p str,
    classes: Vec<(Span, &'static str)>,
}

impl ast::Visitor for JavaCheck<'_> {
    type Output = Vec<(Span, &'static str)>;
    type Err = PatternError;

    fn finish(self) -> Result<Self::Output, PatternError> {
        Ok(self.classes)
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), PatternError> {
        if let ClassSetItem::Perl(class) = item {
            self.collect_class(class);
        }
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), PatternError> {
        match ast {
            Ast::Repetition(outer) => self.check_repetition(outer),
            Ast::Flags(set) => check_flags(&set.flags),
            Ast::ClassPerl(class) => {
                self.collect_class(class);
                Ok(())
            }
            Ast::Group(group) => group.flags().map_or(Ok(()), check_flags),
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::WordBoundaryStartAngle | AssertionKind::WordBoundaryEndAngle => {
                    Err(PatternError::java_only_feature(
                        assertion.span.start.offset,
                        r"\< or \> for the character itself",
                    ))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl JavaCheck<'_> {
    fn collect_class(&mut self, class: &ClassPerl) {
        let ascii = match (&class.kind, class.negated) {
            (ClassPerlKind::Digit, false) => "[0-9]",
            (ClassPerlKind::Digit, true) => "[^0-9]",
            (ClassPerlKind::Space, false) => r"[ \t\n\x0B\f\r]",
            (ClassPerlKind::Space, true) => r"[^ \t\n\x0B\f\r]",
            (ClassPerlKind::Word, false) => "[0-9A-Z_a-z]",
            (ClassPerlKind::Word, true) => "[^0-9A-Z_a-z]",
        };
        self.classes.push((class.span, ascii));
    }

    fn check_repetition(&self, outer: &ast::Repetition) -> Result<(), PatternError> {
        let position = outer.op.span.start.offset;
        let Ast::Repetition(inner) = &*outer.ast else {
            return Ok(());
        };
        let is_possessive = outer.greedy && matches!(outer.op.kind, RepetitionKind::OneOrMore);
        if !is_possessive {
            let problem = "a quantifier cannot follow another quantifier";
            return Err(PatternError::malformed_pattern(position, problem));
        }
        // At the end of a pattern and after one character, a possessive quantifier has no effect.
        // `c++` can also be a name.
        let is_after_character = matches!(&*inner.ast, Ast::Literal(_) | Ast::Dot(_));
        if is_after_character && outer.op.span.end.offset == self.pattern.len() {
            return Ok(());
        }
        let quantifier = &self.pattern[position - 1..=position];
        Err(PatternError::java_only_feature(
            position - 1,
            &format!("the possessive quantifier {quantifier:?}"),
        ))
    }
}

fn check_flags(flags: &ast::Flags) -> Result<(), PatternError> {
    for item in &flags.items {
        let position = item.span.start.offset;
        match item.kind {
            // A comment ends at the end of the line, so it would include the end of the group that
            // surrounds the pattern.
            FlagsItemKind::Flag(Flag::IgnoreWhitespace) => {
                return Err(PatternError {
                    position,
                    message: "the flag x (comments) is not supported; \
                              write the pattern without spaces and comments"
                        .into(),
                    is_malformed: false,
                });
            }
            FlagsItemKind::Flag(Flag::SwapGreed) => {
                let feature = "the flag U (Unicode classes)";
                return Err(PatternError::java_only_feature(position, feature));
            }
            _ => {}
        }
    }
    Ok(())
}

fn syntax_error(pattern: &str, error: &ast::Error) -> PatternError {
    let Span { start, end } = *error.span();
    let text = pattern.get(start.offset..end.offset).unwrap_or_default();
    match error.kind() {
        ast::ErrorKind::UnsupportedLookAround => {
            PatternError::java_only_feature(start.offset, &format!("look-around {text:?}"))
        }
        ast::ErrorKind::UnsupportedBackreference if text.starts_with(r"\0") => {
            PatternError::java_only_feature(start.offset, &format!("the octal character {text:?}"))
        }
        ast::ErrorKind::UnsupportedBackreference => {
            PatternError::java_only_feature(start.offset, &format!("the backreference {text:?}"))
        }
        ast::ErrorKind::FlagUnrecognized
            if pattern[..start.offset].ends_with("(?") && text == ">" =>
        {
            PatternError::java_only_feature(start.offset - 2, "the atomic group \"(?>\"")
        }
        ast::ErrorKind::FlagUnrecognized if text == "d" => {
            PatternError::java_only_feature(start.offset, "the flag d (Unix lines)")
        }
        // Java's escapes for named backreferences, quotations, line and grapheme breaks, blanks,
        // the end of the previous match, and characters by control code or name.
        ast::ErrorKind::EscapeUnrecognized
            if text.ends_with([
                'k', 'Q', 'E', 'R', 'X', 'h', 'H', 'V', 'G', 'Z', 'c', 'e', 'N',
            ]) =>
        {
            PatternError::java_only_feature(start.offset, &format!("the escape {text:?}"))
        }
        kind => PatternError::malformed_pattern(start.offset, kind),
    }
}

fn translation_error(pattern: &str, error: &hir::Error) -> PatternError {
    let Span { start, end } = *error.span();
    let text = pattern.get(start.offset..end.offset).unwrap_or_default();
    match error.kind() {
        hir::ErrorKind::UnicodePropertyNotFound | hir::ErrorKind::UnicodePropertyValueNotFound => {
            PatternError::java_only_feature(start.offset, &format!("the class {text:?}"))
        }
        kind => PatternError::malformed_pattern(start.offset, kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_must_match_the_whole_text() {
        let is_match = |pattern: &str, text: &str| compile(pattern).unwrap().is_match(text);
        assert!(
            is_match("web-.*", "web-1") && !is_match("web", "web-1") && !is_match("1", "web-1")
        );
        assert!(is_match("a|ab", "ab") && !is_match("a|b", "ab"));
        assert!(
            is_match("(?i)WEB", "web")
                && is_match("[a-c&&[^b]]+", "ca")
                && is_match(r"\p{Alpha}+", "web")
        );
        assert!(is_match("c++", "c") && is_match("notepad++", "notepaddd"));
        assert!(is_match(
            r"(\w{1,63}(\.\w{1,63}){3}){10}",
            &"a.b.c.d".repeat(10)
        ));
        assert!(
            is_match(r"\d\s\w[\d-]\D\S\W", "1 a-xy!")
                && !is_match(r"\d", "٣")
                && !is_match(r"[\w]", "ä")
        );
    }

    #[test]
    fn java_only_features_are_named_with_their_position() {
        for (pattern, position, feature) in [
            ("web(?!-1).*", 3, "look-around \"(?!\""),
            ("(?<=a)b", 0, "look-around \"(?<=\""),
            (r"(a)\1", 3, "the backreference"),
            (r"(?<n>a)\k<n>", 7, "the escape"),
            ("a(?>b|c)", 1, "the atomic group"),
            ("a*+b", 1, "the possessive quantifier \"*+\""),
            ("(a|b)++", 5, "the possessive quantifier \"++\""),
            (r"\Qa.b\E", 0, "the escape"),
            (r"a\Z", 1, "the escape"),
            (r"\p{javaLowerCase}", 0, "the class"),
            (r"\p{Alnum}+", 0, "the class"),
            (r"\0101", 0, "the octal character"),
            ("(?d)a", 2, "the flag d"),
            ("(?x)a # b", 2, "the flag x"),
            (r"\<a", 0, r"\<"),
            ("(?iU)a", 3, "the flag U"),
        ] {
            let error = compile(pattern).unwrap_err();
            assert!(
                !error.is_malformed && error.message.contains(feature),
                "{pattern}: {error:?}"
            );
            assert_eq!(error.position, position, "{pattern}: {error:?}");
        }
    }

    #[test]
    fn malformed_patterns_are_reported_as_malformed() {
        for (pattern, position) in [
            ("*web", 0),
            ("a**", 2),
            ("[x", 0),
            ("a)|(b", 1),
            ("(a", 0),
            ("a{2", 1),
            ("a{,2}", 2),
        ] {
            let error = compile(pattern).unwrap_err();
            assert!(error.is_malformed, "{pattern}: {error:?}");
            assert_eq!(error.position, position, "{pattern}: {error:?}");
        }
    }

    #[test]
    fn a_pattern_that_needs_too_much_memory_is_refused() {
        for pattern in [r"(\w{1000}){100}", "((((a{99}){99}){99}){99})"] {
            let error = compile(pattern).unwrap_err();
            assert!(error.message.contains("MiB"), "{error:?}");
        }
        assert!(
            compile(&format!("{}a{}", "(".repeat(1000), ")".repeat(1000)))
                .unwrap_err()
                .is_malformed
        );
    }
}

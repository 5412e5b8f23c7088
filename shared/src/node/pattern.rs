//! The regular expressions of node filters.
//!
//! Operators wrote them for Java's engine. Stepward uses Rust's engine, which takes time in
//! proportion to the length of the text. Both engines read most syntax in the same way, some of it
//! differently, and each supports syntax that the other does not. This module translates the syntax
//! that selects the same texts in every version of Java, and refuses the rest, because another
//! reading would select other nodes.

use regex::{Regex, RegexBuilder};
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassBracketed, ClassPerl, ClassPerlKind, ClassSet, ClassSetItem,
    Flag, FlagsItemKind, GroupKind, HexLiteralKind, LiteralKind, RepetitionKind, RepetitionRange,
    Span, SpecialLiteralKind,
};
use regex_syntax::hir::{Class, ClassUnicode, ClassUnicodeRange, Hir, Look, Repetition};

/// The characters that `.` does not match in Java.
pub(super) const LINE_TERMINATORS: [char; 5] = ['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}'];

/// The maximum memory for a compiled pattern, in bytes. It is enough for `\w{1,63}(\.\w{1,63}){3}`
/// ten times.
const MAX_MEMORY: usize = 1024 * 1024;
/// How deep groups may be nested.
const MAX_DEPTH: u32 = 64;
/// The letters that cannot follow a backslash in Java.
const NO_ESCAPES: &str = "CEFIJKLMOTUYgijlmoqy";
/// `\d` and `\p{Digit}` in Java, as ranges.
const DIGIT: &[(char, char)] = &[('0', '9')];
/// `\s` and `\p{Space}` in Java, as ranges.
const SPACE: &[(char, char)] = &[('\t', '\r'), (' ', ' ')];
/// Java's classes of ASCII characters, as ranges.
const ASCII_CLASSES: [(&str, &[(char, char)]); 13] = [
    ("ASCII", &[('\0', '\x7F')]),
    ("Alnum", &[('0', '9'), ('A', 'Z'), ('a', 'z')]),
    ("Alpha", &[('A', 'Z'), ('a', 'z')]),
    ("Blank", &[('\t', '\t'), (' ', ' ')]),
    ("Cntrl", &[('\0', '\x1F'), ('\x7F', '\x7F')]),
    ("Digit", DIGIT),
    ("Graph", &[('!', '~')]),
    ("Lower", &[('a', 'z')]),
    ("Print", &[(' ', '~')]),
    ("Punct", &[('!', '/'), (':', '@'), ('[', '`'), ('{', '~')]),
    ("Space", SPACE),
    ("Upper", &[('A', 'Z')]),
    ("XDigit", &[('0', '9'), ('A', 'F'), ('a', 'f')]),
];

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
    fn unsupported(span: Span, feature: impl std::fmt::Display) -> Self {
        Self {
            position: span.start.offset,
            message: format!(
                "{feature} is not supported in regular expressions of node filters; \
                 write the pattern without it"
            ),
            is_malformed: false,
        }
    }

    fn malformed(span: Span, problem: impl std::fmt::Display) -> Self {
        Self {
            position: span.start.offset,
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
    let mut translator = Translator {
        pattern,
        ignore_case: false,
        dot_matches_line_terminators: false,
    };
    let translated = translator.translate(&ast, true)?;
    let regex = RegexBuilder::new(&format!(r"\A(?:{translated})\z"))
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

/// Translates Java's syntax tree, with the flags that are set at the current position.
struct Translator<'p> {
    pattern: &'p str,
    /// `(?i)`, which in Java applies to ASCII letters.
    ignore_case: bool,
    /// `(?s)`.
    dot_matches_line_terminators: bool,
}

impl Translator<'_> {
    /// Translates a part of the pattern. `is_last` says whether nothing follows it.
    fn translate(&mut self, ast: &Ast, is_last: bool) -> Result<Hir, PatternError> {
        match ast {
            Ast::Empty(_) => Ok(Hir::empty()),
            Ast::Flags(set) => {
                self.set_flags(&set.flags)?;
                Ok(Hir::empty())
            }
            Ast::Literal(literal) => {
                let c = self.literal_char(literal)?;
                Ok(to_hir(self.folded(ClassUnicodeRange::new(c, c))))
            }
            Ast::Dot(_) if self.dot_matches_line_terminators => {
                Ok(to_hir(unicode_class(&[('\0', char::MAX)])))
            }
            Ast::Dot(_) => {
                let mut class = unicode_class(&LINE_TERMINATORS.map(|c| (c, c)));
                class.negate();
                Ok(to_hir(class))
            }
            Ast::Assertion(assertion) => match assertion.kind {
                AssertionKind::StartLine | AssertionKind::StartText => Ok(Hir::look(Look::Start)),
                AssertionKind::EndText => Ok(Hir::look(Look::End)),
                // In Java, `$` also matches before a line terminator at the end of the text.
                AssertionKind::EndLine if is_last => Ok(Hir::look(Look::End)),
                _ => Err(self.unsupported(assertion.span)),
            },
            Ast::ClassUnicode(class) => Ok(to_hir(self.named_class(class.span)?)),
            Ast::ClassPerl(class) => Ok(to_hir(perl_class(class))),
            Ast::ClassBracketed(class) => Ok(to_hir(self.bracketed_class(class)?)),
            Ast::Repetition(repetition) => self.repetition(repetition),
            Ast::Group(group) => self.group(group, is_last),
            Ast::Alternation(alternation) => {
                let branches = alternation.asts.iter();
                let branches = branches.map(|branch| self.translate(branch, is_last));
                Ok(Hir::alternation(branches.collect::<Result<_, _>>()?))
            }
            Ast::Concat(concat) => {
                let last = concat.asts.len().saturating_sub(1);
                let parts = concat.asts.iter().enumerate();
                let parts =
                    parts.map(|(index, part)| self.translate(part, is_last && index == last));
                Ok(Hir::concat(parts.collect::<Result<_, _>>()?))
            }
        }
    }

    fn group(&mut self, group: &ast::Group, is_last: bool) -> Result<Hir, PatternError> {
        let flags = (self.ignore_case, self.dot_matches_line_terminators);
        match &group.kind {
            GroupKind::CaptureIndex(_) => {}
            GroupKind::NonCapturing(flags) => self.set_flags(flags)?,
            GroupKind::CaptureName { name, .. } => {
                return Err(PatternError::unsupported(name.span, "a named group"));
            }
        }
        let translated = self.translate(&group.ast, is_last)?;
        (self.ignore_case, self.dot_matches_line_terminators) = flags;
        Ok(translated)
    }

    fn set_flags(&mut self, flags: &ast::Flags) -> Result<(), PatternError> {
        let mut is_set = true;
        for item in &flags.items {
            match item.kind {
                FlagsItemKind::Negation => is_set = false,
                FlagsItemKind::Flag(Flag::CaseInsensitive) => self.ignore_case = is_set,
                FlagsItemKind::Flag(Flag::DotMatchesNewLine) => {
                    self.dot_matches_line_terminators = is_set;
                }
                FlagsItemKind::Flag(_) => {
                    let feature = format!("the flag {}", self.text(item.span));
                    return Err(PatternError::unsupported(item.span, feature));
                }
            }
        }
        Ok(())
    }

    fn repetition(&mut self, repetition: &ast::Repetition) -> Result<Hir, PatternError> {
        let operator = repetition.op.span;
        let mut repeated = &*repetition.ast;
        if let Ast::Repetition(inner) = repeated {
            self.check_double_quantifier(repetition, inner)?;
            // The possessive `+`, which has no effect here.
            repeated = &inner.ast;
        }
        if matches!(repeated, Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_)) {
            let feature = "a quantifier without something that it repeats";
            return Err(PatternError::unsupported(operator, feature));
        }
        let kind = match &*repetition.ast {
            Ast::Repetition(inner) => &inner.op.kind,
            _ => &repetition.op.kind,
        };
        let (min, max) = match kind {
            RepetitionKind::ZeroOrOne => (0, Some(1)),
            RepetitionKind::ZeroOrMore => (0, None),
            RepetitionKind::OneOrMore => (1, None),
            RepetitionKind::Range(RepetitionRange::Exactly(count)) => (*count, Some(*count)),
            RepetitionKind::Range(RepetitionRange::AtLeast(min)) => (*min, None),
            RepetitionKind::Range(RepetitionRange::Bounded(min, max)) => (*min, Some(*max)),
        };
        Ok(Hir::repetition(Repetition {
            min,
            max,
            greedy: true,
            sub: Box::new(self.translate(repeated, false)?),
        }))
    }

    /// Checks a quantifier after another quantifier. `a++`, `a*+` and so on are possessive. At the
    /// end of a pattern and after one character, that has no effect. `c++` can also be a name.
    fn check_double_quantifier(
        &self,
        outer: &ast::Repetition,
        inner: &ast::Repetition,
    ) -> Result<(), PatternError> {
        let operator = outer.op.span;
        let is_range = |op: &ast::RepetitionOp| matches!(op.kind, RepetitionKind::Range(_));
        let is_possessive = outer.greedy
            && inner.greedy
            && matches!(outer.op.kind, RepetitionKind::OneOrMore)
            && !matches!(&*inner.ast, Ast::Repetition(_));
        if !is_possessive && !is_range(&outer.op) {
            let problem = "a quantifier cannot follow another quantifier";
            return Err(PatternError::malformed(operator, problem));
        }
        let is_after_character = matches!(&*inner.ast, Ast::Literal(_) | Ast::Dot(_));
        if is_possessive && is_after_character && operator.end.offset == self.pattern.len() {
            return Ok(());
        }
        let span = Span::new(inner.op.span.start, operator.end);
        let feature = format!("the double quantifier {:?}", self.text(span));
        Err(PatternError::unsupported(span, feature))
    }

    fn literal_char(&self, literal: &ast::Literal) -> Result<char, PatternError> {
        match literal.kind {
            LiteralKind::Verbatim
            | LiteralKind::Meta
            | LiteralKind::Superfluous
            | LiteralKind::HexFixed(HexLiteralKind::X | HexLiteralKind::UnicodeShort)
            | LiteralKind::HexBrace(HexLiteralKind::X)
            | LiteralKind::Special(
                SpecialLiteralKind::Bell
                | SpecialLiteralKind::FormFeed
                | SpecialLiteralKind::Tab
                | SpecialLiteralKind::LineFeed
                | SpecialLiteralKind::CarriageReturn,
            ) => Ok(literal.c),
            _ => Err(self.unsupported(literal.span)),
        }
    }

    fn bracketed_class(&self, bracketed: &ClassBracketed) -> Result<ClassUnicode, PatternError> {
        let operators = ["&&", "--", "~~"];
        let found = operators.map(|operator| self.text(bracketed.span).contains(operator));
        let (ClassSet::Item(item), [false, false, false]) = (&bracketed.kind, found) else {
            let feature = "`&&`, `--` or `~~` in a class";
            return Err(PatternError::unsupported(bracketed.span, feature));
        };
        let mut class = ClassUnicode::empty();
        self.add_class_item(&mut class, item)?;
        if bracketed.negated {
            class.negate();
        }
        Ok(class)
    }

    fn add_class_item(
        &self,
        class: &mut ClassUnicode,
        item: &ClassSetItem,
    ) -> Result<(), PatternError> {
        match item {
            ClassSetItem::Empty(_) => {}
            ClassSetItem::Literal(literal) => {
                let c = self.literal_char(literal)?;
                class.union(&self.folded(ClassUnicodeRange::new(c, c)));
            }
            ClassSetItem::Range(range) => {
                let (first, last) = (
                    self.literal_char(&range.start)?,
                    self.literal_char(&range.end)?,
                );
                class.union(&self.folded(ClassUnicodeRange::new(first, last)));
            }
            ClassSetItem::Unicode(named) => class.union(&self.named_class(named.span)?),
            ClassSetItem::Perl(perl) => class.union(&perl_class(perl)),
            ClassSetItem::Union(union) => {
                for item in &union.items {
                    self.add_class_item(class, item)?;
                }
            }
            ClassSetItem::Ascii(_) | ClassSetItem::Bracketed(_) => {
                let feature = "a class within a class";
                return Err(PatternError::unsupported(*item.span(), feature));
            }
        }
        Ok(())
    }

    /// The characters of a range and, with the flag `i`, their other case. Java folds only ASCII.
    fn folded(&self, range: ClassUnicodeRange) -> ClassUnicode {
        let mut class = ClassUnicode::new([range]);
        if self.ignore_case {
            let mut ascii = class.clone();
            ascii.intersect(&unicode_class(&[('\0', '\x7F')]));
            // Without characters above `\x7F`, Unicode's folding is ASCII's and two characters more.
            ascii.case_fold_simple();
            ascii.intersect(&unicode_class(&[('\0', '\x7F')]));
            class.union(&ascii);
        }
        class
    }

    /// The class `\p{NAME}` or `\P{NAME}`.
    fn named_class(&self, span: Span) -> Result<ClassUnicode, PatternError> {
        let text = self.text(span);
        let name = text.get(3..).and_then(|rest| rest.strip_suffix('}'));
        let is_cased = matches!(name, Some("Lower" | "Upper"));
        let found = ASCII_CLASSES
            .iter()
            .find(|(class, _)| Some(*class) == name)
            .filter(|_| !(self.ignore_case && is_cased));
        let Some((_, ranges)) = found else {
            return Err(PatternError::unsupported(
                span,
                format!("the class {text:?}"),
            ));
        };
        let mut class = unicode_class(ranges);
        if text.starts_with(r"\P") {
            class.negate();
        }
        Ok(class)
    }

    fn text(&self, span: Span) -> &str {
        text_of(self.pattern, span)
    }

    fn unsupported(&self, span: Span) -> PatternError {
        PatternError::unsupported(span, format!("{:?}", self.text(span)))
    }
}

fn text_of(pattern: &str, span: Span) -> &str {
    pattern
        .get(span.start.offset..span.end.offset)
        .unwrap_or_default()
}

fn to_hir(class: ClassUnicode) -> Hir {
    Hir::class(Class::Unicode(class))
}

fn unicode_class(ranges: &[(char, char)]) -> ClassUnicode {
    ClassUnicode::new(
        ranges
            .iter()
            .map(|(first, last)| ClassUnicodeRange::new(*first, *last)),
    )
}

/// `\d`, `\s` or `\w`, which contain only ASCII characters in Java.
fn perl_class(class: &ClassPerl) -> ClassUnicode {
    let mut ranges = unicode_class(match class.kind {
        ClassPerlKind::Digit => DIGIT,
        ClassPerlKind::Space => SPACE,
        ClassPerlKind::Word => &[('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')],
    });
    if class.negated {
        ranges.negate();
    }
    ranges
}

/// Only errors that are errors in Java, too, are reported as malformed.
fn syntax_error(pattern: &str, error: &ast::Error) -> PatternError {
    let span = *error.span();
    let text = match text_of(pattern, span) {
        "" => pattern[span.start.offset..].get(..1).unwrap_or_default(),
        text => text,
    };
    match error.kind() {
        ast::ErrorKind::ClassRangeInvalid
        | ast::ErrorKind::ClassUnclosed
        | ast::ErrorKind::EscapeUnexpectedEof
        | ast::ErrorKind::GroupUnclosed
        | ast::ErrorKind::GroupUnopened
        | ast::ErrorKind::RepetitionCountInvalid
        | ast::ErrorKind::RepetitionCountDecimalEmpty
        | ast::ErrorKind::RepetitionCountUnclosed => PatternError::malformed(span, error.kind()),
        // `(?)` is a group without flags in Java.
        ast::ErrorKind::RepetitionMissing
            if text.starts_with(['*', '+', '?'])
                && !pattern[..=span.start.offset].ends_with("(?") =>
        {
            PatternError::malformed(span, error.kind())
        }
        ast::ErrorKind::EscapeUnrecognized if text.ends_with(|c| NO_ESCAPES.contains(c)) => {
            PatternError::malformed(span, error.kind())
        }
        ast::ErrorKind::NestLimitExceeded(_) => {
            PatternError::unsupported(span, format!("more than {MAX_DEPTH} nested groups"))
        }
        ast::ErrorKind::UnsupportedLookAround => {
            PatternError::unsupported(span, format!("look-around {text:?}"))
        }
        _ => PatternError::unsupported(span, format!("{text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_match(pattern: &str, text: &str) -> bool {
        compile(pattern)
            .unwrap_or_else(|error| panic!("{pattern}: {error:?}"))
            .is_match(text)
    }

    #[test]
    fn a_pattern_must_match_the_whole_text() {
        assert!(
            is_match("web-.*", "web-1") && !is_match("web", "web-1") && !is_match("1", "web-1")
        );
        assert!(is_match("a|ab", "ab") && !is_match("a|b", "ab"));
        assert!(is_match("^web$", "web") && is_match("(^a|b$)", "b") && !is_match("a^b", "ab"));
        assert!(is_match("c++", "c") && is_match("notepad++", "notepaddd"));
        assert!(is_match("[A-z]{2,3}", "ab") && !is_match("a{2,}", "a"));
        assert!(is_match(
            r"(\w{1,63}(\.\w{1,63}){3}){10}",
            &"a.b.c.d".repeat(10)
        ));
    }

    #[test]
    fn classes_and_flags_are_those_of_java() {
        for (pattern, matching, other) in [
            (r"\d\s\w[\d-]\D\S\W", "1 a-xy!", "1 a-xyz"),
            (r"\d", "1", "٣"),
            (r"[\w]", "a", "ä"),
            (r"\p{Alpha}+", "web", "wäb"),
            (r"[^\p{Punct}]+", "ä", "!"),
            (r"\P{Digit}", "a", "1"),
            ("(?i)WEB-k", "web-K", "web-\u{212a}"),
            ("(?i)ä", "ä", "Ä"),
            ("(?i)[a-c]", "B", "d"),
            ("(?i)[^a]", "b", "A"),
            ("a(?i:b)c", "aBc", "aBC"),
            ("a(?i)b|c", "C", "A"),
            ("a.b", "a-b", "a\rb"),
            ("(?s)a.b", "a\nb", "ab"),
            (r"\x41\x{42}\u0043\t", "ABC\t", "ABC"),
            ("[]a]+", "]a", "b"),
            ("[a-]", "-", "b"),
            (r"web\ 1", "web 1", "web1"),
        ] {
            assert!(is_match(pattern, matching), "{pattern}");
            assert!(!is_match(pattern, other), "{pattern}");
        }
    }

    #[test]
    fn unsupported_syntax_is_named_with_its_position() {
        for (pattern, position, feature) in [
            ("web(?!-1).*", 3, "look-around \"(?!\""),
            ("(?<=a)b", 0, "look-around \"(?<=\""),
            (r"(a)\1", 3, r#""\\1""#),
            (r"(?<n>a)", 3, "a named group"),
            ("(?P<n>a)", 4, "a named group"),
            ("a(?>b|c)", 3, "\">\""),
            ("a*+b", 1, "the double quantifier \"*+\""),
            ("(a|b)++", 5, "the double quantifier \"++\""),
            (r"\Qa.b\E", 0, r#""\\Q""#),
            (r"a\Z", 1, r#""\\Z""#),
            (r"\p{L}", 0, r#"the class "\\p{L}""#),
            (r"(?i)\p{Lower}", 4, "the class"),
            (r"\pL", 0, "the class"),
            (r"\p{^Alpha}", 0, "the class"),
            (r"\0101", 0, r#""\\0""#),
            ("(?d)a", 2, "\"d\""),
            ("(?x)a # b", 2, "the flag x"),
            ("(?iU)a", 3, "the flag U"),
            ("(?m)a", 2, "the flag m"),
            (r"\<a", 0, r#""\\<""#),
            (r"\bweb", 0, r#""\\b""#),
            (r"a\v", 1, r#""\\v""#),
            (r"a$b", 1, "\"$\""),
            ("(a$)*", 2, "\"$\""),
            ("[0-9--]", 0, "`--`"),
            ("[--0]", 0, "`--`"),
            ("[a-c&&[^b]]", 0, "`&&`"),
            ("[[:alpha:]]", 1, "a class within a class"),
            ("[a[b]]", 2, "a class within a class"),
            (r"\u{41}", 0, r#""\\u{41}""#),
        ] {
            let error = compile(pattern).unwrap_err();
            assert!(
                !error.is_malformed && error.message.contains(feature),
                "{pattern}: {error:?}"
            );
            assert_eq!(error.position, position, "{pattern}: {error:?}");
        }
        let error = compile(&format!("{}a{}", "(".repeat(100), ")".repeat(100))).unwrap_err();
        assert!(
            error.message.contains("more than 64 nested groups"),
            "{error:?}"
        );
    }

    #[test]
    fn malformed_patterns_are_reported_as_malformed() {
        for (pattern, position) in [
            ("*web", 0),
            ("a**", 2),
            ("a+?+", 3),
            ("[x", 0),
            ("a)|(b", 1),
            ("(a", 0),
            ("a{2", 1),
            ("a{,2}", 2),
            (r"C:\master", 2),
            (r"C:\", 2),
            ("[b-a]", 1),
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
    }
}

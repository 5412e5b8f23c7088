//! Regular expressions of node filters. They are written for Java's engine and run by one that
//! takes time in proportion to what it reads: what only Java has is refused by name, because to
//! leave it out would choose other nodes.

use regex::{Regex, RegexBuilder};
use regex_syntax::ast::parse::ParserBuilder;
use regex_syntax::ast::{
    self, AssertionKind, Ast, ClassPerl, ClassPerlKind, ClassSetItem, Flag, FlagsItemKind,
    RepetitionKind, Span,
};
use regex_syntax::hir;
use regex_syntax::hir::translate::Translator;

/// The memory that one compiled pattern may take, in bytes: room for `\w{1,63}(\.\w{1,63}){3}` ten
/// times over.
const MEMORY: usize = 1024 * 1024;
/// How deep groups may be within groups.
const DEPTH: u32 = 64;

/// Why a pattern cannot be used.
#[derive(Debug)]
pub(super) struct Fault {
    /// Where, in bytes of the pattern.
    pub(super) at: usize,
    /// What it is.
    pub(super) what: String,
    /// Whether nobody could use it: neither this engine nor Java's.
    pub(super) is_no_pattern: bool,
}

impl Fault {
    /// Something that only Java's engine has.
    fn lacks(at: usize, what: &str) -> Self {
        let what = format!(
            "{what} is something that only Java's regular expressions have; write the pattern without it"
        );
        Self {
            at,
            what,
            is_no_pattern: false,
        }
    }

    fn wrong(at: usize, what: impl std::fmt::Display) -> Self {
        Self {
            at,
            what: format!("not a regular expression: {what}"),
            is_no_pattern: true,
        }
    }
}

/// The pattern, for matching a whole text.
pub(super) fn compile(pattern: &str) -> Result<Regex, Fault> {
    let parsed = ParserBuilder::new()
        .nest_limit(DEPTH)
        .build()
        .parse(pattern);
    let ast = parsed.map_err(|error| of_syntax(pattern, &error))?;
    let classes = ast::visit(
        &ast,
        Check {
            pattern,
            classes: Vec::new(),
        },
    )?;
    Translator::new()
        .translate(pattern, &ast)
        .map_err(|error| of_meaning(pattern, &error))?;
    let mut pattern = pattern.to_owned();
    for (span, class) in classes.into_iter().rev() {
        pattern.replace_range(span.start.offset..span.end.offset, class);
    }
    // The pattern has been parsed alone, so that nothing in it can close the group around it.
    let whole = RegexBuilder::new(&format!(r"\A(?:{pattern})\z"))
        .size_limit(MEMORY)
        .dfa_size_limit(MEMORY)
        .build();
    whole.map_err(|_| Fault {
        at: 0,
        what: format!(
            "the pattern needs more than {} MiB of memory; make it smaller",
            MEMORY / 1024 / 1024
        ),
        is_no_pattern: false,
    })
}

/// Finds what can be parsed and would not mean what it means to Java, and the classes `\d`, `\s`
/// and `\w`, which for Java are of ASCII alone.
struct Check<'p> {
    pattern: &'p str,
    classes: Vec<(Span, &'static str)>,
}

impl ast::Visitor for Check<'_> {
    type Output = Vec<(Span, &'static str)>;
    type Err = Fault;

    fn finish(self) -> Result<Self::Output, Fault> {
        Ok(self.classes)
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Fault> {
        if let ClassSetItem::Perl(class) = item {
            self.class(class);
        }
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Fault> {
        match ast {
            Ast::Repetition(outer) => self.repetition(outer),
            Ast::Flags(set) => flags(&set.flags),
            Ast::ClassPerl(class) => {
                self.class(class);
                Ok(())
            }
            Ast::Group(group) => group.flags().map_or(Ok(()), flags),
            Ast::Assertion(one) => match one.kind {
                AssertionKind::WordBoundaryStartAngle | AssertionKind::WordBoundaryEndAngle => Err(
                    Fault::lacks(one.span.start.offset, r"\< or \> for the character itself"),
                ),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

impl Check<'_> {
    fn class(&mut self, class: &ClassPerl) {
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

    fn repetition(&self, outer: &ast::Repetition) -> Result<(), Fault> {
        let at = outer.op.span.start.offset;
        let Ast::Repetition(inner) = &*outer.ast else {
            return Ok(());
        };
        let is_possessive = outer.greedy && matches!(outer.op.kind, RepetitionKind::OneOrMore);
        if !is_possessive {
            return Err(Fault::wrong(at, "a quantifier cannot stand behind another"));
        }
        // Behind one character, and with nothing after it, it means what it means without: `c++` is
        // a name, too.
        let is_one = matches!(&*inner.ast, Ast::Literal(_) | Ast::Dot(_));
        if is_one && outer.op.span.end.offset == self.pattern.len() {
            return Ok(());
        }
        Err(Fault::lacks(
            at - 1,
            &format!("the possessive quantifier {:?}", &self.pattern[at - 1..=at]),
        ))
    }
}

fn flags(flags: &ast::Flags) -> Result<(), Fault> {
    for item in &flags.items {
        let at = item.span.start.offset;
        match item.kind {
            // Comments reach to the end of the line, which here is the end of what stands around
            // the pattern.
            FlagsItemKind::Flag(Flag::IgnoreWhitespace) => {
                let what = "the flag x (comments) is not taken; write the pattern without spaces and comments".into();
                return Err(Fault {
                    at,
                    what,
                    is_no_pattern: false,
                });
            }
            FlagsItemKind::Flag(Flag::SwapGreed) => {
                return Err(Fault::lacks(at, "the flag U (Unicode classes)"));
            }
            _ => {}
        }
    }
    Ok(())
}

fn of_syntax(pattern: &str, error: &ast::Error) -> Fault {
    let Span { start, end } = *error.span();
    let text = pattern.get(start.offset..end.offset).unwrap_or_default();
    match error.kind() {
        ast::ErrorKind::UnsupportedLookAround => {
            Fault::lacks(start.offset, &format!("look-around {text:?}"))
        }
        ast::ErrorKind::UnsupportedBackreference if text.starts_with(r"\0") => {
            Fault::lacks(start.offset, &format!("the octal character {text:?}"))
        }
        ast::ErrorKind::UnsupportedBackreference => {
            Fault::lacks(start.offset, &format!("the backreference {text:?}"))
        }
        ast::ErrorKind::FlagUnrecognized
            if pattern[..start.offset].ends_with("(?") && text == ">" =>
        {
            Fault::lacks(start.offset - 2, "the atomic group \"(?>\"")
        }
        ast::ErrorKind::FlagUnrecognized if text == "d" => {
            Fault::lacks(start.offset, "the flag d (Unix lines)")
        }
        // Escapes of Java's: a named backreference, quotation, line and grapheme breaks, blanks,
        // where the last match ended.
        ast::ErrorKind::EscapeUnrecognized
            if text.ends_with([
                'k', 'Q', 'E', 'R', 'X', 'h', 'H', 'V', 'G', 'Z', 'c', 'e', 'N',
            ]) =>
        {
            Fault::lacks(start.offset, &format!("the escape {text:?}"))
        }
        kind => Fault::wrong(start.offset, kind),
    }
}

fn of_meaning(pattern: &str, error: &hir::Error) -> Fault {
    let Span { start, end } = *error.span();
    let text = pattern.get(start.offset..end.offset).unwrap_or_default();
    match error.kind() {
        hir::ErrorKind::UnicodePropertyNotFound | hir::ErrorKind::UnicodePropertyValueNotFound => {
            Fault::lacks(start.offset, &format!("the class {text:?}"))
        }
        kind => Fault::wrong(start.offset, kind),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_texts() {
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
    fn what_only_java_has_is_named_with_its_place() {
        for (pattern, at, names) in [
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
            let fault = compile(pattern).unwrap_err();
            assert!(
                !fault.is_no_pattern && fault.what.contains(names),
                "{pattern}: {fault:?}"
            );
            assert_eq!(fault.at, at, "{pattern}: {fault:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_at_all_is_told_apart() {
        for (pattern, at) in [
            ("*web", 0),
            ("a**", 2),
            ("[x", 0),
            ("a)|(b", 1),
            ("(a", 0),
            ("a{2", 1),
            ("a{,2}", 2),
        ] {
            let fault = compile(pattern).unwrap_err();
            assert!(fault.is_no_pattern, "{pattern}: {fault:?}");
            assert_eq!(fault.at, at, "{pattern}: {fault:?}");
        }
    }

    #[test]
    fn a_pattern_that_takes_much_memory_is_refused() {
        for pattern in [r"(\w{1000}){100}", "((((a{99}){99}){99}){99})"] {
            let fault = compile(pattern).unwrap_err();
            assert!(fault.what.contains("MiB"), "{fault:?}");
        }
        assert!(
            compile(&format!("{}a{}", "(".repeat(1000), ")".repeat(1000)))
                .unwrap_err()
                .is_no_pattern
        );
    }
}

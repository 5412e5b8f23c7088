//! Selectors: the part of a mapping that chooses the values of a resource.

use std::borrow::Cow;
use std::fmt;

use super::entries::{Problem, Text};
use super::fields::Fields;
use crate::node::syntax_error::quote_found;

/// The alternatives of a selector. Each alternative has values that are used together, and each
/// value is joined from terms.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Selector(Vec<Vec<Vec<Term>>>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Term {
    Text(String),
    Field(String),
    Tag(String),
}

/// What a selector may contain.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Alternatives with one value each.
    Attribute,
    /// Alternatives whose values are joined with `|`.
    Tags,
    /// Alternatives, and after `=` the value that the selector must have.
    Tag,
}

impl Form {
    fn ends_term(self, c: char) -> bool {
        match c {
            ',' | '+' => true,
            '|' => matches!(self, Self::Tags),
            '=' => matches!(self, Self::Tag),
            _ => false,
        }
    }
}

impl Selector {
    /// Parses a selector, and the value that it must have.
    pub(super) fn parse(
        value: &Text,
        form: Form,
        check_field: &dyn Fn(&str) -> Result<(), String>,
    ) -> Result<(Self, Option<String>), Problem> {
        let text = value.as_str();
        if text.is_empty() {
            return Ok((Self::default(), None));
        }
        let parser = Parser {
            value,
            form,
            check_field,
        };
        let mut alternatives = vec![vec![Vec::new()]];
        let mut rest = text;
        loop {
            let (term, after_term) = parser.parse_term(rest)?;
            let mut remaining = after_term.chars();
            let separator = remaining.next();
            rest = remaining.as_str();
            if let Some(terms) = alternatives.last_mut().and_then(|values| values.last_mut()) {
                terms.push(term);
            }
            match separator {
                None => return Ok((Self(alternatives), None)),
                Some('=') => {
                    let expected = Some(rest.trim()).filter(|value| !value.is_empty());
                    return Ok((Self(alternatives), expected.map(str::to_owned)));
                }
                Some(',') => alternatives.push(vec![Vec::new()]),
                Some('|') => {
                    if let Some(values) = alternatives.last_mut() {
                        values.push(Vec::new());
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// Whether the selector uses this field.
    pub(super) fn uses(&self, field: &str) -> bool {
        let mut terms = self.0.iter().flatten().flatten();
        terms.any(|term| matches!(term, Term::Field(name) if name == field))
    }

    /// The value of the first alternative that has one.
    pub(super) fn first_value(&self, source: &impl Fields) -> Option<String> {
        self.0.iter().find_map(|alternative| {
            let values: Vec<_> = alternative
                .iter()
                .filter_map(|terms| join_terms(terms, source))
                .collect();
            (!values.is_empty()).then(|| values.join(","))
        })
    }
}

/// Parses the terms of one selector.
struct Parser<'t> {
    value: &'t Text,
    form: Form,
    check_field: &'t dyn Fn(&str) -> Result<(), String>,
}

impl Parser<'_> {
    /// Parses the term at the beginning of `text`, which is the end of the value. Returns it with
    /// the rest of the text, which begins with the separator.
    fn parse_term<'r>(&self, text: &'r str) -> Result<(Term, &'r str), Problem> {
        let trimmed = text.trim_start();
        let ends_term = |c| self.form.ends_term(c);

        let quote = trimmed.chars().next().filter(|c| matches!(c, '\'' | '"'));
        if let Some(quote) = quote {
            let Some((literal, after_quote)) = trimmed[1..].split_once(quote) else {
                let problem = format_args!("the text is not closed; end it with {quote}");
                return self.error_before(trimmed, problem);
            };
            let rest = after_quote.trim_start();
            if rest.starts_with(ends_term) || rest.is_empty() {
                return Ok((Term::Text(literal.to_owned()), rest));
            }
            let found = quote_found(rest);
            return self.error_before(
                rest,
                format_args!("expected `+` or `,` after the text, found {found}"),
            );
        }

        let name_length = trimmed.find(ends_term).unwrap_or(trimmed.len());
        let (name, rest) = trimmed.split_at(name_length);
        let name = name.trim_end();
        match name.strip_prefix("tags/") {
            Some("*") => self.error_before(
                trimmed,
                "`tags/*` is allowed only in attributes.selector; name one tag, as in `tags/Name`",
            ),
            Some("") => self.error_before(trimmed, "expected the name of a tag after `tags/`"),
            Some(tag) => Ok((Term::Tag(tag.to_owned()), rest)),
            None if name.is_empty() => {
                let found = quote_found(trimmed);
                self.error_before(
                    trimmed,
                    format_args!("expected a field, tags/NAME or a quoted text, found {found}"),
                )
            }
            None => match (self.check_field)(name) {
                Ok(()) => Ok((Term::Field(name.to_owned()), rest)),
                Err(problem) => {
                    let name = quote_found(name);
                    self.error_before(trimmed, format_args!("field {name} {problem}"))
                }
            },
        }
    }

    /// Returns an error at the beginning of `rest`, which is the end of the value.
    fn error_before<T>(&self, rest: &str, problem: impl fmt::Display) -> Result<T, Problem> {
        let offset = self.value.as_str().len() - rest.len();
        Err(Problem::new(
            self.value.position(offset),
            problem.to_string(),
        ))
    }
}

/// Joins terms to a text. Returns `None` if no field and no tag among them has a value.
fn join_terms(terms: &[Term], source: &impl Fields) -> Option<String> {
    let mut text = String::new();
    let mut has_value = false;
    for term in terms {
        let value = match term {
            Term::Text(literal) => {
                text.push_str(literal);
                continue;
            }
            Term::Field(name) => source.field(name),
            Term::Tag(name) => source
                .tags()
                .find(|(key, _)| key == name)
                .map(|(_, value)| Cow::Borrowed(value)),
        };
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            has_value = true;
            text.push_str(&value);
        }
    }
    has_value.then_some(text)
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let print_value = |terms: &Vec<Term>| {
            let terms: Vec<_> = terms.iter().map(ToString::to_string).collect();
            terms.join("+")
        };
        let print_alternative = |values: &Vec<Vec<Term>>| {
            let values: Vec<_> = values.iter().map(print_value).collect();
            values.join("|")
        };
        let alternatives: Vec<_> = self.0.iter().map(print_alternative).collect();
        f.write_str(&alternatives.join(","))
    }
}

impl fmt::Display for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) if text.contains('\'') => write!(f, "\"{text}\""),
            Self::Text(text) => write!(f, "'{text}'"),
            Self::Field(name) => f.write_str(name),
            Self::Tag(name) => write!(f, "tags/{name}"),
        }
    }
}

//! How a command is written so that the agent takes it apart into just the arguments that it was made of.

/// The arguments as one command. The agent splits it as `shlex` does: in single quotes every character means itself.
///
/// Before the agent sees the command, it goes through the templates of an SSM document, where `{{name}}` stands for a
/// parameter and `$$` may become `$`. Quotes are closed and opened between the two, which the agent takes for nothing.
#[must_use]
pub fn command<'a>(arguments: impl IntoIterator<Item = &'a str>) -> String {
    arguments.into_iter().map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(argument: &str) -> String {
    let mut text = String::with_capacity(argument.len() + 2);
    let mut before = None;
    text.push('\'');
    for c in argument.chars() {
        match c {
            '\'' => text.push_str(r"'\''"),
            '{' | '$' if before == Some(c) => text.extend(["''", c.encode_utf8(&mut [0; 4])]),
            c => text.push(c),
        }
        before = Some(c);
    }
    text.push('\'');
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use stepward_tests::ecs_agent::split;

    use super::*;

    #[test]
    fn what_a_document_would_replace_is_not_in_the_command() {
        let written = command(["{{ssm:password}} $$ {{{x}}}"]);
        assert!(!written.contains("{{") && !written.contains("$$"), "{written}");
        assert_eq!(split(&written).unwrap(), ["{{ssm:password}} $$ {{{x}}}"]);
    }

    proptest! {
        #[test]
        fn any_arguments_come_out_as_they_went_in(
            arguments in prop::collection::vec(prop_oneof!["\\PC{0,30}", "[ '\"\\\\#\n\t${};|&*]{0,30}"], 1..6),
        ) {
            let written = command(arguments.iter().map(String::as_str));
            prop_assert!(!written.contains("{{") && !written.contains("$$"));
            prop_assert_eq!(split(&written).unwrap(), arguments);
        }
    }
}

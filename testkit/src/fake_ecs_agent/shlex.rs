//! Splits a command into arguments as the agent does. The rules are those of google/shlex, which
//! differ from those of a shell.

/// Returns the arguments of a command, or the agent's error message.
///
/// Spaces, tabs and line breaks separate arguments. Characters in single quotes have no special
/// meaning. In double quotes and outside of quotes, a backslash removes the special meaning of any
/// character. A `#` at the beginning of an argument starts a comment, which ends with the line.
///
/// # Errors
/// If a closing quote is missing, or if the command ends with a backslash.
pub fn split(command: &str) -> Result<Vec<String>, &'static str> {
    const QUOTE: &str = "EOF found when expecting closing quote";
    const ESCAPE: &str = "EOF found after escape character";
    let mut arguments = Vec::new();
    let mut argument: Option<String> = None;
    let mut characters = command.chars();
    while let Some(c) = characters.next() {
        match c {
            ' ' | '\t' | '\r' | '\n' => arguments.extend(argument.take()),
            '#' if argument.is_none() => {
                let _comment = characters.by_ref().find(|c| *c == '\n');
            }
            '\'' => {
                let text = argument.get_or_insert_default();
                loop {
                    match characters.next().ok_or(QUOTE)? {
                        '\'' => break,
                        c => text.push(c),
                    }
                }
            }
            '"' => {
                let text = argument.get_or_insert_default();
                loop {
                    match characters.next().ok_or(QUOTE)? {
                        '"' => break,
                        '\\' => text.push(characters.next().ok_or(ESCAPE)?),
                        c => text.push(c),
                    }
                }
            }
            '\\' => argument
                .get_or_insert_default()
                .push(characters.next().ok_or(ESCAPE)?),
            c => argument.get_or_insert_default().push(c),
        }
    }
    arguments.extend(argument);
    Ok(arguments)
}

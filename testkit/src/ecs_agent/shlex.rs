//! How the agent takes a command apart: as google/shlex does, which is not quite as a shell does.

/// The command's arguments, or the agent's words about why it has none.
///
/// Blanks, tabs and line ends part arguments. In single quotes every character means itself; in
/// double quotes a backslash takes the meaning from any character; outside, too. `#` at an
/// argument's begin makes the rest of the line a comment.
///
/// # Errors
/// A quote that is not closed, or a backslash at the end.
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

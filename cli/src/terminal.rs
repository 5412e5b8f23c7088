//! Documentation pages on a terminal: rendered, wrapped to the terminal's width, and shown in a
//! pager.

mod markdown;
mod table;
mod text;

use std::io::{IsTerminal, Write, stdout};
use std::process::{Command, Stdio};

use tokio::signal::unix::{SignalKind, signal};

use crate::error::Result;
use crate::output::print;
use markdown::render_markdown;

/// The widest line of running text and tables, in columns: longer lines are hard to read.
const MAX_WIDTH: usize = 100;
/// The narrowest width that pages are wrapped to, in columns.
const MIN_WIDTH: usize = 40;

/// Options for `less`: quit if the page fits the screen, pass colors through, and leave the page on
/// the screen.
const LESS_OPTIONS: &str = "FRX";

/// Shows a Markdown page. A terminal gets the rendered page in a pager; a file or another program
/// gets the Markdown.
pub(crate) fn show_markdown(markdown: &str) -> Result<()> {
    if !stdout().is_terminal() {
        return print(markdown);
    }

    let (_, columns) = console::Term::stdout().size();
    let width = usize::from(columns).clamp(MIN_WIDTH, MAX_WIDTH);
    let page = render_markdown(markdown, width).join("\n") + "\n";

    // Ctrl-C belongs to the pager. Once this handler exists, it no longer ends this process, which
    // has to wait for the pager.
    let _interrupts = signal(SignalKind::interrupt());
    if show_in_pager(pager_command(), &page) {
        Ok(())
    } else {
        print(&page)
    }
}

/// The operator's pager, otherwise `less`.
fn pager_command() -> Command {
    let configured = std::env::var_os("PAGER").filter(|pager| !pager.is_empty());
    let mut command = if let Some(pager) = configured {
        // Like Git and man: PAGER is a shell command and can have options.
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(pager);
        shell
    } else {
        let mut less = Command::new("less");
        less.arg(format!("-{LESS_OPTIONS}"));
        less
    };
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", LESS_OPTIONS);
    }
    command
}

/// Shows a page in a pager and waits until the pager ends. Returns false if the pager could not
/// start.
fn show_in_pager(mut pager: Command, page: &str) -> bool {
    let Ok(mut child) = pager.stdin(Stdio::piped()).spawn() else {
        return false;
    };
    if let Some(mut input) = child.stdin.take() {
        // An operator can leave the pager before it has read the whole page.
        let _ = input.write_all(page.as_bytes());
    }

    // A shell exits with these codes if it cannot start the program.
    child
        .wait()
        .is_ok_and(|status| !matches!(status.code(), Some(126 | 127)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stderr(Stdio::null());
        command
    }

    #[test]
    fn a_pager_gets_the_whole_page() {
        let page = "line\n".repeat(50_000);
        let file = std::env::temp_dir().join(format!("stepward-page-{}", std::process::id()));
        assert!(show_in_pager(
            shell(&format!("cat > '{}'", file.display())),
            &page
        ));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), page);
        std::fs::remove_file(file).unwrap();
    }

    #[test]
    fn a_pager_that_ends_early_has_shown_the_page() {
        assert!(show_in_pager(shell("exit 0"), &"line\n".repeat(50_000)));
    }

    #[test]
    fn a_pager_that_cannot_start_is_reported() {
        assert!(!show_in_pager(shell("/no/such/pager"), "page"));
        assert!(!show_in_pager(Command::new("/no/such/pager"), "page"));
    }
}

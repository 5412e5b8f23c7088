//! Access to files below the local root, and to nothing else.
//!
//! The root is opened once. All other paths go through that handle, and the kernel itself keeps
//! them below it (`openat2` with `RESOLVE_BENEATH`:
//! <https://man7.org/linux/man-pages/man2/openat2.2.html>). So a directory cannot be replaced by a
//! link to another place between a check and its use. Links that stay inside the root are followed.
//!
//! All functions block; call them on a thread that may block.

mod failure;
mod names;
mod path;
#[cfg(test)]
mod races;
mod root;
mod scratch;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use self::failure::open_file_error;
pub(crate) use self::path::clean_path;
pub use self::root::{FileStat, OpenFile, Root};
pub use self::scratch::Scratch;
pub use self::walk::WalkedEntry;

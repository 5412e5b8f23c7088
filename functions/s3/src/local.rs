//! Files below the local root, and nothing else.
//!
//! The root is opened once. Everything after goes through that handle with paths that the kernel
//! itself keeps below it (`openat2` with `RESOLVE_BENEATH`:
//! <https://man7.org/linux/man-pages/man2/openat2.2.html>), so there is no moment between a check
//! and a use in which a directory could be swapped for a link to somewhere else. Links that stay
//! inside are followed.
//!
//! All of this blocks: call it where blocking is allowed.

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

pub(crate) use self::failure::failed;
pub(crate) use self::path::lexical;
pub use self::root::{OpenFile, Root, Stat};
pub use self::scratch::Scratch;
pub use self::walk::Listed;

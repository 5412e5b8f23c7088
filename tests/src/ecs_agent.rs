//! The agent's half of ECS Exec.

mod shlex;

pub use self::shlex::split;

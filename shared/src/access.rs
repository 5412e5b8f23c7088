//! From a customer's record to credentials for one of its accounts.

pub mod assume;
pub mod keys;
pub mod mask;
pub mod session;
pub mod store;
pub mod trust;

//! Turns a customer's record into credentials for one of the customer's accounts.

pub mod assume;
mod http_client;
pub mod keys;
pub mod mask;
pub mod session;
pub mod store;
pub mod trust;

//! Stepward's own functions. They are not steps: they never enter a customer's account.
//!
//! Each module is one Lambda function, and its `serve` is the function's `main`.

pub mod accounts;
pub mod api;
pub mod cancel;
pub mod dispatch;
mod error;

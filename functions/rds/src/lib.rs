//! What the RDS steps share.

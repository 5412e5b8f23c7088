//! What the Lambda steps share.

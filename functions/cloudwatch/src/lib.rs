//! What the CloudWatch Logs steps share.

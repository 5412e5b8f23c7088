//! What the VPC steps share.

//! What the ECS steps share.

//! What the Auto Scaling steps share.

//! What the Elastic Load Balancing steps share.

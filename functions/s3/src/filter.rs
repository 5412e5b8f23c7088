//! Which names are meant.

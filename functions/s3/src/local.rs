//! Files below the local root.

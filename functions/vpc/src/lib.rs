//! What the VPC steps share, and the parts of them that fill a file of their own.

pub mod flow_logs;
pub mod peering;
pub mod routes;
pub mod steps;

/// Whether this is an ID as in `vpc-0123456789abcdef0`, old ones with 8 digits included.
#[must_use]
pub fn is_id(id: &str, prefix: &str) -> bool {
    let digits = id.strip_prefix(prefix).unwrap_or_default();
    matches!(digits.len(), 8 | 17)
        && digits
            .bytes()
            .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_8_or_17_digits_behind_its_prefix() {
        for (id, fits) in [
            ("vpc-0123456789abcdef0", true),
            ("vpc-00000001", true),
            ("subnet-00000001", false),
            ("vpc-*", false),
            ("vpc-0000000G", false),
            ("vpc-", false),
        ] {
            assert_eq!(is_id(id, "vpc-"), fits, "{id}");
        }
    }
}

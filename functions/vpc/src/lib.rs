//! Shared code of the VPC steps.

pub mod activation;
pub mod flow_logs;
pub mod peering;
pub mod routes;
pub mod steps;

/// Returns whether this is a resource ID with the prefix, for example `vpc-0123456789abcdef0`. Old
/// IDs have 8 digits instead of 17.
#[must_use]
pub fn is_resource_id(id: &str, prefix: &str) -> bool {
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
    fn an_id_has_8_or_17_digits_after_its_prefix() {
        for (id, expected) in [
            ("vpc-0123456789abcdef0", true),
            ("vpc-00000001", true),
            ("subnet-00000001", false),
            ("vpc-*", false),
            ("vpc-0000000G", false),
            ("vpc-", false),
        ] {
            assert_eq!(is_resource_id(id, "vpc-"), expected, "{id}");
        }
    }
}

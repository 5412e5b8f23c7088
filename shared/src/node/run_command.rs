//! What SSM Run Command accepts. The SSM steps check their parameters with it. A dispatch checks
//! the attributes of each node, so that one malformed node does not stop the others of its command.

/// The longest time that the documents let a command run, in seconds: 48 hours
/// (`executionTimeout`).
pub const MAX_TIMEOUT: u32 = 172_800;

/// Whether CloudWatch Logs accepts this name for a log group.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html>
#[must_use]
pub fn is_log_group_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_-/.#".contains(&byte);
    (1..=512).contains(&name.len()) && name.bytes().all(is_allowed)
}

/// Whether this is the ID of an EC2 instance or of another managed node.
/// <https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_SendCommand.html>
/// (`InstanceIds`)
#[must_use]
pub fn is_node_id(id: &str) -> bool {
    let (lengths, suffix): (&[usize], _) = match (id.strip_prefix("mi-"), id.strip_prefix("i-")) {
        (Some(suffix), _) => (&[17], suffix),
        (_, Some(suffix)) => (&[8, 17], suffix),
        _ => return false,
    };
    lengths.contains(&suffix.len()) && suffix.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_have_a_prefix_and_a_length() {
        for id in ["i-01234567", "i-0123456789abcdef0", "mi-0123456789abcdef0"] {
            assert!(is_node_id(id), "{id}");
        }
        for id in [
            "",
            "web-1",
            "i-",
            "i-012",
            "mi-01234567",
            "i-0123456789abcdef.",
            "I-01234567",
        ] {
            assert!(!is_node_id(id), "{id}");
        }
    }

    #[test]
    fn log_group_names_have_allowed_characters() {
        assert!(is_log_group_name("/aws/ssm_1.a-B#"));
        for name in ["", "a b", "a:b", &"a".repeat(513)] {
            assert!(!is_log_group_name(name), "{name}");
        }
    }
}

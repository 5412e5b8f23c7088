//! Names and ARNs of log groups.

use stepward::model::input::require;
use stepward::model::permissions::{ArnScope, arn, literal};
use stepward::{ErrorName, StepError};

/// The maximum number of log groups in one query.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StartQuery.html>
pub(crate) const MAX_LOG_GROUPS: usize = 50;

/// A log group from a parameter: a name, or an ARN, which can end in `:*`.
pub(crate) struct LogGroup<'a> {
    /// The Region and the account ID of an ARN.
    pub(crate) arn_location: Option<(&'a str, &'a str)>,
    name: &'a str,
}

impl<'a> LogGroup<'a> {
    pub(crate) fn parse(text: &'a str) -> Self {
        match text.splitn(7, ':').collect::<Vec<_>>()[..] {
            ["arn", _, "logs", region, account, "log-group", name] => Self {
                arn_location: Some((region, account)),
                name: name.strip_suffix(":*").unwrap_or(name),
            },
            _ => Self {
                arn_location: None,
                name: text,
            },
        }
    }

    /// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html>
    /// (`logGroupName`)
    pub(crate) fn is_valid(&self) -> bool {
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"._-/#".contains(&b);
        let is_account_id =
            |account: &str| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        (1..=512).contains(&self.name.len())
            && self.name.bytes().all(is_name_byte)
            && self
                .arn_location
                .is_none_or(|(region, account)| !region.is_empty() && is_account_id(account))
    }

    /// The ARNs for policies. AWS checks most actions on the form with `:*`, and actions on tags on
    /// the form without.
    /// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html>
    fn policy_arns(&self) -> [String; 2] {
        let name = literal(self.name);
        let arn = match self.arn_location {
            None => arn("logs", &format!("log-group:{name}")),
            Some((region, account)) => format!(
                "arn:$partition:logs:{}:{}:log-group:{name}",
                literal(region),
                literal(account)
            ),
        };
        [format!("{arn}:*"), arn]
    }
}

/// The ARNs for a step's permissions on a log group, which is given by name or ARN.
#[must_use]
pub fn log_group_arns(group: &str) -> [String; 2] {
    LogGroup::parse(group).policy_arns()
}

/// Checks the name of a log group.
///
/// # Errors
/// `InvalidInput` that names the parameter.
pub fn check_log_group_name(parameter: &str, name: &str) -> Result<(), StepError> {
    let group = LogGroup::parse(name);
    require(group.arn_location.is_none() && group.is_valid(), || {
        format!(
            "parameter \"{parameter}\": expected a log group's name of 1 to 512 letters, digits \
             and . _ - / #, got \"{name}\""
        )
    })
}

/// Checks that log groups given by ARNs are in the step's Region. They can belong to another
/// account that shares them with this one.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Unified-Cross-Account.html>
///
/// # Errors
/// `InvalidInput` that names the log group.
pub(crate) fn check_regions(scope: &ArnScope, log_groups: &[String]) -> Result<(), StepError> {
    let same_region = format!("arn:{}:logs:{}:", scope.partition, scope.region);
    let foreign = log_groups
        .iter()
        .find(|group| group.starts_with("arn:") && !group.starts_with(&same_region));
    foreign.map_or(Ok(()), |group| {
        Err(ErrorName::InvalidInput.with_message(format!(
            "parameter \"log_groups\": expected log groups in Region {}, got \"{group}\"; run the \
             step in the log group's Region",
            scope.region
        )))
    })
}

#[cfg(test)]
mod tests {
    use stepward::Permissions;

    use super::*;

    #[test]
    fn log_groups_of_other_regions_and_partitions_are_rejected() {
        let scope = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let check = |group: &str| check_regions(&scope, &["/app".into(), group.into()]);
        check("arn:aws:logs:eu-west-1:222222222222:log-group:/app").unwrap();
        check("arn:aws:logs:eu-west-1:333333333333:log-group:/app:*").unwrap();
        for group in [
            "arn:aws:logs:us-east-1:222222222222:log-group:/app",
            "arn:aws-cn:logs:eu-west-1:2:log-group:/app",
        ] {
            let error = check(group).unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput);
            assert!(error.message.contains(group), "{error}");
        }
    }

    #[test]
    fn log_groups_of_other_accounts_keep_their_arns() {
        let [with_streams, plain] =
            log_group_arns("arn:aws:logs:eu-west-1:333333333333:log-group:/aws/x:*");
        let statements = Permissions::default()
            .allow(
                "start the query",
                &["logs:StartQuery"],
                [with_streams.clone(), plain],
            )
            .for_any_parameters();
        assert_eq!(
            statements[0].resources,
            [
                "arn:$partition:logs:*:*:log-group:*",
                "arn:$partition:logs:*:*:log-group:*:*"
            ]
        );
        assert!(with_streams.contains("333333333333"));
    }
}

//! Names and ARNs of log groups.

use stepward::model::input::require;
use stepward::model::permissions::{ArnScope, arn, literal};
use stepward::{ErrorName, StepError};

/// What one query can search.
/// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_StartQuery.html>
pub(crate) const MAX_GROUPS: usize = 50;

/// A log group as a parameter gives it: a name, or an ARN, which may end in `:*`.
pub(crate) struct Group<'a> {
    /// Region and account of an ARN.
    pub(crate) place: Option<(&'a str, &'a str)>,
    name: &'a str,
}

impl<'a> Group<'a> {
    pub(crate) fn of(text: &'a str) -> Self {
        match text.splitn(7, ':').collect::<Vec<_>>()[..] {
            ["arn", _, "logs", region, account, "log-group", name] => Self {
                place: Some((region, account)),
                name: name.strip_suffix(":*").unwrap_or(name),
            },
            _ => Self {
                place: None,
                name: text,
            },
        }
    }

    /// <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html>
    /// (`logGroupName`)
    pub(crate) fn is_legal(&self) -> bool {
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"._-/#".contains(&b);
        let digits =
            |account: &str| account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit());
        (1..=512).contains(&self.name.len())
            && self.name.bytes().all(legal)
            && self
                .place
                .is_none_or(|(region, account)| !region.is_empty() && digits(account))
    }

    /// As policies name it. Actions other than those on tags are checked against the form with
    /// `:*`.
    /// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/iam-access-control-overview-cwl.html>
    fn arns(&self) -> [String; 2] {
        let name = literal(self.name);
        let arn = match self.place {
            None => arn("logs", &format!("log-group:{name}")),
            Some((region, account)) => {
                format!(
                    "arn:$partition:logs:{}:{}:log-group:{name}",
                    literal(region),
                    literal(account)
                )
            }
        };
        [format!("{arn}:*"), arn]
    }
}

/// The ARNs of a log group that is given by its name or ARN, for a step's permissions.
#[must_use]
pub fn group_arns(group: &str) -> [String; 2] {
    Group::of(group).arns()
}

/// Checks the name of a log group.
///
/// # Errors
/// `InvalidInput` naming the parameter.
pub fn check_group_name(parameter: &str, name: &str) -> Result<(), StepError> {
    let group = Group::of(name);
    require(group.place.is_none() && group.is_legal(), || {
        format!(
            "{parameter} is `{name}`, not a log group's name: 1 to 512 letters, digits and . _ - / #"
        )
    })
}

/// Checks that log groups given by ARNs can be searched from where the step works. They may be
/// another account's, which shares them with this one, but not another Region's.
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch-Unified-Cross-Account.html>
///
/// # Errors
/// `InvalidInput` naming the log group.
pub(crate) fn check_place(place: &ArnScope, log_groups: &[String]) -> Result<(), StepError> {
    let here = format!("arn:{}:logs:{}:", place.partition, place.region);
    let elsewhere = log_groups
        .iter()
        .find(|group| group.starts_with("arn:") && !group.starts_with(&here));
    elsewhere.map_or(Ok(()), |group| {
        Err(ErrorName::InvalidInput.with_message(format!(
            "log_groups: {group} is not in Region {}, where this step works",
            place.region
        )))
    })
}

#[cfg(test)]
mod tests {
    use stepward::Permissions;

    use super::*;

    #[test]
    fn a_log_group_of_another_region_or_partition_is_refused() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let check = |group: &str| check_place(&place, &["/app".into(), group.into()]);
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
    fn a_log_group_of_another_account_is_named_by_its_arn() {
        let [all, plain] = group_arns("arn:aws:logs:eu-west-1:333333333333:log-group:/aws/x:*");
        let statements = Permissions::default()
            .allow("TODO", &["logs:StartQuery"], [all.clone(), plain])
            .for_any_parameters();
        assert_eq!(
            statements[0].resources,
            [
                "arn:$partition:logs:*:*:log-group:*",
                "arn:$partition:logs:*:*:log-group:*:*"
            ]
        );
        assert!(all.contains("333333333333"));
    }
}

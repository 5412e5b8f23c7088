//! What a step may do in a customer's account, as data: shown on its page, written into the customer's role, and sent
//! with every AssumeRole as the session policy.

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::{ErrorName, StepError};

/// The longest inline session policy that STS takes, in characters.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html> (`Policy`)
pub const SESSION_POLICY_LIMIT: usize = 2048;

/// Actions on resources, in the order declared.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Permissions(Vec<Statement>);

/// One `Allow` of a policy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Statement {
    effect: &'static str,
    action: Vec<String>,
    resource: Vec<String>,
    #[serde(skip_serializing_if = "Value::is_null")]
    condition: Value,
}

/// Where a step's resources live; fills the variables of the ARNs that it declares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
    /// The Region that the step works in.
    pub region: String,
    /// The 12-digit account ID.
    pub account_id: String,
}

impl Permissions {
    /// Adds actions on resources: ARNs made by [`arn`] or [`s3_arn`], or `*` where the action takes no resource.
    #[must_use]
    pub fn allow<R: Into<String>>(self, actions: &[&str], resources: impl IntoIterator<Item = R>) -> Self {
        self.allow_if(Value::Null, actions, resources)
    }

    /// As [`allow`](Self::allow), under an IAM condition block.
    #[must_use]
    pub fn allow_if<R: Into<String>>(
        mut self,
        condition: Value,
        actions: &[&str],
        resources: impl IntoIterator<Item = R>,
    ) -> Self {
        self.0.push(Statement {
            effect: "Allow",
            action: actions.iter().map(ToString::to_string).collect(),
            resource: resources.into_iter().map(Into::into).collect(),
            condition,
        });
        self
    }

    /// Every action declared, in order.
    pub fn actions(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|statement| &statement.action).map(String::as_str)
    }

    /// The inline policy for AssumeRole: resources first, the actions alone (on `*`) where the whole is too long.
    ///
    /// # Errors
    /// `Internal` where even the actions alone are longer than [`SESSION_POLICY_LIMIT`].
    pub fn session_policy(&self, place: &Place) -> Result<String, StepError> {
        let whole = place.fill(&policy(&self.0));
        if whole.chars().count() <= SESSION_POLICY_LIMIT {
            return Ok(whole);
        }
        let anywhere = |statement: &Statement| Statement { resource: vec!["*".into()], ..statement.clone() };
        let actions = policy(&self.0.iter().map(anywhere).collect::<Vec<_>>());
        let length = actions.chars().count();
        if length <= SESSION_POLICY_LIMIT {
            return Ok(actions);
        }
        Err(ErrorName::Internal.because(format!(
            "the step declares more actions than a session policy holds ({length} of {SESSION_POLICY_LIMIT} characters)"
        )))
    }
}

impl Place {
    fn fill(&self, text: &str) -> String {
        text.replace("$partition", &self.partition)
            .replace("$region", &self.region)
            .replace("$account", &self.account_id)
    }
}

/// The ARN of a resource in the step's own account and Region, as in `arn("ec2", "instance/*")`.
#[must_use]
pub fn arn(service: &str, resource: &str) -> String {
    format!("arn:$partition:{service}:$region:$account:{resource}")
}

/// The ARN of a bucket, or of `bucket/key`.
#[must_use]
pub fn s3_arn(path: &str) -> String {
    format!("arn:$partition:s3:::{path}")
}

/// A value from a parameter, with what IAM reads as a pattern written so that it means itself.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html> (special characters)
#[must_use]
pub fn literal(value: &str) -> String {
    value.chars().fold(String::with_capacity(value.len()), |mut text, c| {
        match c {
            '*' | '?' | '$' => text.extend(["${", c.encode_utf8(&mut [0; 4]), "}"]),
            _ => text.push(c),
        }
        text
    })
}

fn policy(statements: &[Statement]) -> String {
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place { partition: "aws".into(), region: "eu-west-1".into(), account_id: "222222222222".into() }
    }

    #[test]
    fn the_session_policy_names_the_resources() {
        let policy = Permissions::default()
            .allow(&["ec2:StartInstances"], [arn("ec2", "instance/i-1")])
            .session_policy(&place())
            .unwrap();
        assert_eq!(
            policy,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ec2:StartInstances"],"Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/i-1"]}]}"#
        );
    }

    #[test]
    fn too_many_resources_leave_the_actions() {
        let many = (0..50).map(|n| arn("ec2", &format!("instance/i-{n:017}")));
        let policy = Permissions::default().allow(&["ec2:StartInstances"], many).session_policy(&place()).unwrap();
        assert!(policy.len() <= SESSION_POLICY_LIMIT);
        assert!(policy.contains(r#""Action":["ec2:StartInstances"],"Resource":["*"]"#));
    }

    #[test]
    fn a_policy_that_cannot_fit_is_refused_and_never_cut() {
        let actions: Vec<_> = (0..200).map(|n| format!("ec2:SomeAction{n:03}")).collect();
        let actions: Vec<_> = actions.iter().map(String::as_str).collect();
        let error = Permissions::default().allow(&actions, ["*"]).session_policy(&place()).unwrap_err();
        assert_eq!(error.name, ErrorName::Internal);
    }

    #[test]
    fn a_parameter_cannot_widen_a_resource() {
        assert_eq!(literal("reports/*"), "reports/${*}");
        assert_eq!(literal("${aws:username}?"), "${$}{aws:username}${?}");
    }
}

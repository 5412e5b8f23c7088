//! What a step may do in a customer's account.
//!
//! Stepward shows the permissions on the step's page, writes them into the template of the
//! customer's role, and sends them with every AssumeRole call as the session policy.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::error::{ErrorName, StepError};

/// The longest inline session policy that STS accepts, in characters.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html> (`Policy`)
pub const SESSION_POLICY_LIMIT: usize = 2048;

/// The marks that [`literal`] puts around a parameter's value. They are private use characters,
/// which no name at AWS contains.
const PARAMETER_MARKS: [char; 2] = ['\u{e000}', '\u{e001}'];

/// The permissions of a step: statements in the order in which the step declares them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Permissions(Vec<Statement>);

/// One `Allow` statement of a policy: actions on resources, optionally under a condition.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The purpose of the actions, such as `find the instances`. It completes "used to …".
    pub purpose: String,
    /// The actions, such as `ec2:StartInstances`.
    pub actions: Vec<String>,
    /// ARNs, or `*`. The variables `$partition`, `$region` and `$account` in an ARN stand for the
    /// step's target.
    pub resources: Vec<String>,
    /// An IAM condition block, or null for no condition.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub condition: Value,
    /// Why the resource is `*` although IAM could limit the actions to resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// The partition, Region and account ID of a step's target. They replace the variables in the ARNs
/// that the step declares.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ArnScope {
    /// `aws`, `aws-cn` or `aws-us-gov`.
    pub partition: String,
    /// The Region that the step works in.
    pub region: String,
    /// The 12-digit account ID.
    pub account_id: String,
}

impl Permissions {
    /// Allows actions on resources.
    ///
    /// `purpose` completes "used to …" on the step's page. Build `resources` with [`arn`] or
    /// [`s3_arn`], or pass `*` for actions that IAM cannot limit to resources.
    #[must_use]
    pub fn allow<R: Into<String>>(
        self,
        purpose: &str,
        actions: &[&str],
        resources: impl IntoIterator<Item = R>,
    ) -> Self {
        self.allow_if(Value::Null, purpose, actions, resources)
    }

    /// Allows actions on resources, as [`Self::allow`] does, under an IAM condition block.
    #[must_use]
    pub fn allow_if<R: Into<String>>(
        self,
        condition: Value,
        purpose: &str,
        actions: &[&str],
        resources: impl IntoIterator<Item = R>,
    ) -> Self {
        self.with_statement(purpose, actions, resources, condition, None)
    }

    /// Allows actions on `*` although IAM could limit them to resources. `reason` is a sentence for
    /// the step's page that says why the step cannot name the resources.
    #[must_use]
    pub fn allow_on_all(self, purpose: &str, actions: &[&str], reason: &str) -> Self {
        self.with_statement(
            purpose,
            actions,
            ["*"],
            Value::Null,
            Some(reason.to_owned()),
        )
    }

    fn with_statement<R: Into<String>>(
        mut self,
        purpose: &str,
        actions: &[&str],
        resources: impl IntoIterator<Item = R>,
        condition: Value,
        reason: Option<String>,
    ) -> Self {
        self.0.push(Statement {
            purpose: purpose.to_owned(),
            actions: actions.iter().map(ToString::to_string).collect(),
            resources: resources.into_iter().map(Into::into).collect(),
            condition,
            reason,
        });
        self
    }

    /// Adds the permissions of `other`.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// The permissions that the step needs with any parameters. `*` replaces every value that came
    /// from a parameter, and duplicate statements are removed.
    #[must_use]
    pub fn for_any_parameters(&self) -> Vec<Statement> {
        let mut widened: Vec<Statement> = Vec::new();
        for statement in &self.0 {
            let mut resources: Vec<String> = statement
                .resources
                .iter()
                .map(|resource| widen_parameters(resource))
                .collect();
            resources.sort();
            resources.dedup();
            let statement = Statement {
                resources,
                ..statement.clone()
            };
            if !widened.contains(&statement) {
                widened.push(statement);
            }
        }
        widened
    }

    /// The session policy for AssumeRole.
    ///
    /// The policy names the resources that the parameters choose. If it becomes too long for STS,
    /// it allows every resource of the same kind in the account and Region. If that is too long
    /// too, it limits only the actions, on `*`.
    ///
    /// # Errors
    /// `Internal` if the actions alone are longer than [`SESSION_POLICY_LIMIT`].
    pub fn session_policy(&self, scope: &ArnScope) -> Result<String, StepError> {
        let render = |statements: &[Statement]| {
            scope
                .fill_variables(&policy_document(statements))
                .replace(PARAMETER_MARKS, "")
        };
        let length = |policy: &str| policy.chars().count();

        let mut policy = render(&self.0);
        if length(&policy) > SESSION_POLICY_LIMIT {
            policy = render(&self.for_any_parameters());
        }
        if length(&policy) > SESSION_POLICY_LIMIT {
            let on_all = |statement: Statement| Statement {
                resources: vec!["*".into()],
                ..statement
            };
            let statements = self.for_any_parameters();
            policy = render(&statements.into_iter().map(on_all).collect::<Vec<_>>());
        }
        if length(&policy) > SESSION_POLICY_LIMIT {
            return Err(ErrorName::Internal.with_message(format!(
                "the step's session policy has {} characters, and STS accepts at most \
                 {SESSION_POLICY_LIMIT}; report this bug in the step",
                length(&policy)
            )));
        }
        Ok(policy)
    }
}

impl ArnScope {
    fn fill_variables(&self, text: &str) -> String {
        text.replace("$partition", &self.partition)
            .replace("$region", &self.region)
            .replace("$account", &self.account_id)
    }
}

/// The ARN of a resource in the step's target account and Region, for example
/// `arn("ec2", "instance/*")`.
#[must_use]
pub fn arn(service: &str, resource: &str) -> String {
    format!("arn:$partition:{service}:$region:$account:{resource}")
}

/// The ARN of a bucket, or of objects as `bucket/key`.
#[must_use]
pub fn s3_arn(path: &str) -> String {
    format!("arn:$partition:s3:::{path}")
}

/// Escapes a parameter's value for use in an ARN, so `*`, `?` and `$` are not wildcards or
/// variables.
///
/// Pass every part of an ARN that comes from a parameter through this function. The session policy
/// then contains the value, and the customer's role contains `*` instead.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html> (special
/// characters)
#[must_use]
pub fn literal(value: &str) -> String {
    let [begin, end] = PARAMETER_MARKS;
    let mut text = String::with_capacity(value.len() + begin.len_utf8() + end.len_utf8());
    text.push(begin);
    for c in value.chars().filter(|c| !PARAMETER_MARKS.contains(c)) {
        match c {
            '*' | '?' | '$' => text.extend(["${", c.encode_utf8(&mut [0; 4]), "}"]),
            _ => text.push(c),
        }
    }
    text.push(end);
    text
}

/// Replaces the values that came from parameters with `*`.
fn widen_parameters(resource: &str) -> String {
    let [begin, end] = PARAMETER_MARKS;
    let mut parts = resource.split(begin);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('*');
        text.push_str(part.split_once(end).map_or("", |(_, rest)| rest));
    }
    // A parameter's value that is followed by `*`, for example `logs/` and `*`, becomes `**`.
    text.replace("**", "*")
}

/// Merges statements that differ only in their actions and purpose: policies have length limits. A
/// merged statement keeps the first purpose.
#[must_use]
pub fn merge_by_scope<'a>(statements: impl IntoIterator<Item = &'a Statement>) -> Vec<Statement> {
    let mut merged: Vec<Statement> = Vec::new();
    for statement in statements {
        let has_same_scope = |existing: &&mut Statement| {
            existing.resources == statement.resources && existing.condition == statement.condition
        };
        match merged.iter_mut().find(has_same_scope) {
            Some(existing) => existing.actions.extend(statement.actions.iter().cloned()),
            None => merged.push(statement.clone()),
        }
    }
    merged
}

fn policy_document(statements: &[Statement]) -> String {
    let to_json = |statement: &Statement| {
        let mut allow = json!({
            "Effect": "Allow",
            "Action": statement.actions,
            "Resource": statement.resources,
        });
        if !statement.condition.is_null() {
            allow["Condition"] = statement.condition.clone();
        }
        allow
    };
    let statements: Vec<_> = merge_by_scope(statements).iter().map(to_json).collect();
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn_scope() -> ArnScope {
        ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        }
    }

    #[test]
    fn statements_with_the_same_scope_are_merged() {
        let only_ec2 = json!({ "StringLike": { "iam:PassedToService": "ec2.amazonaws.com" } });
        let statements = Permissions::default()
            .allow("find images", &["ec2:DescribeImages"], ["*"])
            .allow_if(only_ec2, "pass the role", &["iam:PassRole"], ["*"])
            .allow("find volumes", &["ec2:DescribeVolumes"], ["*"])
            .for_any_parameters();
        let merged = merge_by_scope(&statements);
        let actions: Vec<_> = merged.iter().map(|statement| &statement.actions).collect();
        assert_eq!(
            actions,
            [
                &vec!["ec2:DescribeImages", "ec2:DescribeVolumes"],
                &vec!["iam:PassRole"]
            ]
        );
    }

    #[test]
    fn the_session_policy_names_the_resources() {
        let policy = Permissions::default()
            .allow(
                "start the instances",
                &["ec2:StartInstances"],
                [arn("ec2", "instance/i-1")],
            )
            .session_policy(&arn_scope())
            .unwrap();
        let expected = concat!(
            r#"{"Version":"2012-10-17","Statement":[{"#,
            r#""Effect":"Allow","Action":["ec2:StartInstances"],"#,
            r#""Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/i-1"]}]}"#,
        );
        assert_eq!(policy, expected);
    }

    #[test]
    fn a_long_policy_widens_to_the_kind_then_to_all() {
        let instances = || {
            (0..50).map(|n| {
                arn(
                    "ec2",
                    &format!("instance/{}", literal(&format!("i-{n:017}"))),
                )
            })
        };
        let policy = Permissions::default()
            .allow("start the instances", &["ec2:StartInstances"], instances())
            .session_policy(&arn_scope())
            .unwrap();
        let all_instances = concat!(
            r#""Action":["ec2:StartInstances"],"#,
            r#""Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/*"]"#,
        );
        assert!(policy.contains(all_instances), "{policy}");
        let many_kinds = (0..50).map(|n| arn("ec2", &format!("kind-{n}/{}", literal("x"))));
        let policy = Permissions::default()
            .allow("start the instances", &["ec2:StartInstances"], many_kinds)
            .session_policy(&arn_scope())
            .unwrap();
        assert!(
            policy.contains(r#""Action":["ec2:StartInstances"],"Resource":["*"]"#),
            "{policy}"
        );
    }

    #[test]
    fn a_policy_that_cannot_fit_is_an_error() {
        let actions: Vec<_> = (0..200).map(|n| format!("ec2:SomeAction{n:03}")).collect();
        let actions: Vec<_> = actions.iter().map(String::as_str).collect();
        let error = Permissions::default()
            .allow("test", &actions, ["*"])
            .session_policy(&arn_scope())
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Internal);
    }

    #[test]
    fn a_parameter_cannot_widen_a_resource() {
        for (value, escaped) in [
            ("reports/*", "reports/${*}"),
            ("${aws:username}?", "${$}{aws:username}${?}"),
            ("a\u{e001}b", "ab"),
        ] {
            let policy = Permissions::default().allow(
                "read the objects",
                &["s3:GetObject"],
                [s3_arn(&format!("b/{}", literal(value)))],
            );
            let text = policy.session_policy(&arn_scope()).unwrap();
            assert!(
                text.contains(&format!("\"arn:aws:s3:::b/{escaped}\"")),
                "{text}"
            );
        }
    }

    #[test]
    fn for_any_parameters_a_star_replaces_each_value() {
        let start = |id: &str| {
            Permissions::default().allow(
                "start the instances",
                &["ec2:StartInstances"],
                [arn("ec2", &format!("instance/{}", literal(id)))],
            )
        };
        let bucket = s3_arn(&format!("{}/{}/x", literal("b"), literal("k*")));
        let below_prefix = s3_arn(&format!("b/{}*", literal("logs/")));
        let statements = start("i-1")
            .and(start("i-2"))
            .allow(
                "read the objects",
                &["s3:GetObject"],
                [below_prefix, bucket],
            )
            .for_any_parameters();
        let resources: Vec<_> = statements
            .iter()
            .flat_map(|statement| &statement.resources)
            .collect();
        assert_eq!(
            resources,
            [
                "arn:$partition:ec2:$region:$account:instance/*",
                "arn:$partition:s3:::*/*/x",
                "arn:$partition:s3:::b/*"
            ]
        );
    }
}

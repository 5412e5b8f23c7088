//! What a step may do in a customer's account, as data: shown on its page, written into the
//! customer's role, and sent with every AssumeRole as the session policy.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::error::{ErrorName, StepError};

/// The longest inline session policy that STS takes, in characters.
/// <https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html> (`Policy`)
pub const SESSION_POLICY_LIMIT: usize = 2048;

/// What [`literal`] puts around a value that comes from a parameter. Private use characters: no
/// name at AWS has any.
const FROM_PARAMETER: [char; 2] = ['\u{e000}', '\u{e001}'];

/// Actions on resources, in the order declared.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Permissions(Vec<Statement>);

/// Actions on resources, under a condition: one `Allow` of a policy.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// When the actions are used, as in `find the instances`: completes "used to …".
    pub purpose: String,
    /// The actions, as in `ec2:StartInstances`.
    pub actions: Vec<String>,
    /// ARNs with `$partition`, `$region` and `$account` for where the step works; or `*`.
    pub resources: Vec<String>,
    /// An IAM condition block; null for none.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub condition: Value,
    /// Why the resource is `*` although AWS could narrow the actions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Where a step's resources live; fills the variables of the ARNs that it declares.
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
    /// Allows actions on resources: ARNs made by [`arn`] or [`s3_arn`], or `*` if the action takes
    /// no resource. `purpose` completes "used to …" on the step's page.
    #[must_use]
    pub fn allow<R: Into<String>>(
        self,
        purpose: &str,
        actions: &[&str],
        resources: impl IntoIterator<Item = R>,
    ) -> Self {
        self.allow_if(Value::Null, purpose, actions, resources)
    }

    /// Allows actions on resources under an IAM condition block.
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

    /// Allows actions on `*` although AWS could narrow them. `reason` is a sentence on the step's
    /// page that says why the step cannot.
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

    /// The permissions of both.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// What any parameters may need: `*` in the place of every value that came from one, each
    /// statement once.
    #[must_use]
    pub fn for_any_parameters(&self) -> Vec<Statement> {
        let mut all: Vec<Statement> = Vec::new();
        for statement in &self.0 {
            let mut resources: Vec<String> = statement
                .resources
                .iter()
                .map(|resource| widened(resource))
                .collect();
            resources.sort();
            resources.dedup();
            let statement = Statement {
                resources,
                ..statement.clone()
            };
            if !all.contains(&statement) {
                all.push(statement);
            }
        }
        all
    }

    /// The inline policy for AssumeRole: on the resources that the parameters name; where that is
    /// too long, on any of their kind in the account and Region; and where even that is, the
    /// actions alone, on `*`.
    ///
    /// # Errors
    /// `Internal` where even the actions alone are longer than [`SESSION_POLICY_LIMIT`].
    pub fn session_policy(&self, place: &ArnScope) -> Result<String, StepError> {
        let written =
            |statements: &[Statement]| place.fill(&policy(statements)).replace(FROM_PARAMETER, "");
        let length = |policy: &str| policy.chars().count();
        let mut policy = written(&self.0);
        if length(&policy) > SESSION_POLICY_LIMIT {
            policy = written(&self.for_any_parameters());
        }
        if length(&policy) > SESSION_POLICY_LIMIT {
            let anywhere = |one: Statement| Statement {
                resources: vec!["*".into()],
                ..one
            };
            policy = written(
                &self
                    .for_any_parameters()
                    .into_iter()
                    .map(anywhere)
                    .collect::<Vec<_>>(),
            );
        }
        if length(&policy) > SESSION_POLICY_LIMIT {
            return Err(ErrorName::Internal.with_message(format!(
                "the step declares more actions than a session policy holds ({} of {SESSION_POLICY_LIMIT} characters)",
                length(&policy)
            )));
        }
        Ok(policy)
    }
}

impl ArnScope {
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
/// Every part of an ARN that comes from a parameter is made by this: the session gets the value,
/// the customer's role `*` in its place.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_variables.html> (special
/// characters)
#[must_use]
pub fn literal(value: &str) -> String {
    let [begin, end] = FROM_PARAMETER;
    let mut text = String::with_capacity(value.len() + begin.len_utf8() + end.len_utf8());
    text.push(begin);
    for c in value.chars().filter(|c| !FROM_PARAMETER.contains(c)) {
        match c {
            '*' | '?' | '$' => text.extend(["${", c.encode_utf8(&mut [0; 4]), "}"]),
            _ => text.push(c),
        }
    }
    text.push(end);
    text
}

/// A resource with `*` in the place of what came from parameters.
fn widened(resource: &str) -> String {
    let [begin, end] = FROM_PARAMETER;
    let mut parts = resource.split(begin);
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push('*');
        text.push_str(part.split_once(end).map_or("", |(_, rest)| rest));
    }
    // `logs/` and all below it is `*` and then `*`: as much as one.
    text.replace("**", "*")
}

fn policy(statements: &[Statement]) -> String {
    // What is used for several purposes on the same resources takes one statement.
    let mut merged: Vec<Statement> = Vec::new();
    for statement in statements {
        let same = |one: &&mut Statement| {
            one.resources == statement.resources && one.condition == statement.condition
        };
        match merged.iter_mut().find(same) {
            Some(one) => one.actions.extend(statement.actions.iter().cloned()),
            None => merged.push(statement.clone()),
        }
    }
    let allow = |statement: &Statement| {
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
    let statements: Vec<_> = merged.iter().map(allow).collect();
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> ArnScope {
        ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        }
    }

    #[test]
    fn the_session_policy_names_the_resources() {
        let policy = Permissions::default()
            .allow(
                "start the instances",
                &["ec2:StartInstances"],
                [arn("ec2", "instance/i-1")],
            )
            .session_policy(&place())
            .unwrap();
        assert_eq!(
            policy,
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["ec2:StartInstances"],"Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/i-1"]}]}"#
        );
    }

    #[test]
    fn too_many_resources_leave_all_of_their_kind_and_then_the_actions() {
        let many = || {
            (0..50).map(|n| {
                arn(
                    "ec2",
                    &format!("instance/{}", literal(&format!("i-{n:017}"))),
                )
            })
        };
        let policy = Permissions::default()
            .allow("start the instances", &["ec2:StartInstances"], many())
            .session_policy(&place())
            .unwrap();
        let kind = r#""Action":["ec2:StartInstances"],"Resource":["arn:aws:ec2:eu-west-1:222222222222:instance/*"]"#;
        assert!(policy.contains(kind), "{policy}");
        let kinds = (0..50).map(|n| arn("ec2", &format!("kind-{n}/{}", literal("x"))));
        let policy = Permissions::default()
            .allow("start the instances", &["ec2:StartInstances"], kinds)
            .session_policy(&place())
            .unwrap();
        assert!(
            policy.contains(r#""Action":["ec2:StartInstances"],"Resource":["*"]"#),
            "{policy}"
        );
    }

    #[test]
    fn a_policy_that_cannot_fit_is_refused_and_never_cut() {
        let actions: Vec<_> = (0..200).map(|n| format!("ec2:SomeAction{n:03}")).collect();
        let actions: Vec<_> = actions.iter().map(String::as_str).collect();
        let error = Permissions::default()
            .allow("test", &actions, ["*"])
            .session_policy(&place())
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Internal);
    }

    #[test]
    fn a_parameter_cannot_widen_a_resource() {
        for (value, means) in [
            ("reports/*", "reports/${*}"),
            ("${aws:username}?", "${$}{aws:username}${?}"),
            ("a\u{e001}b", "ab"),
        ] {
            let policy = Permissions::default().allow(
                "start the instances",
                &["s3:GetObject"],
                [s3_arn(&format!("b/{}", literal(value)))],
            );
            let text = policy.session_policy(&place()).unwrap();
            assert!(
                text.contains(&format!("\"arn:aws:s3:::b/{means}\"")),
                "{text}"
            );
        }
    }

    #[test]
    fn for_any_parameters_a_star_stands_where_a_value_was() {
        let one = |id: &str| {
            Permissions::default().allow(
                "start the instances",
                &["ec2:StartInstances"],
                [arn("ec2", &format!("instance/{}", literal(id)))],
            )
        };
        let bucket = s3_arn(&format!("{}/{}/x", literal("b"), literal("k*")));
        let below = s3_arn(&format!("b/{}*", literal("logs/")));
        let any = one("i-1")
            .and(one("i-2"))
            .allow("start the instances", &["s3:GetObject"], [below, bucket])
            .for_any_parameters();
        let resources: Vec<_> = any
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

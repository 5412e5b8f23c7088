//! The CloudFormation template of a role with only the permissions that some steps need.

use serde_json::{Value, json};
use stepward::model::permissions::{Statement, merge_by_scope};
use stepward::runtime::manifest::Manifest;

use crate::error::{Error, Result};
use crate::output::counted;
use crate::package;
use crate::steps;
use crate::workspace::Workspace;

/// The longest managed policy, in characters without white space.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
const MAX_POLICY_LENGTH: usize = 6144;
/// How many managed policies a role can have.
const MAX_POLICIES: usize = 10;
/// How many bytes of the template's description list the steps. A description has at most 1,024.
/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-description-structure.html>
const MAX_LISTED_BYTES: usize = 700;

/// The manifests of these steps, and of the steps that these jobs call.
pub fn find_manifests(names: &[String], jobs: &[String]) -> Result<Vec<Manifest>> {
    let mut wanted = names.to_vec();
    if !jobs.is_empty() {
        wanted.extend(steps_of_jobs(&Workspace::find()?, jobs)?);
    }
    wanted.sort();
    wanted.dedup();
    if wanted.is_empty() {
        return Err(Error::usage_error(format!(
            "job \"{}\" calls no steps itself",
            jobs.join(", ")
        ))
        .with_advice(
            "list the steps that the role must allow, for example those that you dispatch to \
             nodes: --steps STEP,…",
        ));
    }
    wanted.iter().map(|name| steps::find_step(name)).collect()
}

/// The names of the steps that jobs call.
fn steps_of_jobs(workspace: &Workspace, names: &[String]) -> Result<Vec<String>> {
    let existing = package::jobs(workspace)?;
    let find_job = |name: &String| {
        existing
            .iter()
            .find(|job| job.name == *name)
            .cloned()
            .ok_or_else(|| {
                let existing: Vec<_> = existing.iter().map(|job| job.name.as_str()).collect();
                Error::usage_error(format!("job \"{name}\" does not exist in this checkout"))
                    .with_advice(format!("choose one of {}", existing.join(", ")))
            })
    };
    let jobs = names.iter().map(find_job).collect::<Result<Vec<_>>>()?;
    let called = package::functions_called_by(workspace, &jobs)?.into_iter();
    // The runner's own functions need no permissions in customers' accounts.
    Ok(called
        .filter(|function| !function.is_runner_function())
        .map(|function| function.name.clone())
        .collect())
}

/// A CloudFormation template of a role with exactly the permissions that these steps declare, for
/// any parameters.
pub fn role_template(steps: &[Manifest]) -> Result<Value> {
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    let declared = steps
        .iter()
        .flat_map(|step| step.permissions.iter().chain(&step.peer_permissions));
    let statements = merge_by_scope(declared);
    let mut resources = json!({});
    let mut policies = Vec::new();
    for part in split_into_policies(statements.iter().map(policy_statement).collect()) {
        let id = format!("Permissions{}", policies.len() + 1);
        resources[&id] = json!({
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "Description": "What Stepward may do in this account",
                "PolicyDocument": policy_document(&part),
            },
        });
        policies.push(json!({ "Ref": id }));
    }
    if policies.len() > MAX_POLICIES {
        return Err(Error::usage_error(format!(
            "the permissions of {} need {}; a role can have at most {MAX_POLICIES}",
            counted(steps.len(), "step"),
            counted(policies.len(), "managed policy")
        ))
        .with_advice(
            "divide the steps between two roles, and add the AWS account twice, once for each role",
        ));
    }
    resources["Role"] = json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Path": "/stepward/",
            "RoleName": { "Ref": "RoleName" },
            "Description": "Assumed by Stepward's broker to run jobs in this account",
            "MaxSessionDuration": 3600,
            "AssumeRolePolicyDocument": policy_document(&[json!({
                "Effect": "Allow",
                "Principal": { "AWS": { "Ref": "BrokerRoleArn" } },
                "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
                "Condition": { "StringEquals": { "sts:ExternalId": { "Ref": "ExternalId" } } },
            })]),
            "ManagedPolicyArns": policies,
        },
    });
    Ok(json!({
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": format!(
            "Lets Stepward run these steps in this account: {}. Creates one role that only the \
             operator's broker role can assume, and only with this external ID. Delete this stack \
             to revoke the permission.",
            shortened(&names.join(", "), MAX_LISTED_BYTES)
        ),
        "Parameters": {
            "BrokerRoleArn": {
                "Type": "String",
                "AllowedPattern": "arn:aws[a-z-]*:iam::[0-9]{12}:role/.+",
                "Description": "ARN of the operator's broker role.",
            },
            "ExternalId": {
                "Type": "CommaDelimitedList",
                "AllowedPattern": "[A-Za-z0-9+=.@:/_-]{20,1224}",
                "Description": "The external ID that the operator generated for this account; \
                                during a rotation, the old and the new one, separated by a comma.",
            },
            "RoleName": {
                "Type": "String",
                "Default": "Stepward",
                "AllowedPattern": "[A-Za-z0-9+=,.@_-]{1,64}",
                "Description": "Name of the role. Its path is always /stepward/: the broker can \
                                assume no other roles.",
            },
        },
        "Resources": resources,
        "Outputs": { "RoleArn": {
            "Description": "Send this to the operator",
            "Value": { "Fn::GetAtt": ["Role", "Arn"] },
        } },
    }))
}

/// A statement with CloudFormation's variables. It covers every Region, because an account can have
/// several.
fn policy_statement(statement: &Statement) -> Value {
    let resource_with_variables = |resource: &String| {
        let arn = resource
            .replace("$partition", "${AWS::Partition}")
            .replace("$region", "*")
            .replace("$account", "${AWS::AccountId}");
        if arn.contains("${AWS::") {
            json!({ "Fn::Sub": arn })
        } else {
            json!(arn)
        }
    };
    let mut actions = statement.actions.clone();
    actions.sort();
    actions.dedup();
    let resources: Vec<_> = statement
        .resources
        .iter()
        .map(resource_with_variables)
        .collect();
    let mut allow = json!({ "Effect": "Allow", "Action": actions, "Resource": resources });
    if !statement.condition.is_null() {
        allow["Condition"] = statement.condition.clone();
    }
    allow
}

/// Statements in as few policies as their order allows.
fn split_into_policies(statements: Vec<Value>) -> Vec<Vec<Value>> {
    let mut policies: Vec<Vec<Value>> = Vec::new();
    for statement in statements {
        let has_space = policies.last().is_some_and(|policy| {
            let extended = [policy.as_slice(), std::slice::from_ref(&statement)].concat();
            policy_length(&extended) <= MAX_POLICY_LENGTH
        });
        match policies.last_mut().filter(|_| has_space) {
            Some(policy) => policy.push(statement),
            None => policies.push(vec![statement]),
        }
    }
    policies
}

/// An upper bound of the length that IAM counts: IAM's text has no `Fn::Sub`, and an account ID is
/// shorter than `${AWS::AccountId}`.
fn policy_length(statements: &[Value]) -> usize {
    policy_document(statements).to_string().chars().count()
}

fn policy_document(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// A list of names that is cut off after a name, so that it has about `limit` bytes at most.
fn shortened(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let start = &text[..text.floor_char_boundary(limit)];
    format!(
        "{} and more",
        start.rfind(", ").map_or(start, |end| &start[..end])
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn template_for(names: &[&str]) -> Value {
        let steps: Vec<_> = names
            .iter()
            .map(|name| steps::find_step(name).unwrap())
            .collect();
        role_template(&steps).unwrap()
    }

    #[test]
    fn the_role_has_exactly_the_declared_permissions() {
        let template = template_for(&["ec2-start", "ec2-stop", "s3-list"]);
        let statements =
            &template["Resources"]["Permissions1"]["Properties"]["PolicyDocument"]["Statement"];
        let instances =
            json!([{ "Fn::Sub": "arn:${AWS::Partition}:ec2:*:${AWS::AccountId}:instance/*" }]);
        let statements = statements.as_array().unwrap();
        let on_instances: Vec<_> = statements
            .iter()
            .filter(|statement| statement["Resource"] == instances)
            .collect();
        assert_eq!(on_instances.len(), 1, "{statements:?}");
        assert_eq!(
            on_instances[0]["Action"],
            json!(["ec2:StartInstances", "ec2:StopInstances"])
        );
        let text = template.to_string();
        assert!(
            text.contains("s3:ListBucket")
                && !text.contains("athena:")
                && !text.contains("$region"),
            "{text}"
        );
        assert!(
            text.contains(
                r#""Condition":{"StringEquals":{"sts:ExternalId":{"Ref":"ExternalId"}}}"#
            )
        );
    }

    #[test]
    fn the_permissions_of_all_steps_fit_one_role() {
        let template = role_template(&steps::catalog().unwrap()).unwrap();
        let policies = template["Resources"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(id, _)| id.starts_with("Permissions"));
        for (id, policy) in policies {
            let length = policy["Properties"]["PolicyDocument"].to_string().len();
            assert!(length <= MAX_POLICY_LENGTH, "{id}: {length}");
        }
        assert!(template["Description"].as_str().unwrap().len() <= 1024);
    }

    proptest! {
        #[test]
        fn any_text_is_shortened_to_its_limit(text in "(?s:.{0,60})", limit in 0..100_usize) {
            let shown = shortened(&text, limit);
            prop_assert!(shown == text || shown.len() <= limit + " and more".len());
        }
    }
}

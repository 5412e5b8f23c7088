//! The role that a customer launches, cut to what some steps need.

use serde_json::{Value, json};
use stepward::model::permissions::Statement;
use stepward::runtime::manifest::Manifest;

use crate::error::{Error, Result};
use crate::package;
use crate::steps;
use crate::workspace::Workspace;

/// The longest managed policy, in characters, white space not counted.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html>
const POLICY_LIMIT: usize = 6144;
/// How many of them a role may have.
const POLICIES: usize = 10;

/// What these steps, and those that these jobs call, say of themselves.
pub fn manifests(names: &[String], jobs: &[String]) -> Result<Vec<Manifest>> {
    let mut wanted = names.to_vec();
    if !jobs.is_empty() {
        wanted.extend(steps_of(&Workspace::find()?, jobs)?);
    }
    wanted.sort();
    wanted.dedup();
    if wanted.is_empty() {
        return Err(Error::not_asked(format!(
            "{}: no step is named in the job's definition",
            jobs.join(", ")
        ))
        .next("name the steps that you run with it: --steps STEP,…"));
    }
    wanted.iter().map(|name| steps::find(name)).collect()
}

/// The steps that jobs call, by name.
fn steps_of(workspace: &Workspace, names: &[String]) -> Result<Vec<String>> {
    let known = package::jobs(workspace)?;
    let find = |name: &String| {
        known
            .iter()
            .find(|job| job.name == *name)
            .cloned()
            .ok_or_else(|| {
                let known: Vec<_> = known.iter().map(|job| job.name.as_str()).collect();
                Error::not_asked(format!("there is no job {name}"))
                    .next(format!("the jobs here are {}", known.join(", ")))
            })
    };
    let jobs = names.iter().map(find).collect::<Result<Vec<_>>>()?;
    let called = package::called_by(workspace, &jobs)?.into_iter();
    // The runner's own functions work in no customer's account.
    Ok(called
        .filter(|function| !function.is_the_runners())
        .map(|function| function.name.clone())
        .collect())
}

/// A CloudFormation template of a role that may do exactly what these steps declare, whatever their
/// parameters.
pub fn template(steps: &[Manifest]) -> Result<Value> {
    let names: Vec<_> = steps.iter().map(|step| step.name.as_str()).collect();
    let mut statements: Vec<Statement> = Vec::new();
    for statement in steps
        .iter()
        .flat_map(|step| step.permissions.iter().chain(&step.peer_permissions))
    {
        // Steps share much; what they do on the same resources is said once.
        let same = |known: &&mut Statement| {
            known.resources == statement.resources && known.condition == statement.condition
        };
        match statements.iter_mut().find(same) {
            Some(known) => known.actions.extend(statement.actions.iter().cloned()),
            None => statements.push(statement.clone()),
        }
    }
    let mut resources = json!({});
    let mut policies = Vec::new();
    for part in parts(statements.iter().map(allow).collect()) {
        let id = format!("Permissions{}", policies.len() + 1);
        resources[&id] = json!({
            "Type": "AWS::IAM::ManagedPolicy",
            "Properties": {
                "Description": "What Stepward may do in this account",
                "PolicyDocument": policy(&part),
            },
        });
        policies.push(json!({ "Ref": id }));
    }
    if policies.len() > POLICIES {
        return Err(Error::not_asked(format!(
            "these {} steps need {} policies, and a role has at most {POLICIES}",
            steps.len(),
            policies.len()
        ))
        .next("make two roles, for two accounts on record"));
    }
    resources["Role"] = json!({
        "Type": "AWS::IAM::Role",
        "Properties": {
            "Path": "/stepward/",
            "RoleName": { "Ref": "RoleName" },
            "Description": "Assumed by Stepward's broker to run jobs in this account",
            "MaxSessionDuration": 3600,
            "AssumeRolePolicyDocument": policy(&[json!({
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
            "Lets Stepward run these steps in this account: {}. Makes one role that only the operator's broker role may \
             assume, and only with the external ID given here. Delete this stack to take the permission back.",
            shortened(&names.join(", "), 700)
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
                "Description": "The external ID that the operator generated for this account; during a rotation the old and \
                                the new one, with a comma between them.",
            },
            "RoleName": {
                "Type": "String",
                "Default": "Stepward",
                "AllowedPattern": "[A-Za-z0-9+=,.@_-]{1,64}",
                "Description": "Name of the role. Its path is always /stepward/, the only one that the broker may assume.",
            },
        },
        "Resources": resources,
        "Outputs": { "RoleArn": {
            "Description": "Send this to the operator",
            "Value": { "Fn::GetAtt": ["Role", "Arn"] },
        } },
    }))
}

/// A statement as CloudFormation fills it in: for every Region, because an account can have
/// several.
fn allow(statement: &Statement) -> Value {
    let resource = |resource: &String| {
        let filled = resource
            .replace("$partition", "${AWS::Partition}")
            .replace("$region", "*")
            .replace("$account", "${AWS::AccountId}");
        if filled.contains("${AWS::") {
            json!({ "Fn::Sub": filled })
        } else {
            json!(filled)
        }
    };
    let mut actions = statement.actions.clone();
    actions.sort();
    actions.dedup();
    let resources: Vec<_> = statement.resources.iter().map(resource).collect();
    let mut allow = json!({ "Effect": "Allow", "Action": actions, "Resource": resources });
    if !statement.condition.is_null() {
        allow["Condition"] = statement.condition.clone();
    }
    allow
}

/// Statements in as few policies as their order allows.
fn parts(statements: Vec<Value>) -> Vec<Vec<Value>> {
    let mut parts: Vec<Vec<Value>> = Vec::new();
    for statement in statements {
        match parts.last_mut() {
            Some(part)
                if length(&[part.as_slice(), std::slice::from_ref(&statement)].concat())
                    <= POLICY_LIMIT =>
            {
                part.push(statement);
            }
            _ => parts.push(vec![statement]),
        }
    }
    parts
}

/// More than IAM will count: its own text is without `Fn::Sub`, and an account ID is shorter than
/// `${AWS::AccountId}`.
fn length(statements: &[Value]) -> usize {
    policy(statements).to_string().chars().count()
}

fn policy(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// A description has at most 1,024 bytes.
/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/template-description-structure.html>
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

    fn of(names: &[&str]) -> Value {
        let steps: Vec<_> = names
            .iter()
            .map(|name| steps::find(name).unwrap())
            .collect();
        template(&steps).unwrap()
    }

    #[test]
    fn the_role_may_do_what_the_steps_declare_and_nothing_else() {
        let template = of(&["ec2-start", "ec2-stop", "s3-list"]);
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
    fn even_all_steps_fit_one_role() {
        let template = template(&steps::catalog().unwrap()).unwrap();
        let policies = template["Resources"]
            .as_object()
            .unwrap()
            .iter()
            .filter(|(id, _)| id.starts_with("Permissions"));
        for (id, policy) in policies {
            let length = policy["Properties"]["PolicyDocument"].to_string().len();
            assert!(length <= POLICY_LIMIT, "{id}: {length}");
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

//! How an account comes under Stepward: what its owner is told, and the proof that the role is
//! right.

use serde::Serialize;
use serde_json::{Value, json};
use stepward::access::store::Store;
use stepward::access::trust::{TrustProof, TrustVerdict};
use stepward::model::customer::{Account, Trust};
use stepward::model::partition::Partition;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::Result;
use crate::jobs::{self, Finished, Outcome};

/// The job that proves an account.
const CHECK: &str = "account/check";
/// The stack that the launch link proposes.
const STACK: &str = "Stepward";

/// What the owner of an account needs to let Stepward in.
#[derive(Clone, Debug, Serialize)]
pub struct Invitation {
    /// The customer.
    pub customer: String,
    /// The account's name.
    pub account: String,
    /// The 12-digit account ID.
    pub account_id: String,
    /// Who is to be trusted.
    pub broker_role_arn: String,
    /// What the trust policy has to ask for; two during a rotation.
    pub external_ids: Vec<String>,
    /// The role's trust policy, ready to be pasted.
    pub trust_policy: Value,
    /// Opens the CloudFormation console with everything filled in; none on the local cloud, which
    /// has no console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_link: Option<String>,
}

/// The store of a deployment.
pub fn store(cloud: &Cloud, deployment: &Deployment) -> Result<Store> {
    Ok(Store::new(
        cloud.dynamodb(),
        deployment.output("TableName")?,
    ))
}

/// What the owner of this account needs.
pub async fn invitation(
    cloud: &Cloud,
    deployment: &Deployment,
    account: &Account,
) -> Result<Invitation> {
    let broker = deployment.output("BrokerRoleArn")?;
    let ids = [
        Some(&account.external_id),
        account.next_external_id.as_ref(),
    ];
    let ids: Vec<_> = ids
        .into_iter()
        .flatten()
        .map(|id| id.expose().to_owned())
        .collect();
    let region = account
        .default_region
        .as_ref()
        .or(account.regions.first())
        .unwrap_or(&cloud.region);
    let launch_link = if cloud.local.is_none() {
        let template = deployment.customer_role_url(cloud).await?;
        Some(launch_link(
            &cloud.partition,
            region,
            &template,
            broker,
            &ids,
        ))
    } else {
        None
    };
    Ok(Invitation {
        customer: account.customer.clone(),
        account: account.name.clone(),
        account_id: account.account_id.clone(),
        broker_role_arn: broker.to_owned(),
        trust_policy: trust_policy(broker, &ids),
        launch_link,
        external_ids: ids,
    })
}

/// The trust policy of a role for Stepward; `infra/customer-role.yaml` makes the same.
#[must_use]
pub fn trust_policy(broker_role_arn: &str, external_ids: &[String]) -> Value {
    let ids = if let [only] = external_ids {
        json!(only)
    } else {
        json!(external_ids)
    };
    json!({ "Version": "2012-10-17", "Statement": [{
        "Effect": "Allow",
        "Principal": { "AWS": broker_role_arn },
        "Action": ["sts:AssumeRole", "sts:SetSourceIdentity"],
        "Condition": { "StringEquals": { "sts:ExternalId": ids } },
    }] })
}

/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cfn-console-create-stacks-quick-create-links.html>
fn launch_link(
    partition: &str,
    region: &str,
    template: &str,
    broker: &str,
    external_ids: &[String],
) -> String {
    let console = Partition::named_or_standard(partition).console;
    let pairs = [
        ("templateURL", template),
        ("stackName", STACK),
        ("param_BrokerRoleArn", broker),
        ("param_ExternalId", &external_ids.join(",")),
    ];
    let query: Vec<_> = pairs
        .iter()
        .map(|(key, value)| format!("{key}={}", percent_encoded(value)))
        .collect();
    format!(
        "https://{console}/cloudformation/home?region={region}#/stacks/quickcreate?{}",
        query.join("&")
    )
}

fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push_str(&stepward::model::digest::hex(&[byte]).to_uppercase());
        }
        encoded
    })
}

/// What a check found.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The account, with the trust that was recorded.
    pub account: Account,
    /// The execution of the check.
    pub finished: Finished,
    /// Whether a rotation has ended by it.
    pub rotated: bool,
}

impl Checked {
    /// Whether steps may run in the account now.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.finished.outcome == Outcome::Succeeded
    }
}

/// Proves the account's role with the job `account/check`, run by the broker as every step is, and
/// records what it found.
pub async fn check(
    cloud: &Cloud,
    deployment: &Deployment,
    customer: &str,
    account: &str,
) -> Result<Checked> {
    let store = store(cloud, deployment)?;
    let record = store
        .account(customer, account)
        .await
        .map_err(|error| cloud.explain(&error))?;
    let input = json!({ "customer": customer, "account": account, "started_by": cloud.caller });
    let finished = jobs::run(cloud, deployment, CHECK, &input).await?;
    let found = finding(&finished, record.trust);
    let who = &cloud.caller;
    let written = match found {
        Finding::NextIsProven => store.finish_rotation(who, &record).await,
        Finding::Trust(trust) if trust != record.trust => {
            store.set_trust(who, &record, trust).await
        }
        Finding::Trust(_) => Ok(record),
    };
    let account = written.map_err(|error| cloud.explain(&error))?;
    Ok(Checked {
        account,
        finished,
        rotated: found == Finding::NextIsProven,
    })
}

/// Sets the role, then proves it.
pub async fn set_role(
    cloud: &Cloud,
    deployment: &Deployment,
    customer: &str,
    account: &str,
    role_arn: &str,
) -> Result<Checked> {
    let store = store(cloud, deployment)?;
    let record = store
        .account(customer, account)
        .await
        .map_err(|error| cloud.explain(&error))?;
    store
        .set_role(&cloud.caller, &record, role_arn)
        .await
        .map_err(|error| cloud.explain(&error))?;
    check(cloud, deployment, customer, account).await
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Finding {
    Trust(Trust),
    NextIsProven,
}

/// What a check says of the trust that was recorded before it.
fn finding(finished: &Finished, before: Trust) -> Finding {
    if finished.outcome == Outcome::Succeeded {
        let proof = serde_json::from_value::<TrustProof>(finished.output["trust"].clone());
        return match proof {
            // It passed although strangers get in, because an operator has overridden that.
            Ok(proof) if proof.verdict().is_err() => Finding::Trust(before),
            Ok(proof) if proof.next_external_id == Some(TrustVerdict::Accepted) => {
                Finding::NextIsProven
            }
            // No proof: this credential provider assumes no role, so there is no trust policy.
            _ => Finding::Trust(Trust::Proven),
        };
    }
    Finding::Trust(match (finished.error.as_deref(), before) {
        // The override was decided by somebody who knew this.
        (Some("TrustBroken"), Trust::Overridden) => Trust::Overridden,
        (Some("TrustBroken"), _) => Trust::Open,
        (Some("AccessDenied"), _) => Trust::Unproven,
        // Throttling or network trouble says nothing about the role, for better or worse.
        (_, before) => before,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(error: Option<&str>, output: Value) -> Finished {
        Finished {
            execution_arn: "arn".into(),
            status: "…".into(),
            outcome: if error.is_some() {
                Outcome::Failed
            } else {
                Outcome::Succeeded
            },
            output,
            error: error.map(str::to_owned),
            cause: None,
        }
    }

    #[test]
    fn the_trust_policy_asks_for_the_external_id() {
        let policy = trust_policy(
            "arn:aws:iam::111111111111:role/stepward-broker",
            &["abc".to_owned()],
        );
        assert_eq!(
            policy["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"],
            "abc"
        );
        let both = trust_policy("arn", &["abc".to_owned(), "def".to_owned()]);
        assert_eq!(
            both["Statement"][0]["Condition"]["StringEquals"]["sts:ExternalId"],
            json!(["abc", "def"])
        );
    }

    #[test]
    fn the_launch_link_carries_everything() {
        let link = launch_link(
            "aws",
            "eu-west-1",
            "https://s3/b/k",
            "arn:aws:iam::1:role/x",
            &["a".into(), "b".into()],
        );
        assert!(
            link.starts_with(
                "https://console.aws.amazon.com/cloudformation/home?region=eu-west-1#/stacks/quickcreate?"
            )
        );
        assert!(
            link.contains("templateURL=https%3A%2F%2Fs3%2Fb%2Fk")
                && link.ends_with("param_ExternalId=a%2Cb"),
            "{link}"
        );
    }

    #[test]
    fn what_a_check_found_is_recorded_and_what_it_did_not_find_is_not() {
        let proof = |next: Value| {
            json!({ "trust": { "without_external_id": "refused", "wrong_external_id": "refused",
                "right_external_id": "accepted", "next_external_id": next } })
        };
        let found = |error, before| finding(&finished(error, Value::Null), before);
        assert_eq!(
            found(Some("TrustBroken"), Trust::Proven),
            Finding::Trust(Trust::Open)
        );
        assert_eq!(
            found(Some("TrustBroken"), Trust::Overridden),
            Finding::Trust(Trust::Overridden)
        );
        assert_eq!(
            found(Some("AccessDenied"), Trust::Proven),
            Finding::Trust(Trust::Unproven)
        );
        assert_eq!(
            found(Some("TimedOut"), Trust::Proven),
            Finding::Trust(Trust::Proven)
        );
        assert_eq!(
            found(Some("Throttled"), Trust::Unproven),
            Finding::Trust(Trust::Unproven)
        );
        let passed = |next| finding(&finished(None, proof(next)), Trust::Unproven);
        assert_eq!(passed(Value::Null), Finding::Trust(Trust::Proven));
        assert_eq!(passed(json!("refused")), Finding::Trust(Trust::Proven));
        assert_eq!(passed(json!("accepted")), Finding::NextIsProven);
    }
}

//! The onboarding of accounts: the facts for the account's owner, and the proof that the role is
//! right.

use serde::Serialize;
use serde_json::{Value, json};
use stepward::access::store::Store;
use stepward::access::trust::{TrustProof, TrustVerdict};
use stepward::model::credential_rejection::CREDENTIALS_REJECTED;
use stepward::model::customer::{Account, Trust};
use stepward::model::partition::Partition;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Error, Result};
use crate::jobs::{self, Finished, Outcome};

/// The job that checks an account's role.
const CHECK_JOB: &str = "account/check";
/// The name of the stack that the launch link proposes.
const ROLE_STACK: &str = "Stepward";

/// The facts that the owner of an account needs to create the role for Stepward.
#[derive(Clone, Debug, Serialize)]
pub struct Invitation {
    /// The customer.
    pub customer: String,
    /// The account's name.
    pub account: String,
    /// The 12-digit account ID.
    pub account_id: String,
    /// The role that the account's role has to trust.
    pub broker_role_arn: String,
    /// The external ID that the trust policy has to require; two during a rotation.
    pub external_ids: Vec<String>,
    /// The trust policy of the role, ready to be pasted.
    pub trust_policy: Value,
    /// A link that opens the CloudFormation console with all values filled in; none on the local
    /// cloud, which has no console.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub launch_link: Option<String>,
}

/// The store of a deployment.
pub fn open_store(cloud: &Cloud, deployment: &Deployment) -> Result<Store> {
    Ok(Store::new(
        cloud.dynamodb(),
        deployment.output("TableName")?,
    ))
}

/// The facts that the owner of this account needs.
pub async fn create_invitation(
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

/// The trust policy of a role for Stepward, the same as in `infra/customer-role.yaml`.
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

/// A link to the CloudFormation console that creates the role's stack.
/// <https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cfn-console-create-stacks-quick-create-links.html>
fn launch_link(
    partition: &str,
    region: &str,
    template: &str,
    broker: &str,
    external_ids: &[String],
) -> String {
    let console = Partition::find_or_standard(partition).console;
    let pairs = [
        ("templateURL", template),
        ("stackName", ROLE_STACK),
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

/// The result of a check.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The account, with the trust that the check has recorded.
    pub account: Account,
    /// The execution of the check.
    pub finished: Finished,
    /// Whether the check has ended a rotation.
    pub rotated: bool,
}

impl Checked {
    /// Whether steps may run in the account now.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.finished.outcome == Outcome::Succeeded
    }

    /// The trust proof of a check that passed; none if the credential provider assumes no role.
    #[must_use]
    pub fn proof(&self) -> Option<TrustProof> {
        trust_proof(&self.finished)
    }
}

/// Checks the account's role with the job `account/check`, which uses the broker role like every
/// step, and records the trust that it finds.
pub async fn check_account(
    cloud: &Cloud,
    deployment: &Deployment,
    customer: &str,
    account: &str,
) -> Result<Checked> {
    let store = open_store(cloud, deployment)?;
    let record = store
        .account(customer, account)
        .await
        .map_err(|error| cloud.describe_error(&error))?;
    let input = json!({ "customer": customer, "account": account, "started_by": cloud.caller });
    let finished = jobs::run(cloud, deployment, CHECK_JOB, &input).await?;
    let finding = finding(&finished, record.trust);
    let caller = &cloud.caller;
    let written = match finding {
        Finding::NextIsProven => store.finish_rotation(caller, &record).await,
        Finding::Trust(trust) if trust != record.trust => {
            store.set_trust(caller, &record, trust).await
        }
        Finding::Trust(_) => Ok(record),
    };
    // The check has run, so this is not "nothing was changed", even if the record is refused.
    let account = written.map_err(|error| cloud.describe_error(&error).into_started())?;
    Ok(Checked {
        account,
        finished,
        rotated: finding == Finding::NextIsProven,
    })
}

fn trust_proof(finished: &Finished) -> Option<TrustProof> {
    serde_json::from_value(finished.output["trust"].clone()).ok()
}

/// Sets the role of an account, then checks it.
pub async fn set_role(
    cloud: &Cloud,
    deployment: &Deployment,
    customer: &str,
    account: &str,
    role_arn: &str,
) -> Result<Checked> {
    let store = open_store(cloud, deployment)?;
    let record = store
        .account(customer, account)
        .await
        .map_err(|error| cloud.describe_error(&error))?;
    store
        .set_role(&cloud.caller, &record, role_arn)
        .await
        .map_err(|error| cloud.describe_error(&error))?;
    check_account(cloud, deployment, customer, account)
        .await
        .map_err(Error::into_started)
}

/// The conclusion from a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Finding {
    /// The trust to record.
    Trust(Trust),
    /// The role accepts the next external ID, so the rotation can end.
    NextIsProven,
}

/// The conclusion from a check, given the trust that was recorded before it.
fn finding(finished: &Finished, before: Trust) -> Finding {
    if finished.outcome == Outcome::Succeeded {
        return match trust_proof(finished) {
            // The role accepts callers without the external ID; the check passed because an
            // operator has overridden it.
            Some(proof) if proof.verdict().is_err() => Finding::Trust(before),
            Some(proof) if proof.next_external_id == Some(TrustVerdict::Accepted) => {
                Finding::NextIsProven
            }
            // Without a proof, the credential provider assumes no role and needs no trust policy.
            _ => Finding::Trust(Trust::Proven),
        };
    }
    Finding::Trust(match (finished.error.as_deref(), before) {
        // The operator who overrode the trust knew that the role is open.
        (Some("TrustBroken"), Trust::Overridden) => Trust::Overridden,
        (Some("TrustBroken"), _) => Trust::Open,
        (Some("AccessDenied"), _) if !rejects_credentials(finished) => Trust::Unproven,
        // Other errors, such as throttling, say nothing about the role.
        (_, before) => before,
    })
}

/// Whether AWS rejected credentials, for example in a Region that the account has not enabled.
pub(crate) fn rejects_credentials(finished: &Finished) -> bool {
    let cause = finished.cause.as_deref().unwrap_or_default();
    cause.contains(CREDENTIALS_REJECTED)
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
    fn the_trust_policy_requires_the_external_id() {
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
    fn the_launch_link_contains_all_values() {
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
    fn only_conclusive_checks_change_the_trust() {
        let proof = |next: Value| {
            json!({ "trust": { "without_external_id": "refused", "wrong_external_id": "refused",
                "right_external_id": "accepted", "next_external_id": next } })
        };
        let failed = |error, before| finding(&finished(error, Value::Null), before);
        assert_eq!(
            failed(Some("TrustBroken"), Trust::Proven),
            Finding::Trust(Trust::Open)
        );
        assert_eq!(
            failed(Some("TrustBroken"), Trust::Overridden),
            Finding::Trust(Trust::Overridden)
        );
        assert_eq!(
            failed(Some("AccessDenied"), Trust::Proven),
            Finding::Trust(Trust::Unproven)
        );
        assert_eq!(
            failed(Some("TimedOut"), Trust::Proven),
            Finding::Trust(Trust::Proven)
        );
        assert_eq!(
            failed(Some("Throttled"), Trust::Unproven),
            Finding::Trust(Trust::Unproven)
        );
        let mut rejected = finished(Some("AccessDenied"), Value::Null);
        rejected.cause = Some(format!("[acme/prod] {CREDENTIALS_REJECTED} in eu-south-1"));
        assert_eq!(
            finding(&rejected, Trust::Proven),
            Finding::Trust(Trust::Proven),
            "AWS did not ask the role"
        );
        let passed = |next| finding(&finished(None, proof(next)), Trust::Unproven);
        assert_eq!(passed(Value::Null), Finding::Trust(Trust::Proven));
        assert_eq!(passed(json!("refused")), Finding::Trust(Trust::Proven));
        assert_eq!(passed(json!("accepted")), Finding::NextIsProven);
    }
}

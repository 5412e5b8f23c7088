//! Flow logs: what they can be of, and what AWS says when it refuses some.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_ec2::operation::create_flow_logs::CreateFlowLogsOutput;
use aws_sdk_ec2::types::{FlowLog, FlowLogsResourceType, UnsuccessfulItem};
use serde::{Deserialize, Serialize};
use stepward::model::bucket;
use stepward::model::input::require;
use stepward::{Context, ErrorName, StepError};

/// A kind of resource that can have flow logs.
#[derive(Debug)]
pub struct Kind {
    /// As EC2 calls it.
    pub resource_type: FlowLogsResourceType,
    /// As its ARNs do.
    pub arn: &'static str,
    /// How its IDs begin.
    pub prefix: &'static str,
    /// Its page in the console, and how the fragment begins that ends with the ID.
    pub console: (&'static str, &'static str),
}

const KINDS: [Kind; 3] = [
    Kind {
        resource_type: FlowLogsResourceType::Vpc,
        arn: "vpc",
        prefix: "vpc-",
        console: ("vpcconsole/home", "VpcDetails:VpcId="),
    },
    Kind {
        resource_type: FlowLogsResourceType::Subnet,
        arn: "subnet",
        prefix: "subnet-",
        console: ("vpcconsole/home", "SubnetDetails:subnetId="),
    },
    Kind {
        resource_type: FlowLogsResourceType::NetworkInterface,
        arn: "network-interface",
        prefix: "eni-",
        console: ("ec2/home", "NetworkInterface:networkInterfaceId="),
    },
];

impl Kind {
    /// The kind of this name, in any case.
    #[must_use]
    pub fn of(name: &str) -> Option<&'static Self> {
        const { &KINDS }
            .iter()
            .find(|kind| kind.resource_type.as_str().eq_ignore_ascii_case(name))
    }
}

/// Account and name (with its path) of the role with this ARN.
#[must_use]
pub fn role(arn: &str) -> Option<(&str, &str)> {
    let (_, rest) = arn.strip_prefix("arn:aws")?.split_once(":iam::")?;
    let (account, name) = rest.split_once(":role/")?;
    let fits =
        account.len() == 12 && account.bytes().all(|b| b.is_ascii_digit()) && !name.is_empty();
    fits.then_some((account, name))
}

/// Checks `log_group_name`.
///
/// # Errors
/// `InvalidInput`.
pub fn check_log_group(name: &str) -> Result<(), StepError> {
    // https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_CreateLogGroup.html
    // (logGroupName)
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"_-/.#".contains(&b);
    require(
        (1..=512).contains(&name.len()) && name.bytes().all(legal),
        || "log_group_name is not a name: 1 to 512 letters, digits and . _ - / #".into(),
    )
}

/// Checks `s3_arn`.
///
/// # Errors
/// `InvalidInput`.
pub fn check_bucket(arn: &str) -> Result<(), StepError> {
    let path = arn
        .strip_prefix("arn:aws")
        .and_then(|rest| rest.split_once(":s3:::"))
        .map(|(_, path)| path);
    let (name, folder) = path
        .map(|path| path.split_once('/').unwrap_or((path, "")))
        .unwrap_or_default();
    require(bucket::is_bucket_name(name), || {
        format!("s3_arn {arn:?} names no bucket, as in arn:aws:s3:::bucket/folder/")
    })?;
    // AWS puts a folder of that name behind it and refuses a second one.
    require(folder.split('/').all(|part| part != "AWSLogs"), || {
        "s3_arn: AWS adds the folder AWSLogs by itself, so leave it out".into()
    })
}

/// The flow logs that this step has created.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Created {
    /// Their IDs.
    pub flow_log_ids: Vec<String>,
    /// Resources that had one already, as AWS said when it was asked for another.
    #[serde(default)]
    pub existing: BTreeSet<String>,
}

impl Created {
    /// What came of asking for a flow log of each of these resources.
    ///
    /// # Errors
    /// `StepFailed`, or `NotFound`, naming each resource that AWS refused.
    pub fn of(
        answer: CreateFlowLogsOutput,
        asked: &[String],
        ctx: &Context,
    ) -> Result<Self, StepError> {
        let flow_log_ids = answer.flow_log_ids.unwrap_or_default();
        // What an earlier call created, whose answer was lost, does not show everywhere at once.
        // https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
        // (`FlowLogAlreadyExists`)
        let exists = |item: &UnsuccessfulItem| {
            item.error().and_then(|error| error.code()) == Some("FlowLogAlreadyExists")
        };
        let (existing, refused): (Vec<_>, Vec<_>) = answer
            .unsuccessful
            .unwrap_or_default()
            .into_iter()
            .partition(exists);
        if !refused.is_empty() {
            return Err(refusal(&refused, asked.len(), &flow_log_ids));
        }
        let existing: BTreeSet<_> = existing
            .into_iter()
            .filter_map(|item| item.resource_id)
            .collect();
        let new: Vec<_> = asked
            .iter()
            .filter(|id| !existing.contains(*id))
            .map(String::as_str)
            .collect();
        if !new.is_empty() {
            ctx.log(format_args!(
                "Created {} for {}",
                flow_log_ids.join(", "),
                new.join(", ")
            ));
        }
        Ok(Self {
            flow_log_ids,
            existing,
        })
    }

    /// How many of all flow logs show, for a person, and what may keep others from showing.
    #[must_use]
    pub fn progress(&self, found: &BTreeMap<String, FlowLog>, all: usize) -> String {
        let text = format!("{} of {all} flow logs show", found.len());
        let mut hidden = self.existing.iter().filter(|id| !found.contains_key(*id));
        hidden.next().map_or(text.clone(), |id| {
            format!("{text}; AWS says that {id} has one to this destination already: see which traffic it is of")
        })
    }
}

/// Names each resource that AWS refused, and what was created for the others.
fn refusal(refused: &[UnsuccessfulItem], asked: usize, created: &[String]) -> StepError {
    let part = |item: &UnsuccessfulItem| {
        let error = item.error.as_ref();
        let code = error
            .and_then(|error| error.code())
            .unwrap_or_default()
            .to_owned();
        let reason = error
            .and_then(|error| error.message())
            .unwrap_or(&code)
            .to_owned();
        (
            code,
            format!("{}: {reason}", item.resource_id().unwrap_or("a resource")),
        )
    };
    let (codes, reasons): (Vec<_>, Vec<_>) = refused.iter().map(part).unzip();
    let unknown = codes.iter().all(|code| code.contains("NotFound"));
    let name = if unknown {
        ErrorName::NotFound
    } else {
        ErrorName::StepFailed
    };
    let stays = if created.is_empty() {
        "nothing was created".into()
    } else {
        format!("created and kept: {}", created.join(", "))
    };
    name.with_message(format!(
        "AWS refused {} of {asked} flow logs ({stays}); mend the reason and run the step again for the rest. {}",
        refused.len(),
        reasons.join("; ")
    ))
}

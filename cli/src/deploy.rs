//! Uploads a release and deploys it through CloudFormation: one path for the local cloud and for AWS.

mod events;
pub mod stack;
mod upload;

use std::collections::BTreeMap;

use crate::cloud::Cloud;
use crate::error::{Error, Result};
use crate::output::Progress;
use crate::package::{CUSTOMER_ROLE, Release, TEMPLATE};
use stack::{Outcome, Parameters, Template};

/// A deployed stack, as its own outputs and parameters describe it.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The stack's name.
    pub stack: String,
    /// What the template puts out.
    pub outputs: BTreeMap<String, String>,
    /// What it was deployed with.
    pub parameters: BTreeMap<String, String>,
    /// Whether anything was created or changed; true for one that was only looked up.
    pub changed: bool,
}

impl Deployment {
    /// Looks a deployed stack up.
    pub async fn find(cloud: &Cloud, stack: &str) -> Result<Self> {
        let found = stack::describe(cloud, stack).await?.filter(stack::is_usable);
        let found = found.ok_or_else(|| {
            Error::not_asked(format!("there is no deployed stack {stack} on {}", cloud.name()))
                .next(format!("`{} deploy` deploys it; --stack names another", cloud.command()))
        })?;
        Ok(Self {
            stack: stack.to_owned(),
            outputs: stack::outputs(&found),
            parameters: stack::parameters(&found),
            changed: true,
        })
    }

    /// One of the template's outputs.
    pub fn output(&self, name: &str) -> Result<&str> {
        self.outputs.get(name).map(String::as_str).ok_or_else(|| {
            Error::not_asked(format!("stack {} has no output {name}", self.stack))
                .next("deploy the current template with `stepward deploy`")
        })
    }

    /// Where the template that customers launch has been uploaded.
    #[must_use]
    pub fn customer_role_url(&self, cloud: &Cloud) -> Option<String> {
        let (bucket, prefix) = (self.parameters.get("CodeBucket")?, self.parameters.get("CodePrefix")?);
        Some(upload::url(cloud, bucket, &format!("{prefix}/{CUSTOMER_ROLE}")))
    }
}

/// Uploads what is not there yet and makes the stack what the release says.
pub async fn deploy(
    cloud: &Cloud,
    stack: &str,
    release: &Release,
    given: &BTreeMap<String, String>,
    progress: &Progress,
) -> Result<Deployment> {
    let bucket = upload::code_bucket(cloud).await?;
    upload::release(cloud, &bucket, release, progress).await?;
    let mut parameters: Parameters = given.clone();
    parameters.insert("CodeBucket".into(), bucket.clone());
    parameters.insert("CodePrefix".into(), release.prefix());
    parameters.insert("Architecture".into(), release.architecture.into());
    let template = Template::Url(upload::url(cloud, &bucket, &format!("{}/{TEMPLATE}", release.prefix())));
    let outcome = stack::apply(cloud, stack, &template, &parameters, progress).await?;
    Ok(Deployment { changed: outcome == Outcome::Changed, ..Deployment::find(cloud, stack).await? })
}

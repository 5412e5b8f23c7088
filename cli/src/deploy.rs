//! Uploads a release and deploys it through CloudFormation: one path for the local cloud and for
//! AWS.

mod events;
pub mod stack;
mod upload;

use std::collections::BTreeMap;
use std::time::Duration;

use aws_sdk_s3::presigning::PresigningConfig;

use crate::cloud::Cloud;
use crate::error::{Context, Error, Result};
use crate::output::Progress;
use crate::package::{CUSTOMER_ROLE, Release, TEMPLATE};
use stack::{Outcome, Parameters, Template};

/// The longest that a signed address lives.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html>
pub const LINK_DAYS: u64 = 7;

/// The template's parameter for where local paths begin on the local cloud:
/// [`crate::local::LocalCloud::files`].
pub const LOCAL_FOLDER: &str = "LocalFolder";

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
        let found = stack::describe(cloud, stack)
            .await?
            .filter(stack::is_usable);
        let found = found.ok_or_else(|| {
            Error::not_asked(format!(
                "there is no deployed stack {stack} on {}",
                cloud.name()
            ))
            .next(format!(
                "`{} deploy` deploys it; --stack names another",
                cloud.command()
            ))
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

    /// Whether the stack has the function of a step: one that was deployed with the parameter
    /// `Steps=jobs` lacks many.
    pub async fn has_function(&self, cloud: &Cloud, step: &str) -> Result<bool> {
        let function = format!("{}-{step}", self.stack);
        let client = cloud.cloudformation();
        let mut pages = client
            .list_stack_resources()
            .stack_name(&self.stack)
            .into_paginator()
            .items()
            .send();
        while let Some(resource) = pages.next().await {
            let resource = resource.map_err(|error| cloud.error(error).nothing_done())?;
            if resource.resource_type() == Some("AWS::Lambda::Function")
                && resource.physical_resource_id() == Some(&function)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Where a customer can fetch the template to launch. The code bucket is private, so the
    /// address is signed: it opens for [`LINK_DAYS`] days, or as long as the credentials that
    /// signed it live.
    pub async fn customer_role_url(&self, cloud: &Cloud) -> Result<String> {
        let missing = || {
            Error::not_asked(format!(
                "stack {} was not deployed by this program",
                self.stack
            ))
        };
        let bucket = self.parameters.get("CodeBucket").ok_or_else(missing)?;
        let prefix = self.parameters.get("CodePrefix").ok_or_else(missing)?;
        let lives = PresigningConfig::expires_in(Duration::from_hours(24 * LINK_DAYS))
            .doing("the launch link")?;
        let object = cloud
            .s3()
            .get_object()
            .bucket(bucket)
            .key(format!("{prefix}/{CUSTOMER_ROLE}"));
        let signed = object
            .presigned(lives)
            .await
            .map_err(|error| cloud.error(error))?;
        Ok(signed.uri().to_owned())
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
    let template = Template::Url(upload::url(
        cloud,
        &bucket,
        &format!("{}/{TEMPLATE}", release.prefix()),
    ));
    let outcome = stack::apply(cloud, stack, &template, &parameters, progress).await?;
    Ok(Deployment {
        changed: outcome == Outcome::Changed,
        ..Deployment::find(cloud, stack).await?
    })
}

//! Uploads a release and deploys it with CloudFormation, with the same code for the local cloud and
//! for AWS.

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
use crate::workspace::Workspace;
use stack::{Outcome, Parameters, Template};

/// How many days a signed link is valid: S3's maximum.
/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html>
pub const LINK_DAYS: u64 = 7;

/// The template's parameter for the folder of local paths on the local cloud, which is
/// [`crate::local::LocalCloud::files`].
pub const LOCAL_FOLDER: &str = "LocalFolder";

/// The maximum length of a Lambda function's name.
/// <https://docs.aws.amazon.com/lambda/latest/api/API_CreateFunction.html>
const MAX_FUNCTION_NAME: usize = 64;

/// Refuses a stack name that would make the name of a function, `<stack>-<function>`, too long for
/// Lambda. CloudFormation reports this only after it has created other resources.
///
/// # Errors
/// A usage error with the maximum length for this workspace.
pub fn validate_stack_name(workspace: &Workspace, stack: &str) -> Result<()> {
    let names = workspace.functions.iter().map(|function| &function.name);
    let Some(longest) = names.max_by_key(|name| name.len()) else {
        return Ok(());
    };
    let limit = MAX_FUNCTION_NAME.saturating_sub(longest.len() + 1);
    if stack.len() <= limit {
        return Ok(());
    }
    Err(Error::usage_error(format!(
        "the stack name \"{stack}\" has {} characters; the maximum is {limit}, because the function \
         \"{stack}-{longest}\" can have at most {MAX_FUNCTION_NAME}",
        stack.len()
    ))
    .with_advice("choose a shorter name with --stack"))
}

/// A deployed stack, described by its outputs and parameters.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The stack's name.
    pub stack: String,
    /// The outputs of the stack.
    pub outputs: BTreeMap<String, String>,
    /// The parameters of the stack.
    pub parameters: BTreeMap<String, String>,
    /// Whether the deployment has created or changed a resource; true for an existing stack.
    pub changed: bool,
}

impl Deployment {
    /// Finds a deployed stack.
    pub async fn find(cloud: &Cloud, stack: &str) -> Result<Self> {
        let described = stack::describe_stack(cloud, stack)
            .await?
            .filter(stack::is_usable);
        let described = described.ok_or_else(|| {
            Error::usage_error(format!(
                "stack \"{stack}\" is not deployed on {}",
                cloud.name()
            ))
            .with_advice("deploy it with `stepward deploy`, or choose another stack with --stack")
        })?;
        Ok(Self {
            stack: stack.to_owned(),
            outputs: stack::outputs(&described),
            parameters: stack::parameters(&described),
            changed: true,
        })
    }

    /// An output of the stack.
    pub fn output(&self, name: &str) -> Result<&str> {
        self.outputs.get(name).map(String::as_str).ok_or_else(|| {
            Error::usage_error(format!("stack \"{}\" has no output {name}", self.stack))
                .with_advice("deploy the current template with `stepward deploy`")
        })
    }

    /// Whether the stack has the function of a step. A stack with the parameter `Steps=jobs` has
    /// only the steps that jobs call.
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
            let resource = resource.map_err(|error| cloud.error(error).into_not_started())?;
            if resource.resource_type() == Some("AWS::Lambda::Function")
                && resource.physical_resource_id() == Some(&function)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A link to the template of the customer's role. The code bucket is private, so the link is
    /// signed: it is valid for [`LINK_DAYS`] days, or until the credentials that signed it expire.
    pub async fn customer_role_url(&self, cloud: &Cloud) -> Result<String> {
        let missing = || {
            Error::usage_error(format!(
                "stack \"{}\" was not deployed by this program",
                self.stack
            ))
            .with_advice("deploy it again with `stepward deploy`")
        };
        let bucket = self.parameters.get("CodeBucket").ok_or_else(missing)?;
        let prefix = self.parameters.get("CodePrefix").ok_or_else(missing)?;
        let validity = PresigningConfig::expires_in(Duration::from_hours(24 * LINK_DAYS))
            .context("cannot sign the launch link")?;
        let object = cloud
            .s3()
            .get_object()
            .bucket(bucket)
            .key(format!("{prefix}/{CUSTOMER_ROLE}"));
        let signed = object
            .presigned(validity)
            .await
            .map_err(|error| cloud.error(error))?;
        Ok(signed.uri().to_owned())
    }
}

/// Uploads the missing files of a release, and creates or updates the stack. Until the stack
/// changes, an error has the exit code for "nothing was changed": uploaded files have no effect.
pub async fn deploy(
    cloud: &Cloud,
    stack: &str,
    release: &Release,
    given: &BTreeMap<String, String>,
    progress: &Progress,
) -> Result<Deployment> {
    let bucket = upload::code_bucket(cloud)
        .await
        .map_err(Error::into_not_started)?;
    upload::upload_release(cloud, &bucket, release, progress)
        .await
        .map_err(Error::into_not_started)?;
    let mut parameters: Parameters = given.clone();
    parameters.insert("CodeBucket".into(), bucket.clone());
    parameters.insert("CodePrefix".into(), release.prefix());
    parameters.insert("Architecture".into(), release.architecture.into());
    let template = Template::Url(upload::object_url(
        cloud,
        &bucket,
        &format!("{}/{TEMPLATE}", release.prefix()),
    ));
    let outcome = stack::apply_template(cloud, stack, &template, &parameters, progress).await?;
    Ok(Deployment {
        changed: outcome == Outcome::Changed,
        ..Deployment::find(cloud, stack)
            .await
            .map_err(Error::into_started)?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_name_too_long_for_a_function_is_refused() {
        let workspace = Workspace::find().unwrap();
        // Lambda's 64 characters, less "-cloudwatch-create-log-stream".
        validate_stack_name(&workspace, &"s".repeat(35)).unwrap();
        let error = validate_stack_name(&workspace, &"s".repeat(36)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("has 36 characters; the maximum is 35"),
            "{error}"
        );
    }
}

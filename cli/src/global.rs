//! The options of every command, and what they open.

use clap::Args;
use clap::builder::FalseyValueParser;

use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::Result;
use crate::local::{DEFAULT_PORT, OPERATOR};
use crate::output::Format;

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Speak to the local cloud instead of AWS
    #[arg(long, global = true, env = "STEPWARD_LOCAL", value_parser = FalseyValueParser::new())]
    pub(crate) local: bool,
    /// The local cloud's port
    #[arg(long, global = true, env = "STEPWARD_LOCAL_PORT", default_value_t = DEFAULT_PORT)]
    pub(crate) port: u16,
    /// The CloudFormation stack
    #[arg(long, global = true, env = "STEPWARD_STACK", default_value = STACK)]
    pub(crate) stack: String,
    /// The Region that Stepward is deployed in; on AWS by default your profile's
    #[arg(long, global = true)]
    pub(crate) region: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// The stack where none is named.
const STACK: &str = "stepward";

impl Global {
    /// Stack and Region as they have to be repeated in a command that is proposed: pasted as it is,
    /// it must not reach another deployment.
    pub(crate) fn repeated(&self) -> String {
        let stack = (self.stack != STACK).then(|| format!(" --stack {}", self.stack));
        let region = self
            .region
            .as_ref()
            .map(|region| format!(" --region {region}"));
        stack.into_iter().chain(region).collect()
    }

    /// How results are shown.
    pub(crate) fn format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            Format::Table
        }
    }

    /// The local cloud only when it is asked for: an operator must never reach the wrong one by
    /// accident.
    pub(crate) async fn cloud(&self) -> Result<Cloud> {
        let region = self.region.as_deref();
        let cloud = if self.local {
            Cloud::local(self.port, OPERATOR, region)
        } else {
            Cloud::aws(region).await?
        };
        Ok(Cloud {
            options: self.repeated(),
            ..cloud
        })
    }

    /// The cloud and the stack that is deployed there.
    pub(crate) async fn deployed(&self) -> Result<(Cloud, Deployment)> {
        let cloud = self.cloud().await?;
        let deployment = Deployment::find(&cloud, &self.stack).await?;
        Ok((cloud, deployment))
    }
}

//! The options that every command has, and the cloud and stack that they select.

use clap::Args;
use clap::builder::FalseyValueParser;
use stepward::node::shell::quote_for_display;

use crate::cloud::{Cloud, local_options};
use crate::deploy::Deployment;
use crate::error::{Error, Result};
use crate::local::{DEFAULT_PORT, OPERATOR};
use crate::output::Format;

/// The heading of these options in the help of a command.
pub(crate) const HEADING: &str = "Global options";

/// The name of the stack if the operator gives none.
const DEFAULT_STACK: &str = "stepward";

/// The options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// Use the local cloud instead of AWS
    #[arg(
        long,
        global = true,
        env = "STEPWARD_LOCAL",
        value_parser = FalseyValueParser::new(),
        help_heading = HEADING
    )]
    pub(crate) local: bool,
    /// The port of the local cloud
    #[arg(
        long,
        global = true,
        env = "STEPWARD_LOCAL_PORT",
        default_value_t = DEFAULT_PORT,
        help_heading = HEADING
    )]
    pub(crate) port: u16,
    /// The CloudFormation stack that Stepward is deployed as
    #[arg(
        long,
        global = true,
        env = "STEPWARD_STACK",
        default_value = DEFAULT_STACK,
        help_heading = HEADING
    )]
    pub(crate) stack: String,
    /// The Region that Stepward is deployed in [default: the Region of your AWS profile]
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) region: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
}

impl Global {
    /// The cloud and stack as options of a proposed command, for example
    /// ` --local --stack staging`. An operator who pastes the command must not reach another
    /// deployment.
    pub(crate) fn options_to_repeat(&self) -> String {
        let stack = Some(self.stack.as_str()).filter(|stack| *stack != DEFAULT_STACK);
        let option = |name: &str, value: Option<&str>| {
            let value = value.map(|value| quote_for_display([value]));
            value.map(|value| format!(" {name} {value}"))
        };
        [
            Some(local_options(self.local, self.port)),
            option("--stack", stack),
            option("--region", self.region.as_deref()),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// How results are shown.
    pub(crate) fn output_format(&self) -> Format {
        if self.json {
            Format::Json
        } else {
            Format::Table
        }
    }

    /// The cloud that the command uses. It is the local cloud only with `--local`, so that an
    /// operator never reaches the wrong cloud by accident.
    pub(crate) async fn open_cloud(&self) -> Result<Cloud> {
        let region = self.region.as_deref();
        let cloud = if self.local {
            Cloud::local(self.port, OPERATOR, region)
        } else {
            Cloud::aws(region).await.map_err(Error::into_not_started)?
        };
        Ok(Cloud {
            options: self.options_to_repeat(),
            ..cloud
        })
    }

    /// The cloud, and the stack that is deployed there. An error has the exit code for "nothing was
    /// changed", because this only reads.
    pub(crate) async fn open_deployment(&self) -> Result<(Cloud, Deployment)> {
        let cloud = self.open_cloud().await?;
        let deployment = Deployment::find(&cloud, &self.stack).await;
        Ok((cloud, deployment.map_err(Error::into_not_started)?))
    }
}

//! The options that select nodes.

use clap::Args;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JobOptions, Options};
use stepward::node::filter::Filter;

use crate::commands::mapping::MappingOptions;
use crate::error::Result;

/// The nodes that a command uses.
#[derive(Args, Debug)]
pub(crate) struct NodeSelection {
    /// The customer whose nodes are selected
    #[arg(long)]
    pub(crate) customer: String,
    /// One of the customer's accounts; can be repeated [default: all accounts]
    #[arg(long = "account")]
    pub(crate) accounts: Vec<String>,
    /// Regions, separated by commas [default: all Regions that the accounts allow]
    #[arg(long = "regions", value_delimiter = ',', value_name = "REGION,…")]
    pub(crate) regions: Vec<String>,
    /// Services whose nodes are selected, separated by commas [default: all services]
    #[arg(
        long = "sources",
        value_delimiter = ',',
        value_name = "SOURCE,…",
        value_parser = ["ec2", "ecs"]
    )]
    pub(crate) sources: Vec<String>,
    /// A node filter in Rundeck's syntax [default: all nodes]
    #[arg(
        long,
        short = 'f',
        default_value = "",
        hide_default_value = true,
        value_parser = check_filter
    )]
    pub(crate) filter: String,
    #[command(flatten)]
    pub(crate) mapping: MappingOptions,
}

/// Checks a filter before a job starts with it.
fn check_filter(filter: &str) -> Result<String, String> {
    match filter.parse::<Filter>() {
        Ok(_) => Ok(filter.to_owned()),
        Err(error) => Err(error.message),
    }
}

impl NodeSelection {
    /// The input of a job that finds these nodes and runs nothing on them.
    pub(crate) fn job_input(self, started_by: String) -> Result<JobInput<JobOptions>> {
        let Self {
            customer,
            accounts,
            regions,
            sources,
            filter,
            mapping,
        } = self;
        let dispatch = Options {
            filter,
            ..Options::default()
        };
        Ok(JobInput {
            customer,
            accounts,
            options: JobOptions {
                sources,
                regions,
                ec2: mapping.parameters()?,
                dispatch,
                ..JobOptions::default()
            },
            started_by,
        })
    }
}

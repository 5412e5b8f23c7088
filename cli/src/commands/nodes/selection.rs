//! Which nodes a command is for.

use clap::Args;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JobOptions, Options};

/// Which nodes are meant.
#[derive(Args, Debug)]
pub(crate) struct NodeSelection {
    /// The customer whose nodes are meant
    #[arg(long)]
    pub(crate) customer: String,
    /// One of the customer's accounts; may be given several times; all when absent
    #[arg(long = "account")]
    pub(crate) accounts: Vec<String>,
    /// Regions, with commas between them; all that the accounts allow when absent
    #[arg(long = "regions", value_delimiter = ',', value_name = "REGION,…")]
    pub(crate) regions: Vec<String>,
    /// Where to look, with commas between them; everywhere when absent
    #[arg(long = "sources", value_delimiter = ',', value_name = "SOURCE,…", value_parser = ["ec2", "ecs"])]
    pub(crate) sources: Vec<String>,
    /// A node filter, as Rundeck writes it; all nodes when absent
    #[arg(long, short = 'f', default_value = "")]
    pub(crate) filter: String,
}

impl NodeSelection {
    /// The job's input that only finds these nodes.
    pub(crate) fn job_input(self, started_by: String) -> JobInput<JobOptions> {
        let Self {
            customer,
            accounts,
            regions,
            sources,
            filter,
        } = self;
        let dispatch = Options {
            filter,
            ..Options::default()
        };
        JobInput {
            customer,
            accounts,
            options: JobOptions {
                sources,
                regions,
                dispatch,
                ..JobOptions::default()
            },
            started_by,
        }
    }
}

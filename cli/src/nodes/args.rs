//! The arguments of `stepward nodes …`.

use clap::{Args, Subcommand};

/// `stepward nodes …`
#[derive(Debug, Subcommand)]
pub(crate) enum Nodes {
    /// The nodes that a filter selects, in all accounts and Regions
    #[command(after_help = "Examples:
  stepward nodes list --customer acme
  stepward nodes list --customer acme --filter 'tags: web+production osFamily: unix !name: web-9' --json")]
    List(WhichNodes),
    /// Run a command or a script on them, and watch it to its end
    #[command(after_help = "Examples:
  stepward nodes run --customer acme --filter 'tags: web' -- uptime
  stepward nodes run --customer acme --threadcount 5 --stop-on-failure -- 'systemctl restart nginx && curl -sf localhost'
  stepward nodes run --customer acme --filter 'name: db-.*' --script ./vacuum.sh -- --full

A command of one word is a line for the node's shell; one of several words is quoted so that each stays a word.
Ctrl-C stops the watching, not the command. Exit codes: 0 it succeeded on every node; 1 on none; 2 could not be asked; 3 on some.")]
    Run(RunOnNodes),
    /// Run what an execution ran once more, on those nodes only that it did not succeed on
    #[command(after_help = "Example:\n  stepward nodes run-again nodes-dispatch-20250301T060000-5f00ba")]
    RunAgain {
        /// The execution: its name or its ARN
        id: String,
    },
}

/// Which nodes are meant.
#[derive(Args, Debug)]
pub(crate) struct WhichNodes {
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

/// `stepward nodes run`
#[derive(Args, Debug)]
pub(crate) struct RunOnNodes {
    /// Which nodes are meant.
    #[command(flatten)]
    pub(crate) which: WhichNodes,
    /// How many nodes at once, over all accounts and Regions; 50 when absent
    #[arg(long)]
    pub(crate) threadcount: Option<usize>,
    /// Begin on no further node once one has failed
    #[arg(long)]
    pub(crate) stop_on_failure: bool,
    /// The attribute that says in which order nodes begin
    #[arg(long, value_name = "ATTRIBUTE")]
    pub(crate) rank_attribute: Option<String>,
    /// Begin with the highest rank
    #[arg(long, requires = "rank_attribute")]
    pub(crate) descending: bool,
    /// Run this script instead of a command; what follows `--` are its arguments
    #[arg(long, value_name = "FILE")]
    pub(crate) script: Option<std::path::PathBuf>,
    /// What runs the script; the node's shell when absent
    #[arg(long, requires = "script")]
    pub(crate) interpreter: Option<String>,
    /// The command, or the script's arguments
    #[arg(last = true, required_unless_present = "script")]
    pub(crate) command: Vec<String>,
}

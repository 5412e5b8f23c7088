//! What an operator can type.

use clap::builder::FalseyValueParser;
use clap::{Args, Parser, Subcommand};
use stepward::model::customer::Provider;

/// Runs runbook jobs across many AWS accounts, with no server
#[derive(Debug, Parser)]
#[command(
    name = "stepward",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  stepward demo                                      see all of it on this machine, without AWS
  stepward --local job run fleet/morning-check --customer acme
  stepward deploy                                    deploy to AWS, with your usual credentials

Exit codes: 0 done; 1 failed; 2 nothing was done, the command or its surroundings are wrong; 3 a job failed in some accounts."
)]
pub struct Cli {
    /// Which cloud, which stack, which form of output.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub struct Global {
    /// Speak to the local cloud instead of AWS
    #[arg(long, global = true, env = "STEPWARD_LOCAL", value_parser = FalseyValueParser::new())]
    pub local: bool,
    /// The local cloud's port
    #[arg(long, global = true, env = "STEPWARD_LOCAL_PORT", default_value_t = crate::local::DEFAULT_PORT)]
    pub port: u16,
    /// The CloudFormation stack
    #[arg(long, global = true, env = "STEPWARD_STACK", default_value = STACK)]
    pub stack: String,
    /// The Region that Stepward is deployed in; on AWS by default your profile's
    #[arg(long, global = true)]
    pub region: Option<String>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
}

/// The stack where none is named.
const STACK: &str = "stepward";

impl Global {
    /// Stack and Region as they have to be repeated in a command that is proposed: pasted as it is, it must not reach
    /// another deployment.
    #[must_use]
    pub fn repeated(&self) -> String {
        let stack = (self.stack != STACK).then(|| format!(" --stack {}", self.stack));
        let region = self.region.as_ref().map(|region| format!(" --region {region}"));
        stack.into_iter().chain(region).collect()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show all of it on this machine: build, deploy, onboard three customers, run a job
    #[command(after_help = "Examples:
  stepward demo              the first time it compiles, for some minutes; after that it takes seconds
  stepward local down        ends the local cloud that it leaves running")]
    Demo,
    /// Start, stop, look at or empty the local cloud
    #[command(subcommand)]
    Local(Local),
    /// Build, upload and deploy through CloudFormation
    Deploy(Deploy),
    /// List, run, watch and stop jobs
    #[command(subcommand)]
    Job(Job),
    /// List a customer's nodes, and run commands and scripts on them
    #[command(subcommand)]
    Nodes(Nodes),
    /// Add, list, show, suspend, resume and remove customers
    #[command(subcommand)]
    Customer(Customers),
    /// Add customers' accounts, set and prove their roles
    #[command(subcommand)]
    Account(Account),
    /// Store, list and remove the secrets that steps take from `keys/…` paths
    #[command(subcommand)]
    Keys(Keys),
    /// List the steps, or show the page of one
    #[command(after_help = "Examples:
  stepward steps
  stepward steps ec2-start
  stepward --json steps ec2-start")]
    Steps {
        /// The step whose page to show
        name: Option<String>,
    },
}

/// `stepward local …`
#[derive(Debug, Subcommand)]
pub enum Local {
    /// Start it; one that runs already is as good
    #[command(after_help = "Examples:
  stepward local up
  stepward local up --port 4600
  AWS_ENDPOINT_URL=http://127.0.0.1:4566 AWS_ACCESS_KEY_ID=111111111111 AWS_SECRET_ACCESS_KEY=test aws s3 ls")]
    Up,
    /// End it, with everything in it
    #[command(after_help = "Example:\n  stepward local down")]
    Down,
    /// Say whether it runs
    #[command(after_help = "Example:\n  stepward local status --json")]
    Status,
    /// Empty it: all accounts, all services
    #[command(after_help = "Example:\n  stepward local reset")]
    Reset,
}

/// `stepward deploy`
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward deploy
  stepward deploy --arm64 --parameter LogRetentionDays=30
  stepward deploy --parameter MorningCheckScheduleState=ENABLED --parameter MorningCheckCustomer=acme
  stepward deploy -p FileSystemAccessPointArn=arn:aws:elasticfilesystem:eu-west-1:111111111111:access-point/fsap-0123456789abcdef0 \\
    -p VpcSubnetIds=subnet-0a1b2c3d,subnet-4e5f6a7b -p VpcSecurityGroupIds=sg-0a1b2c3d
  stepward --local deploy

A parameter that is not given keeps the value that the stack has, but for Steps: all, unless --parameter Steps=jobs is given.")]
pub struct Deploy {
    /// A parameter of infra/template.yaml; may be given several times
    #[arg(long = "parameter", short = 'p', value_name = "KEY=VALUE")]
    pub parameters: Vec<String>,
    /// Build for Graviton processors; `x86_64` otherwise
    #[arg(long)]
    pub arm64: bool,
}

/// `stepward job …`
#[derive(Debug, Subcommand)]
pub enum Job {
    /// The jobs of the stack
    #[command(after_help = "Example:\n  stepward job list")]
    List,
    /// Start a job and watch it to its end
    #[command(after_help = "Examples:
  stepward job run fleet/morning-check --customer acme
  stepward job run fleet/morning-check --customer acme --account prod --option database=operations
  stepward job run fleet/morning-check --customer acme --option 'tags={\"team\":\"web\"}' --no-wait

Ctrl-C stops the watching, not the job. Exit codes: 0 succeeded; 1 failed, stopped or out of time; 2 could not be asked;
3 failed in some accounts.")]
    Run(RunJob),
    /// Watch an execution to its end
    #[command(after_help = "Examples:
  stepward job watch fleet-morning-check-20250301T060000-5f00ba
  stepward job watch arn:aws:states:eu-west-1:111111111111:execution:stepward-fleet-morning-check:nightly")]
    Watch {
        /// The execution: its name or its ARN
        id: String,
    },
    /// Stop an execution, and what its steps have started
    #[command(after_help = "Example:
  stepward job stop fleet-morning-check-20250301T060000-5f00ba --cause 'wrong customer'")]
    Stop {
        /// The execution: its name or its ARN
        id: String,
        /// Why; kept in the execution's history
        #[arg(long)]
        cause: Option<String>,
    },
}

/// `stepward job run`
#[derive(Args, Debug)]
pub struct RunJob {
    /// The job, as in fleet/morning-check
    pub job: String,
    /// The customer whose accounts it runs in
    #[arg(long)]
    pub customer: String,
    /// One of the customer's accounts; may be given several times; all when absent
    #[arg(long = "account")]
    pub accounts: Vec<String>,
    /// An option of the job, JSON or text; may be given several times
    #[arg(long = "option", short = 'o', value_name = "KEY=VALUE")]
    pub options: Vec<String>,
    /// Name of the execution; one that has run already is not started twice
    #[arg(long, value_name = "EXECUTION_NAME")]
    pub name: Option<String>,
    /// Print the execution's ID and leave
    #[arg(long)]
    pub no_wait: bool,
}

/// `stepward nodes …`
#[derive(Debug, Subcommand)]
pub enum Nodes {
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
pub struct WhichNodes {
    /// The customer whose nodes are meant
    #[arg(long)]
    pub customer: String,
    /// One of the customer's accounts; may be given several times; all when absent
    #[arg(long = "account")]
    pub accounts: Vec<String>,
    /// Regions, with commas between them; all that the accounts allow when absent
    #[arg(long = "regions", value_delimiter = ',', value_name = "REGION,…")]
    pub regions: Vec<String>,
    /// Where to look, with commas between them; everywhere when absent
    #[arg(long = "sources", value_delimiter = ',', value_name = "SOURCE,…", value_parser = ["ec2", "ecs"])]
    pub sources: Vec<String>,
    /// A node filter, as Rundeck writes it; all nodes when absent
    #[arg(long, short = 'f', default_value = "")]
    pub filter: String,
}

/// `stepward nodes run`
#[derive(Args, Debug)]
pub struct RunOnNodes {
    /// Which nodes are meant.
    #[command(flatten)]
    pub which: WhichNodes,
    /// How many nodes at once, over all accounts and Regions; 50 when absent
    #[arg(long)]
    pub threadcount: Option<u32>,
    /// Begin on no further node once one has failed
    #[arg(long)]
    pub stop_on_failure: bool,
    /// The attribute that says in which order nodes begin
    #[arg(long, value_name = "ATTRIBUTE")]
    pub rank_attribute: Option<String>,
    /// Begin with the highest rank
    #[arg(long, requires = "rank_attribute")]
    pub descending: bool,
    /// Run this script instead of a command; what follows `--` are its arguments
    #[arg(long, value_name = "FILE")]
    pub script: Option<std::path::PathBuf>,
    /// What runs the script; the node's shell when absent
    #[arg(long, requires = "script")]
    pub interpreter: Option<String>,
    /// The command, or the script's arguments
    #[arg(last = true, required_unless_present = "script")]
    pub command: Vec<String>,
}

/// `stepward customer …`: what is on record, and what the steps say of themselves.
#[derive(Debug, Subcommand)]
pub enum Customers {
    /// A customer's record
    #[command(flatten)]
    Record(Customer),
    /// Print a CloudFormation template of a role that may do exactly what some steps need
    #[command(after_help = "Examples:
  stepward customer role-template --steps ec2-start,rds-status > stepward-role.json
  stepward customer role-template --jobs fleet/morning-check > stepward-role.json

The customer launches it in the account, with the broker's ARN and the external ID that `stepward account show` prints, as in
  aws cloudformation deploy --stack-name Stepward --template-file stepward-role.json --capabilities CAPABILITY_NAMED_IAM \\
    --parameter-overrides BrokerRoleArn=… ExternalId=…")]
    RoleTemplate {
        /// Steps, with commas between them
        #[arg(long, value_delimiter = ',', required_unless_present = "jobs", value_name = "STEP,…")]
        steps: Vec<String>,
        /// Jobs whose steps are meant, with commas between them
        #[arg(long, value_delimiter = ',', value_name = "JOB,…")]
        jobs: Vec<String>,
    },
}

/// `stepward customer …`
#[derive(Debug, Subcommand)]
pub enum Customer {
    /// Add a customer
    #[command(after_help = "Examples:
  stepward customer add acme
  stepward customer add acme --default-region eu-west-1")]
    Add {
        /// Lower-case letters, digits and hyphens
        name: String,
        /// The Region for steps that name none
        #[arg(long)]
        default_region: Option<String>,
        /// Where credentials for the customer's accounts come from
        #[arg(long, value_parser = provider, value_name = "PROVIDER")]
        provider: Option<Provider>,
    },
    /// Show or set what holds for customers that have no defaults of their own
    #[command(after_help = "Examples:
  stepward customer defaults
  stepward customer defaults --default-region eu-west-1")]
    Defaults {
        /// The Region for steps that name none, where an account allows it
        #[arg(long)]
        default_region: Option<String>,
        /// Where credentials come from
        #[arg(long, value_parser = provider, value_name = "PROVIDER")]
        provider: Option<Provider>,
    },
    /// All customers
    #[command(after_help = "Example:\n  stepward customer list --json")]
    List,
    /// One customer, with its accounts
    #[command(after_help = "Example:\n  stepward customer show acme")]
    Show {
        /// The customer
        name: String,
    },
    /// Let no job run for a customer
    #[command(after_help = "Example:\n  stepward customer suspend acme")]
    Suspend {
        /// The customer
        name: String,
    },
    /// Let jobs run again
    #[command(after_help = "Example:\n  stepward customer resume acme")]
    Resume {
        /// The customer
        name: String,
    },
    /// Remove a customer and all its accounts; the roles in those accounts stay
    #[command(after_help = "Example:\n  stepward customer remove acme --yes")]
    Remove {
        /// The customer
        name: String,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// `stepward keys …`
#[derive(Debug, Subcommand)]
pub enum Keys {
    /// Store a secret; its value is asked for, or read from standard input
    #[command(after_help = "Examples:
  stepward keys set keys/acme/database-password
  stepward keys set keys/acme/deploy-token < token.txt

A step for acme takes \"keys/acme/database-password\" in place of any text parameter, and shows *** wherever it would be seen.
One line break at the end of the value is not part of it.")]
    Set {
        /// Where: keys/CUSTOMER/NAME
        path: String,
    },
    /// The keys there are, never their values
    #[command(after_help = "Examples:\n  stepward keys list\n  stepward keys list acme --json")]
    List {
        /// Only this customer's
        customer: Option<String>,
    },
    /// Remove a secret; Secrets Manager can bring it back for 30 days
    #[command(after_help = "Example:\n  stepward keys remove keys/acme/deploy-token --yes")]
    Remove {
        /// Which: keys/CUSTOMER/NAME
        path: String,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// A customer's account.
#[derive(Args, Clone, Debug)]
pub struct Place {
    /// The customer
    pub customer: String,
    /// The account's name within the customer, as in prod
    pub account: String,
}

/// `stepward account …`
#[derive(Debug, Subcommand)]
pub enum Account {
    /// Add an account; prints what the customer needs to let Stepward in
    #[command(after_help = "Examples:
  stepward account add acme prod --account-id 222222222222 --regions eu-west-1
  stepward account add acme prod --account-id 222222222222 --regions eu-west-1,us-east-1 --default-region us-east-1")]
    Add(AddAccount),
    /// Set the role that the customer has made, and prove it
    #[command(after_help = "Example:
  stepward account set-role acme prod arn:aws:iam::222222222222:role/stepward/Stepward")]
    SetRole {
        /// Which account
        #[command(flatten)]
        place: Place,
        /// The role's ARN, below the path /stepward/
        role_arn: String,
    },
    /// Prove again that the role lets Stepward in, and nobody else; ends a rotation
    #[command(after_help = "Example:\n  stepward account check acme prod")]
    Check {
        /// Which account
        #[command(flatten)]
        place: Place,
    },
    /// Make the next external ID; both are valid until `account check` has proven the new one
    #[command(after_help = "Example:
  stepward account rotate acme prod      the customer changes the role's trust policy as printed, then:
  stepward account check acme prod       the new external ID is now the only one")]
    Rotate {
        /// Which account
        #[command(flatten)]
        place: Place,
    },
    /// Show an account, with the external ID that the customer needs
    #[command(after_help = "Example:\n  stepward account show acme prod")]
    Show {
        /// Which account
        #[command(flatten)]
        place: Place,
    },
    /// Remove an account; the role in it stays
    #[command(after_help = "Example:\n  stepward account remove acme prod --yes")]
    Remove {
        /// Which account
        #[command(flatten)]
        place: Place,
        /// Really
        #[arg(long)]
        yes: bool,
    },
    /// Run jobs although the role lets strangers in; kept in the audit trail
    #[command(after_help = "Example:\n  stepward account override-trust acme prod --yes")]
    OverrideTrust {
        /// Which account
        #[command(flatten)]
        place: Place,
        /// Really
        #[arg(long)]
        yes: bool,
    },
}

/// `stepward account add`
#[derive(Args, Debug)]
pub struct AddAccount {
    /// Which account
    #[command(flatten)]
    pub place: Place,
    /// The 12-digit AWS account ID
    #[arg(long)]
    pub account_id: String,
    /// The Regions that steps may work in, with commas between them
    #[arg(long, value_delimiter = ',', required = true, value_name = "REGION,…")]
    pub regions: Vec<String>,
    /// The Region for steps that name none: one of --regions
    #[arg(long)]
    pub default_region: Option<String>,
    /// Where credentials come from: assume-role (the default), ec2, ecs, execution-role, access-key
    #[arg(long, value_parser = provider, value_name = "PROVIDER")]
    pub provider: Option<Provider>,
    /// For access-key: the access key's ID
    #[arg(long, requires = "secret_path")]
    pub access_key_id: Option<String>,
    /// For access-key: where the secret is stored, as in keys/acme/prod
    #[arg(long, requires = "access_key_id")]
    pub secret_path: Option<String>,
}

fn provider(text: &str) -> Result<Provider, String> {
    serde_json::from_value(text.into())
        .map_err(|_| "one of assume-role, ec2, ecs, execution-role, access-key is wanted".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_are_well_formed_and_each_has_an_example() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
                let leaf = sub.get_subcommands().next().is_none();
                assert!(!leaf || sub.get_after_help().is_some(), "{} has no example", sub.get_name());
                assert!(sub.get_about().is_some(), "{} has no help", sub.get_name());
                check(sub);
            }
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }

    #[test]
    fn the_cloud_can_be_named_before_and_behind_the_command() {
        for line in ["stepward --local job list", "stepward job list --local"] {
            assert!(Cli::try_parse_from(line.split(' ')).unwrap().global.local, "{line}");
        }
        let line =
            "stepward account add acme prod --account-id 222222222222 --regions eu-west-1,us-east-1 --provider ec2";
        let Command::Account(Account::Add(add)) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("not account add");
        };
        assert_eq!((add.regions.len(), add.provider), (2, Some(Provider::Ec2)));
        assert!(Cli::try_parse_from(line.replace("ec2", "magic").split(' ')).is_err());
    }

    #[test]
    fn a_proposed_command_names_the_same_stack_and_region() {
        let repeated = |line: &str| Cli::try_parse_from(line.split(' ')).unwrap().global.repeated();
        assert_eq!(
            repeated("stepward customer list --stack staging --region eu-west-1"),
            " --stack staging --region eu-west-1"
        );
        assert_eq!(repeated("stepward customer list --stack stepward"), "");
    }
}

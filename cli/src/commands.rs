//! What an operator can type. Each command's file has its arguments, what it does and what it
//! prints.

mod account;
mod confirmation;
mod customer;
mod demo;
mod deploy;
mod job;
mod keys;
mod local;
mod nodes;
mod records;
mod step;
mod steps;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::global::Global;

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
  stepward --local step run ec2-start --customer acme --account prod -p tags.team=web
  stepward deploy                                    deploy to AWS, with your usual credentials

Exit codes: 0 done; 1 failed; 2 nothing was done, the command or its surroundings are wrong; 3 a job failed in some accounts."
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    /// Start, stop, look at or empty the local cloud
    #[command(subcommand)]
    Local(local::Local),
    Deploy(deploy::Deploy),
    /// List, run, watch and stop jobs
    #[command(subcommand)]
    Job(job::Job),
    /// Run one step
    #[command(subcommand)]
    Step(step::Step),
    /// List a customer's nodes, and run commands and scripts on them
    #[command(subcommand)]
    Nodes(nodes::Nodes),
    /// Add, list, show, suspend, resume and remove customers
    #[command(subcommand)]
    Customer(customer::Customer),
    /// Add customers' accounts, set and prove their roles
    #[command(subcommand)]
    Account(account::Account),
    /// Store, list and remove the secrets that steps take from `keys/…` paths
    #[command(subcommand)]
    Keys(keys::Keys),
    Steps(steps::Steps),
}

impl Cli {
    /// Does what was typed; the exit code.
    pub async fn run(self) -> Result<u8> {
        let global = &self.global;
        match self.command {
            Command::Demo(demo) => demo.run(global).await,
            Command::Local(local) => local.run(global),
            Command::Deploy(deploy) => deploy.run(global).await,
            Command::Job(job) => job.run(global).await,
            Command::Step(step) => step.run(global).await,
            Command::Nodes(nodes) => nodes.run(global).await,
            Command::Customer(customer) => customer.run(global).await,
            Command::Account(account) => account.run(global).await,
            Command::Keys(keys) => keys.run(global).await,
            Command::Steps(steps) => steps.run(global),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_commands_are_well_formed_and_each_has_an_example() {
        fn check(command: &clap::Command) {
            for sub in command
                .get_subcommands()
                .filter(|sub| sub.get_name() != "help")
            {
                let leaf = sub.get_subcommands().next().is_none();
                assert!(
                    !leaf || sub.get_after_help().is_some(),
                    "{} has no example",
                    sub.get_name()
                );
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
            assert!(
                Cli::try_parse_from(line.split(' ')).unwrap().global.local,
                "{line}"
            );
        }
        let line = "stepward account add acme prod --account-id 222222222222 --regions eu-west-1,us-east-1 --provider ec2";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
        assert!(Cli::try_parse_from(line.replace("ec2", "magic").split(' ')).is_err());
    }

    #[test]
    fn a_proposed_command_names_the_same_stack_and_region() {
        let repeated = |line: &str| {
            Cli::try_parse_from(line.split(' '))
                .unwrap()
                .global
                .repeated()
        };
        assert_eq!(
            repeated("stepward customer list --stack staging --region eu-west-1"),
            " --stack staging --region eu-west-1"
        );
        assert_eq!(repeated("stepward customer list --stack stepward"), "");
    }

    /// Every way to a command, and the options that the commands on it have.
    fn lines(
        command: &clap::Command,
        way: &[String],
        options: &[String],
        found: &mut Vec<(Vec<String>, Vec<String>)>,
    ) {
        let own = command.get_arguments().flat_map(|argument| {
            let long = argument.get_long().map(|name| format!("--{name}"));
            long.into_iter()
                .chain(argument.get_short().map(|name| format!("-{name}")))
        });
        let options = [options, &own.collect::<Vec<_>>()].concat();
        found.push((way.to_vec(), options.clone()));
        for sub in command.get_subcommands() {
            lines(
                sub,
                &[way, &[sub.get_name().to_owned()]].concat(),
                &options,
                found,
            );
        }
    }

    /// A line that begins as a command does; then options of it and anything at all.
    fn line() -> impl Strategy<Value = Vec<OsString>> {
        let mut found = Vec::new();
        lines(&Cli::command(), &[], &[], &mut found);
        prop::sample::select(found).prop_flat_map(|(way, options)| {
            let option = prop::sample::select(options);
            let word = prop_oneof![
                2 => option.clone().prop_map(OsString::from),
                1 => (option, any::<String>()).prop_map(|(option, value)| format!("{option}={value}").into()),
                1 => "[a-z0-9/=,:.-]{0,20}".prop_map(OsString::from),
                2 => "(?s:.{0,20})".prop_map(OsString::from),
                1 => any::<Vec<u8>>().prop_map(OsString::from_vec),
            ];
            let way: Vec<_> = way.into_iter().map(OsString::from).collect();
            prop::collection::vec(word, 0..8).prop_map(move |words| [way.clone(), words].concat())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_line_is_read_or_refused(line in line()) {
            let words = std::iter::once("stepward".into()).chain(line);
            if let Err(error) = Cli::try_parse_from(words) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}

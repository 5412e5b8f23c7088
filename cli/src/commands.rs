//! The commands that an operator types. Each command's file contains its arguments, what it does,
//! and what it prints.

mod account;
mod confirmation;
mod customer;
mod demo;
mod deploy;
mod help;
mod job;
mod keys;
mod local;
mod mapping;
mod nodes;
mod records;
mod step;
mod steps;

use clap::{Parser, Subcommand};

use crate::error::Result;
use crate::global::Global;
use help::with_examples;

/// Run runbook jobs in many AWS accounts, without a server
#[derive(Debug, Parser)]
#[command(
    name = "stepward",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 success; 1 failure; 2 nothing was started or changed: wrong usage, \
                  a missing prerequisite, or a refused request; 3 a job failed in some accounts or \
                  on some nodes.",
    help_template = with_examples(
        "stepward demo
stepward --local job run fleet/morning-check --customer acme
stepward --local step run ec2-start --customer acme --account prod \\
  -p tags.team=web
stepward deploy"
    )
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
    /// Start, stop, check and empty the local cloud
    #[command(subcommand)]
    Local(local::Local),
    Deploy(deploy::Deploy),
    /// List, run, watch and stop jobs
    #[command(subcommand)]
    Job(job::Job),
    /// Run one step in a customer's account
    #[command(subcommand)]
    Step(step::Step),
    Steps(steps::Steps),
    /// List a customer's nodes, and run commands and scripts on them
    #[command(subcommand)]
    Nodes(nodes::Nodes),
    /// Add, list, show, suspend, resume and remove customers
    #[command(subcommand)]
    Customer(customer::Customer),
    /// Add, show and remove customers' accounts; set and check their roles
    #[command(subcommand)]
    Account(account::Account),
    /// Store, list and remove the secrets that steps read from `keys/…` paths
    #[command(subcommand)]
    Keys(keys::Keys),
}

impl Cli {
    /// Runs the command and returns the exit code.
    pub async fn run(self) -> Result<u8> {
        let options = self.global.options_to_repeat();
        Box::pin(self.run_command())
            .await
            .map_err(|error| error.with_options(&options))
    }

    async fn run_command(self) -> Result<u8> {
        let global = &self.global;
        match self.command {
            Command::Demo(demo) => demo.run(global).await,
            Command::Local(local) => local.run(global),
            Command::Deploy(deploy) => deploy.run(global).await,
            Command::Job(job) => job.run(global).await,
            Command::Step(step) => step.run(global).await,
            Command::Steps(steps) => steps.run(global),
            Command::Nodes(nodes) => nodes.run(global).await,
            Command::Customer(customer) => customer.run(global).await,
            Command::Account(account) => account.run(global).await,
            Command::Keys(keys) => keys.run(global).await,
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

    /// The help of every command at a width, by the command's words.
    fn help_texts(width: usize) -> Vec<(String, String)> {
        fn collect(command: &mut clap::Command, words: &str, texts: &mut Vec<(String, String)>) {
            texts.push((words.to_owned(), command.render_long_help().to_string()));
            for subcommand in command.get_subcommands_mut() {
                if subcommand.get_name() != "help" {
                    let words = format!("{words} {}", subcommand.get_name());
                    collect(subcommand, &words, texts);
                }
            }
        }
        let mut root = Cli::command().term_width(width);
        root.build();
        let mut texts = Vec::new();
        collect(&mut root, "stepward", &mut texts);
        texts
    }

    /// The examples in a command's help, with their continuation lines.
    fn examples(help: &str) -> Vec<&str> {
        let examples = help.split_once("\nExamples:\n").map(|(_, text)| text);
        let lines = examples.into_iter().flat_map(str::lines);
        lines.filter_map(|line| line.strip_prefix("  ")).collect()
    }

    #[test]
    fn every_command_is_well_formed_and_described() {
        fn check(command: &clap::Command) {
            for subcommand in command.get_subcommands() {
                let name = subcommand.get_name();
                assert!(
                    subcommand.get_about().is_some(),
                    "{name} has no description"
                );
                check(subcommand);
            }
        }
        Cli::command().debug_assert();
        check(&Cli::command());
    }

    #[test]
    fn every_command_has_examples_that_can_be_parsed() {
        for (words, help) in help_texts(80) {
            let is_group = help.contains("\nCommands:\n") && words != "stepward";
            let examples = examples(&help);
            assert!(
                is_group || !examples.is_empty(),
                "{words} has no example:\n{help}"
            );
            let commands = examples.join("\n").replace("\\\n", " ");
            for line in commands
                .lines()
                .filter(|line| line.starts_with("stepward "))
            {
                // An operator pastes an example to a shell. Redirections are not arguments.
                let line = line.split(['<', '>']).next().unwrap();
                let script = format!("set -- {line}\nprintf '%s\\0' \"$@\"");
                let output = std::process::Command::new("sh")
                    .args(["-c", &script])
                    .output()
                    .unwrap();
                let text = String::from_utf8(output.stdout).unwrap();
                let parsed = Cli::try_parse_from(text.split_terminator('\0'));
                assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn examples_fit_80_columns_and_are_never_wrapped() {
        let wide: Vec<_> = help_texts(80)
            .iter()
            .map(|(words, help)| (words.clone(), examples(help).join("\n")))
            .collect();
        let narrow: Vec<_> = help_texts(60)
            .iter()
            .map(|(words, help)| (words.clone(), examples(help).join("\n")))
            .collect();
        assert_eq!(wide, narrow);
        for (words, examples) in wide {
            for line in examples.lines() {
                assert!(line.chars().count() <= 78, "{words}: {line}");
            }
        }
    }

    #[test]
    fn global_options_are_listed_apart() {
        for (words, help) in help_texts(80) {
            let (own, global) = help.split_once("\nGlobal options:\n").expect(&words);
            for option in ["--local", "--port", "--stack ", "--json"] {
                let is_listed =
                    |text: &str| text.lines().any(|line| line.trim().starts_with(option));
                assert!(
                    is_listed(global) && !is_listed(own),
                    "{words}: {option}\n{help}"
                );
            }
        }
    }

    #[test]
    fn the_help_says_how_step_and_steps_differ() {
        let help = Cli::command().render_help().to_string();
        assert!(
            help.contains("Run one step in a customer's account"),
            "{help}"
        );
        assert!(
            help.contains("List all steps, or show the page of one step"),
            "{help}"
        );
    }

    #[test]
    fn global_options_can_be_before_and_after_the_command() {
        for line in ["stepward --local job list", "stepward job list --local"] {
            assert!(
                Cli::try_parse_from(line.split(' ')).unwrap().global.local,
                "{line}"
            );
        }
        let line = "stepward account add acme prod --account-id 222222222222 \
                    --regions eu-west-1,us-east-1 --provider ec2";
        assert!(Cli::try_parse_from(line.split(' ')).is_ok());
        assert!(Cli::try_parse_from(line.replace("ec2", "magic").split(' ')).is_err());
    }

    #[test]
    fn proposed_commands_use_the_same_cloud_and_stack() {
        for (line, options) in [
            (
                "stepward customer list --stack staging --region eu-west-1",
                " --stack staging --region eu-west-1",
            ),
            ("stepward customer list --stack stepward", ""),
            ("stepward customer list --local", " --local"),
            (
                "stepward customer list --local --port 4600 --stack staging",
                " --local --port 4600 --stack staging",
            ),
            ("stepward local up --port 4600", " --port 4600"),
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.options_to_repeat(), options, "{line}");
        }
    }

    #[tokio::test]
    async fn advice_repeats_options_and_never_the_failed_command() {
        let options = "--local --port 1 --stack staging --region us-east-1";
        for words in [
            "customer list",
            "customer show acme",
            "account check acme prod",
            "account set-role acme prod arn:aws:iam::222222222222:role/stepward/Stepward",
            "account remove acme prod --yes",
            "job list",
            "job run fleet/morning-check --customer acme",
            "job watch nightly",
            "job stop nightly",
            "keys list",
            "keys remove keys/acme/token --yes",
            "nodes list --customer acme",
            "nodes run --customer acme -- uptime",
            "nodes run-again nightly",
            "steps ec2-strat",
            "step run ec2-strat --customer acme --account prod",
            "local reset",
            "deploy",
        ] {
            let line = format!("stepward {options} {words}");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Err(error) = Box::pin(cli.run()).await else {
                panic!("{words} succeeded without a cloud");
            };
            let text = error.to_string();
            let (_, advice) = text
                .split_once("\nNext: ")
                .unwrap_or_else(|| panic!("{text}"));
            assert!(!advice.contains(&format!("{words}`")), "{words}: {advice}");
            for command in advice.split("`stepward ").skip(1) {
                assert!(command.starts_with(options), "{words}: {advice}");
            }
        }
    }

    /// Lines of this crate's sources without comments and test modules, each with its file.
    fn code_lines() -> Vec<(String, String)> {
        fn collect(dir: &std::path::Path, lines: &mut Vec<(String, String)>) {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    collect(&path, lines);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]").next().unwrap();
                let name = path.display().to_string();
                for line in code.lines().filter(|line| !line.trim().starts_with("//")) {
                    lines.push((name.clone(), line.to_owned()));
                }
            }
        }
        let mut lines = Vec::new();
        let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        collect(std::path::Path::new(sources), &mut lines);
        lines
    }

    #[test]
    fn every_proposed_command_starts_with_stepward() {
        let root = Cli::command();
        let mut commands = vec!["deploy`".to_owned(), "demo`".to_owned()];
        for group in root.get_subcommands() {
            for subcommand in group.get_subcommands() {
                commands.push(format!("{} {}", group.get_name(), subcommand.get_name()));
            }
        }
        for (file, line) in code_lines() {
            for command in &commands {
                assert!(!line.contains(&format!("`{command}")), "{file}: {line}");
            }
        }
    }

    /// The words of every command, and the options that each accepts.
    fn collect_commands(
        command: &clap::Command,
        words: &[String],
        options: &[String],
        commands: &mut Vec<(Vec<String>, Vec<String>)>,
    ) {
        let own = command.get_arguments().flat_map(|argument| {
            let long = argument.get_long().map(|name| format!("--{name}"));
            let short = argument.get_short().map(|name| format!("-{name}"));
            long.into_iter().chain(short)
        });
        let options = [options, &own.collect::<Vec<_>>()].concat();
        commands.push((words.to_vec(), options.clone()));
        for subcommand in command.get_subcommands() {
            let words = [words, &[subcommand.get_name().to_owned()]].concat();
            collect_commands(subcommand, &words, &options, commands);
        }
    }

    /// A line that starts with the words of a command, followed by its options and any text.
    fn any_line() -> impl Strategy<Value = Vec<OsString>> {
        let mut commands = Vec::new();
        collect_commands(&Cli::command(), &[], &[], &mut commands);
        prop::sample::select(commands).prop_flat_map(|(words, options)| {
            let option = prop::sample::select(options);
            let with_value = (option.clone(), any::<String>())
                .prop_map(|(option, value)| format!("{option}={value}").into());
            let argument = prop_oneof![
                2 => option.prop_map(OsString::from),
                1 => with_value,
                1 => "[a-z0-9/=,:.-]{0,20}".prop_map(OsString::from),
                2 => "(?s:.{0,20})".prop_map(OsString::from),
                1 => any::<Vec<u8>>().prop_map(OsString::from_vec),
            ];
            let words: Vec<_> = words.into_iter().map(OsString::from).collect();
            prop::collection::vec(argument, 0..8)
                .prop_map(move |arguments| [words.clone(), arguments].concat())
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_line_is_read_or_refused(line in any_line()) {
            let words = std::iter::once("stepward".into()).chain(line);
            if let Err(error) = Cli::try_parse_from(words) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}

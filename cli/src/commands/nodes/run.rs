//! `stepward nodes run`

use std::path::PathBuf;

use clap::Args;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JobOptions, NodeStep, NodeWork, RankOrder};
use stepward::node::shell;

use super::outcome::dispatch_and_show;
use super::selection::NodeSelection;
use crate::cloud::Cloud;
use crate::commands::help::with_examples;
use crate::deploy::Deployment;
use crate::error::{Context, Error, Result};
use crate::global::Global;
use crate::output::Format;

/// The ID of the only step of the dispatch.
const STEP_ID: &str = "run";

/// Run a command or a script on nodes, and watch it until it ends
#[derive(Args, Debug)]
#[command(
    after_help = "The node's shell runs the command. If the command is one argument, the shell \
                  reads it as a command line; if it is several arguments, each of them is quoted. \
                  Ctrl-C stops watching; the command continues. The result shows the last 1,000 \
                  characters of each node's output, and the command that prints all of it.

Exit codes: 0 all nodes succeeded; 1 no node succeeded; 2 not started; 3 some nodes succeeded.",
    help_template = with_examples(
        "stepward nodes run --customer acme --filter 'tags: web' -- uptime
stepward nodes run --customer acme --threadcount 5 --stop-on-failure \\
  -- 'systemctl restart nginx && curl -sf localhost'
stepward nodes run --customer acme --filter 'name: db-.*' \\
  --script ./vacuum.sh -- --full"
    )
)]
pub(crate) struct RunOnNodes {
    #[command(flatten)]
    selection: NodeSelection,
    /// The maximum number of nodes that run the command at once, in all accounts and Regions
    /// together [default: 50]
    #[arg(long)]
    threadcount: Option<usize>,
    /// After the first failure, do not start the command on more nodes
    #[arg(long)]
    stop_on_failure: bool,
    /// The node attribute that sets the order in which the command starts on the nodes
    #[arg(long, value_name = "ATTRIBUTE")]
    rank_attribute: Option<String>,
    /// Start with the highest rank
    #[arg(long, requires = "rank_attribute")]
    descending: bool,
    /// Run this script instead of a command; the arguments after `--` are the script's
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// The program that runs the script [default: the node's shell]
    #[arg(long, requires = "script")]
    interpreter: Option<String>,
    /// The command, or the script's arguments
    #[arg(last = true, required_unless_present = "script")]
    command: Vec<String>,
}

impl RunOnNodes {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.open_deployment().await?;
        self.run_in(&cloud, &deployment, global.output_format())
            .await
    }

    /// Runs the command or script with a deployment, and returns the exit code.
    pub(crate) async fn run_in(
        self,
        cloud: &Cloud,
        deployment: &Deployment,
        format: Format,
    ) -> Result<u8> {
        let input = self
            .job_input(cloud.caller.clone())
            .map_err(Error::into_not_started)?;
        dispatch_and_show(cloud, deployment, &input, format).await
    }

    fn job_input(self, started_by: String) -> Result<JobInput<JobOptions>> {
        let work = match &self.script {
            None => NodeWork::Command(shell_line(&self.command)),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .context(format!("--script {}", path.display()))?;
                NodeWork::Script {
                    text,
                    args: self.command,
                    interpreter: self.interpreter,
                }
            }
        };
        let mut input = self.selection.job_input(started_by)?;
        let options = &mut input.options.dispatch;
        options.steps = vec![NodeStep {
            id: STEP_ID.to_owned(),
            run: work,
        }];
        options.keepgoing = !self.stop_on_failure;
        options.rank_attribute = self.rank_attribute;
        options.rank_order = if self.descending {
            RankOrder::Descending
        } else {
            RankOrder::Ascending
        };
        if let Some(threadcount) = self.threadcount {
            options.threadcount = threadcount;
        }
        Ok(input)
    }
}

/// The line that the node's shell reads: a single argument unchanged, or each of several arguments
/// as one word.
fn shell_line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => shell::quote_for_display(words.iter().map(String::as_str)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn one_argument_is_a_shell_line_and_several_are_quoted() {
        let line = |words: &[&str]| {
            super::shell_line(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(line(&["uptime | wc -l"]), "uptime | wc -l");
        assert_eq!(
            line(&["echo", "it's", "a b", "", "--x=1"]),
            r"echo 'it'\''s' 'a b' '' --x=1"
        );
    }

    proptest! {
        #[test]
        fn any_words_reach_the_program_as_they_were_typed(
            words in prop::collection::vec("[^\\x00]{0,20}", 2..5),
        ) {
            let line = super::shell_line(&words);
            let script = format!("for word in {line}; do printf '%s\\0' \"$word\"; done");
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            let read = String::from_utf8(output.stdout).unwrap();
            prop_assert_eq!(read.split_terminator('\0').collect::<Vec<_>>(), words);
        }
    }
}

//! `stepward nodes run`

use std::path::PathBuf;

use clap::Args;
use stepward::model::job::JobInput;
use stepward::node::dispatch::{JobOptions, NodeStep, NodeWork, RankOrder};
use stepward::node::shell;

use super::outcome::dispatch_and_show;
use super::selection::NodeSelection;
use crate::cloud::Cloud;
use crate::deploy::Deployment;
use crate::error::{Context, Result};
use crate::global::Global;
use crate::output::Format;

/// The step's name in the job where there is only one.
const STEP: &str = "run";

/// Run a command or a script on them, and watch it to its end
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward nodes run --customer acme --filter 'tags: web' -- uptime
  stepward nodes run --customer acme --threadcount 5 --stop-on-failure -- 'systemctl restart nginx && curl -sf localhost'
  stepward nodes run --customer acme --filter 'name: db-.*' --script ./vacuum.sh -- --full

A command of one word is a line for the node's shell; one of several words is quoted so that each stays a word.
Ctrl-C stops the watching, not the command. Exit codes: 0 it succeeded on every node; 1 on none; 2 could not be asked; 3 on some.")]
pub(crate) struct RunOnNodes {
    #[command(flatten)]
    selection: NodeSelection,
    /// How many nodes at once, over all accounts and Regions; 50 when absent
    #[arg(long)]
    threadcount: Option<usize>,
    /// Begin on no further node once one has failed
    #[arg(long)]
    stop_on_failure: bool,
    /// The attribute that says in which order nodes begin
    #[arg(long, value_name = "ATTRIBUTE")]
    rank_attribute: Option<String>,
    /// Begin with the highest rank
    #[arg(long, requires = "rank_attribute")]
    descending: bool,
    /// Run this script instead of a command; what follows `--` are its arguments
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// What runs the script; the node's shell when absent
    #[arg(long, requires = "script")]
    interpreter: Option<String>,
    /// The command, or the script's arguments
    #[arg(last = true, required_unless_present = "script")]
    command: Vec<String>,
}

impl RunOnNodes {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let (cloud, deployment) = global.deployed().await?;
        self.run_at(&cloud, &deployment, global.format()).await
    }

    /// Runs it on the nodes of a deployment.
    pub(crate) async fn run_at(
        self,
        cloud: &Cloud,
        deployment: &Deployment,
        format: Format,
    ) -> Result<u8> {
        let input = self.job_input(cloud.caller.clone())?;
        dispatch_and_show(cloud, deployment, &input, format).await
    }

    fn job_input(self, started_by: String) -> Result<JobInput<JobOptions>> {
        let work = match &self.script {
            None => NodeWork::Command(line(&self.command)),
            Some(path) => {
                let text = std::fs::read_to_string(path).doing(path.display())?;
                NodeWork::Script {
                    text,
                    args: self.command,
                    interpreter: self.interpreter,
                }
            }
        };
        let mut input = self.selection.job_input(started_by);
        let options = &mut input.options.dispatch;
        options.steps = vec![NodeStep {
            id: STEP.to_owned(),
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

/// One word is a line for the shell; of several each stays a word.
fn line(words: &[String]) -> String {
    match words {
        [line] => line.clone(),
        words => shell::quote_for_display(words.iter().map(String::as_str)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    #[test]
    fn one_word_is_a_shell_line_and_several_stay_words() {
        let line = |words: &[&str]| {
            super::line(&words.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!(line(&["uptime | wc -l"]), "uptime | wc -l");
        assert_eq!(
            line(&["echo", "it's", "a b", "", "--x=1"]),
            r"echo 'it'\''s' 'a b' '' --x=1"
        );
    }

    proptest! {
        #[test]
        fn any_words_make_a_line(words in prop::collection::vec("(?s:.{0,20})", 0..5)) {
            prop_assert!(words.len() != 1 || super::line(&words) == words[0]);
        }
    }
}

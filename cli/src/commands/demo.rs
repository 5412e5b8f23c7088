//! `stepward demo`: everything once, on this machine, with the same code that deploys and onboards
//! on AWS.

mod account;

use std::collections::BTreeMap;

use clap::{Args, Parser};
use stepward::model::customer::Trust;
use stepward::model::job::JobInput;

use crate::cloud::Cloud;
use crate::commands::nodes::run::RunOnNodes;
use crate::deploy::{self, Deployment};
use crate::error::{Context, Error, Result};
use crate::global::Global;
use crate::jobs::{self, Finished, Outcome, View};
use crate::local::{DEFAULT_PORT, LocalCloud, OPERATOR, venv};
use crate::output::{Format, Progress, Stage, print};
use crate::package::{self, Build, Release};
use crate::workspace::Workspace;
use account::{ACCOUNT, ACCOUNTS, DemoAccount};

const JOB: &str = "fleet/morning-check";
/// What is run on the nodes of one customer.
const COMMAND: &str = "uname -sm";

/// Show all of it on this machine: build, deploy, onboard three customers, run a job
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward demo              the first time it compiles, for some minutes; after that it takes seconds
  stepward local down        ends the local cloud that it leaves running")]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        let progress = Progress::new();
        let done = demo(global.port, &global.stack, &progress).await;
        progress.end();
        done.map(|()| 0)
    }
}

/// A command of `nodes run`, read as an operator's is: what is printed is what runs.
#[derive(Debug, Parser)]
struct RunLine {
    #[command(flatten)]
    run: RunOnNodes,
}

async fn demo(port: u16, stack: &str, progress: &Progress) -> Result<()> {
    // Only what the jobs call: the other steps would take their time to compile, and run nowhere
    // here.
    let workspace = package::for_jobs(&Workspace::find()?)?;
    let release = build(&workspace, progress).await?;

    let stage = Stage::begin(progress, "Start the local cloud");
    let local = LocalCloud::up(&workspace, port)?;
    stage.end(format!("{}, IAM is enforced", local.endpoint()));

    let cloud = Cloud::local(port, OPERATOR, None);
    let stage = Stage::begin(progress, "Deploy infra/template.yaml");
    let parameters = BTreeMap::from([("Steps".into(), "jobs".into())]);
    let deployment = deploy::deploy(&cloud, stack, &release, &parameters, progress).await?;
    let what = if deployment.changed {
        "deployed to"
    } else {
        "is already in"
    };
    stage.end(format!("stack {stack} {what} account {OPERATOR}"));

    let stage = Stage::begin(progress, "Make three customers' accounts");
    for account in &ACCOUNTS {
        progress.now(format!("making the account of {}", account.customer));
        account::make(
            &cloud.other_account(account.account_id),
            &workspace,
            account,
        )
        .await?;
    }
    stage.end("stopped instances, backup reports, an Athena table in each");

    for account in &ACCOUNTS {
        let stage = Stage::begin(progress, format!("Onboard {}", account.customer));
        let trust = account::onboard(&cloud, &deployment, &workspace, account).await?;
        stage.end(match trust {
            Trust::Proven => {
                "its role lets Stepward in, and nobody without the external ID: proven"
            }
            Trust::Open => "its role lets in strangers too: open, so steps will refuse it",
            Trust::Overridden => "its role lets in strangers too, which an operator has overridden",
            Trust::Unproven => "its role could not be proven",
        });
    }
    progress.end();

    for account in ACCOUNTS
        .iter()
        .filter(|account| account.asks_for_external_id)
    {
        let finished = run(&cloud, &deployment, account).await?;
        print(&format!("\n{}\n", jobs::summary(&finished)))?;
        if finished.outcome != Outcome::Succeeded {
            return Err(
                Error::new(format!("{JOB} did not succeed for {}", account.customer)).next(
                    format!(
                        "see {} and the summary above",
                        local.dir.join("ministack.log").display()
                    ),
                ),
            );
        }
    }
    on_the_nodes(&cloud, &deployment).await?;
    for account in ACCOUNTS
        .iter()
        .filter(|account| !account.asks_for_external_id)
    {
        let finished = run(&cloud, &deployment, account).await?;
        print(&format!("\n{}\n", jobs::summary(&finished)))?;
        if finished.error.as_deref() != Some("TrustBroken") {
            return Err(Error::new(format!(
                "{JOB} was not refused for {}, whose role is open",
                account.customer
            ))
            .next("do not use this build: the trust proof does not hold"));
        }
    }
    print(&further(local.port))
}

/// Compiles and makes the Python environment at the same time: one waits for the processor, the
/// other for the network.
async fn build(workspace: &Workspace, progress: &Progress) -> Result<Release> {
    let (functions, python) = (
        Stage::begin(progress, "Build the functions"),
        Stage::begin(progress, "Make the Python environment"),
    );
    let for_python = workspace.clone();
    let python = tokio::task::spawn_blocking(move || {
        venv::ensure(&for_python, venv::LOCAL_CLOUD)
            .map(|_| python.end("MiniStack, pinned by version and hash"))
    });
    let (for_functions, showing) = (workspace.clone(), progress.clone());
    let release = tokio::task::spawn_blocking(move || {
        let release = package::release(&for_functions, Build::Local, &showing)?;
        functions.end(format!(
            "{} of them, release {}",
            for_functions.functions.len(),
            release.id
        ));
        Ok::<_, Error>(release)
    });
    let (python, release) = tokio::join!(python, release);
    python.doing("making the Python environment")??;
    release.doing("building the functions")?
}

async fn run(cloud: &Cloud, deployment: &Deployment, account: &DemoAccount) -> Result<Finished> {
    print(&format!(
        "\n{} job run {JOB} --customer {}",
        cloud.command(),
        account.customer
    ))?;
    let input: JobInput = JobInput {
        customer: account.customer.into(),
        accounts: vec![ACCOUNT.into()],
        started_by: cloud.caller.clone(),
        ..JobInput::default()
    };
    let execution = jobs::start(cloud, deployment, JOB, &input, None).await?;
    jobs::watch(cloud, deployment, &execution, &View::new()).await
}

/// Runs a command on the instances that the morning check has started.
async fn on_the_nodes(cloud: &Cloud, deployment: &Deployment) -> Result<()> {
    let line = format!("nodes run --customer {} -- {COMMAND}", ACCOUNTS[0].customer);
    print(&format!("\n{} {line}", cloud.command()))?;
    // `nodes run` takes the place of the program's name.
    let RunLine { run } = RunLine::try_parse_from(line.split(' ').skip(1)).doing(&line)?;
    match run.run_at(cloud, deployment, Format::Table).await? {
        0 => Ok(()),
        code => Err(Error::new(format!(
            "the command did not succeed on every node: exit code {code}"
        ))
        .next("see what is said of each node above")),
    }
}

fn further(port: u16) -> String {
    let port = if port == DEFAULT_PORT {
        String::new()
    } else {
        format!("--port {port} ")
    };
    let local = format!("{port}--local");
    format!(
        "acme and globex were checked, initech was refused as TrustBroken: its role would let anybody in.
The local cloud goes on running. To go on:
  cargo run -- {local} job run {JOB} --customer acme
  cargo run -- {local} nodes list --customer globex
  cargo run -- {local} nodes run --customer globex --filter 'name: turbine-.*' -- uptime
  cargo run -- {local} account show acme prod
  cargo run -- {local} account rotate acme prod
  cargo run -- {local} customer suspend globex
  cargo run -- steps ec2-start
  cargo run -- {port}local down"
    )
}

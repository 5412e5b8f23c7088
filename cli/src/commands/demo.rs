//! `stepward demo`: shows everything on this machine, with the same code that deploys to AWS and
//! onboards customers there.

mod account;

use std::collections::BTreeMap;

use clap::{Args, Parser};
use stepward::model::customer::Trust;
use stepward::model::job::JobInput;

use super::help::with_examples;
use crate::cloud::Cloud;
use crate::commands::nodes::run::RunOnNodes;
use crate::deploy::{self, Deployment};
use crate::error::{Context, Error, Result, repeat_options};
use crate::global::Global;
use crate::jobs::{self, Finished, Outcome, View};
use crate::local::{LocalCloud, OPERATOR, venv};
use crate::machine::check_resources;
use crate::output::{Format, Progress, Stage, counted, print};
use crate::package::{self, Build, Release};
use crate::workspace::{Function, Workspace};
use account::{ACCOUNT, ACCOUNTS, DemoAccount};

const JOB: &str = "fleet/morning-check";
/// The command that the demo runs on the nodes of one customer.
const COMMAND: &str = "uname -sm";
/// The disk space that the first build of the functions needs, after that of this program.
const BUILD_SPACE: u64 = 3_000_000_000;

/// Try Stepward on this machine, without AWS: build, deploy, onboard three customers, run jobs
#[derive(Args, Debug)]
#[command(
    after_help = "The first run compiles the functions, which takes a few minutes; later runs \
                  take seconds. The local cloud keeps running; `stepward local down` stops it.",
    help_template = with_examples("stepward demo")
)]
pub(crate) struct Demo {}

impl Demo {
    pub(crate) async fn run(&self, global: &Global) -> Result<u8> {
        // The demo always uses the local cloud, in its default Region.
        let local = Global {
            local: true,
            region: None,
            ..global.clone()
        };
        let workspace = package::workspace_for_jobs(&Workspace::find()?)?;
        deploy::validate_stack_name(&workspace, &local.stack)?;
        check_machine(&workspace, local.port)?;
        let progress = Progress::new();
        let result = run_demo(&local, &workspace, &progress).await;
        progress.clear();
        result.map(|()| 0)
    }
}

/// The arguments of `nodes run`. They are parsed from text, so that the printed command is the one
/// that runs.
#[derive(Debug, Parser)]
struct NodesRunLine {
    #[command(flatten)]
    run: RunOnNodes,
}

/// Refuses a machine on which the demo would fail after minutes of compilation.
fn check_machine(workspace: &Workspace, port: u16) -> Result<()> {
    LocalCloud::check_port(workspace, port)?;
    let is_built = |function: &Function| {
        workspace
            .target
            .join("debug")
            .join(&function.name)
            .is_file()
    };
    if workspace.functions.iter().all(is_built) {
        return Ok(());
    }
    check_resources(&workspace.target, BUILD_SPACE)
}

/// Builds the functions, starts the local cloud and runs the demo there. The functions are only
/// those of the jobs: the others would take time to compile, and the demo does not run them.
async fn run_demo(global: &Global, workspace: &Workspace, progress: &Progress) -> Result<()> {
    let release = build(workspace, progress).await?;
    let stage = Stage::start(progress, "Start the local cloud");
    let local = LocalCloud::up(workspace, global.port)?;
    stage.finish(format!("{}, IAM is enforced", local.endpoint()));
    show_everything(global, workspace, &local, &release, progress)
        .await
        .map_err(Error::into_started)
}

/// Deploys, onboards the customers and runs their jobs on the local cloud.
async fn show_everything(
    global: &Global,
    workspace: &Workspace,
    local: &LocalCloud,
    release: &Release,
    progress: &Progress,
) -> Result<()> {
    let stack = global.stack.as_str();
    let cloud = global.open_cloud().await?;
    let stage = Stage::start(progress, "Deploy infra/template.yaml");
    let parameters = BTreeMap::from([("Steps".into(), "jobs".into())]);
    let deployment = deploy::deploy(&cloud, stack, release, &parameters, progress).await?;
    let result = if deployment.changed {
        "deployed to"
    } else {
        "is already in"
    };
    stage.finish(format!("stack {stack} {result} account {OPERATOR}"));

    let stage = Stage::start(progress, "Create three customers' accounts");
    for account in &ACCOUNTS {
        progress.set_status(format!("creating the account of {}", account.customer));
        account::create_resources(&cloud.other_account(account.account_id), workspace, account)
            .await?;
    }
    stage.finish("stopped instances, backup reports and an Athena table in each");

    for account in &ACCOUNTS {
        let stage = Stage::start(progress, format!("Onboard {}", account.customer));
        let trust = account::onboard(&cloud, &deployment, workspace, account).await?;
        stage.finish(match trust {
            Trust::Proven => {
                "proven: its role accepts Stepward, and refuses callers without the external ID"
            }
            Trust::Open => {
                "not protected: its role also accepts callers without the external ID, so steps will \
                 refuse it"
            }
            Trust::Overridden => {
                "overridden: its role also accepts callers without the external ID"
            }
            Trust::Unproven => "its role could not be proven",
        });
    }
    progress.clear();

    for account in ACCOUNTS
        .iter()
        .filter(|account| account.requires_external_id)
    {
        let finished = run_job(&cloud, &deployment, account).await?;
        print_summary(&cloud, &finished)?;
        if finished.outcome != Outcome::Succeeded {
            return Err(Error::new(format!(
                "job \"{JOB}\" did not succeed for customer \"{}\"",
                account.customer
            ))
            .with_advice(format!(
                "read the summary above and {}",
                local.dir.join("ministack.log").display()
            )));
        }
    }
    run_on_nodes(&cloud, &deployment).await?;
    for account in ACCOUNTS
        .iter()
        .filter(|account| !account.requires_external_id)
    {
        let finished = run_job(&cloud, &deployment, account).await?;
        print_summary(&cloud, &finished)?;
        if finished.error.as_deref() != Some("TrustBroken") {
            return Err(Error::new(format!(
                "job \"{JOB}\" ran for customer \"{}\", although its role does not require the \
                 external ID",
                account.customer
            ))
            .with_advice(
                "do not use this build: it must refuse roles that do not require the external ID",
            ));
        }
    }
    print(&next_commands(&cloud))
}

/// Compiles the functions and creates the Python environment at the same time: one waits for the
/// processor, the other for the network.
async fn build(workspace: &Workspace, progress: &Progress) -> Result<Release> {
    // The build is the longer one, so its status is set last and stays next to the spinner.
    let python = Stage::start(progress, "Create the Python environment");
    let functions = Stage::start(progress, "Build the functions");
    let for_python = workspace.clone();
    let python = tokio::task::spawn_blocking(move || {
        venv::ensure_venv(&for_python, venv::LOCAL_CLOUD)
            .map(|_| python.finish("MiniStack, pinned by version and hash"))
    });
    let (for_functions, build_progress) = (workspace.clone(), progress.clone());
    let release = tokio::task::spawn_blocking(move || {
        let release = package::build_release(&for_functions, Build::Local, &build_progress)?;
        functions.finish(format!(
            "{}, release {}",
            counted(for_functions.functions.len(), "function"),
            release.id
        ));
        Ok::<_, Error>(release)
    });
    let (python, release) = tokio::join!(python, release);
    python.context("cannot create the Python environment")??;
    release.context("cannot build the functions")?
}

async fn run_job(
    cloud: &Cloud,
    deployment: &Deployment,
    account: &DemoAccount,
) -> Result<Finished> {
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
    let execution = jobs::start_job(cloud, deployment, JOB, &input, None).await?;
    jobs::watch_execution(cloud, deployment, &execution, &View::new()).await
}

fn print_summary(cloud: &Cloud, finished: &Finished) -> Result<()> {
    let summary = repeat_options(&jobs::summary_text(finished), &cloud.options);
    print(&format!("\n{summary}\n"))
}

/// Runs a command on the instances that the morning check has started.
async fn run_on_nodes(cloud: &Cloud, deployment: &Deployment) -> Result<()> {
    let line = format!("nodes run --customer {} -- {COMMAND}", ACCOUNTS[0].customer);
    print(&format!("\n{} {line}", cloud.command()))?;
    // clap expects the program's name first; here it is `run`.
    let NodesRunLine { run } =
        NodesRunLine::try_parse_from(line.split(' ').skip(1)).context(&line)?;
    match run.run_in(cloud, deployment, Format::Table).await? {
        0 => Ok(()),
        code => Err(Error::new(format!(
            "the command did not succeed on every node: exit code {code}"
        ))
        .with_advice("read the result of each node above")),
    }
}

/// The end of the demo: what it has shown, and what an operator can try next.
fn next_commands(cloud: &Cloud) -> String {
    let command = format!("cargo run --{}", cloud.options);
    format!(
        "acme and globex were checked. initech was refused as TrustBroken: its role does not \
         require the external ID.
The local cloud keeps running. Try these commands next:
  {command} job run {JOB} --customer acme
  {command} nodes list --customer globex
  {command} nodes run --customer globex --filter 'name: turbine-.*' -- uptime
  {command} account show acme prod
  {command} account rotate acme prod
  {command} customer suspend globex
  cargo run -- steps ec2-start
  {command} local down"
    )
}

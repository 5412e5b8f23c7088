//! Generators and benchmarks for contributors to Stepward. Run `cargo xtask --help` for the list.

mod cold_start;
mod dispatch_bench;
mod e2e;
mod iam_actions;
mod moto;
mod node_filters;
mod proofs;
mod s3_bench;
mod s3_differential;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use stepward_testkit::s3::Opponent;
use xtask::{catalog, generated};

/// Generators and benchmarks for contributors to Stepward.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
enum Task {
    /// Write all generated files: the catalog, the step pages, the tables of proofs and the
    /// generated blocks of the template.
    Generate,
    /// Run the unit tests of all steps and print which proofs hold, one row per step.
    Proofs,
    /// Update `tests/iam-actions/actions.txt`, the list of IAM actions of the services that steps
    /// use. Needs access to a Python package index.
    IamActions,
    /// Run the first example of every step against moto, another emulator of AWS, and update the
    /// table in `tests/moto/results.json`. Needs access to a Python package index.
    Moto {
        /// Run only the steps whose names contain this text, and do not update the table.
        filter: Option<String>,
    },
    /// Select random nodes with random node filters, and compare the results with those of a slow
    /// implementation in Java. Needs Java 17.
    NodeFilters(node_filters::Options),
    /// Run random operations with the S3 steps and with the AWS CLI, and compare the results.
    S3Differential {
        /// The number of seeds to run.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// The number of seeds to run at the same time.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Compare the AWS CLI with itself. The results must be equal.
        #[arg(long)]
        itself: bool,
        /// Compare the AWS CLI with a variant of itself that makes deliberate mistakes. The results
        /// must differ.
        #[arg(long, conflicts_with = "itself")]
        faulty: bool,
        /// Print the cases that the seeds generate, without running them.
        #[arg(long)]
        print_cases: bool,
    },
    /// Kill the processes of the S3 steps at random points, call the steps again, and compare the
    /// results with those of a run without interruptions.
    S3Kill {
        /// How many times to kill each of copy, move and sync.
        #[arg(long, default_value_t = 50)]
        times: u64,
        /// The seed of the random numbers that choose the points.
        #[arg(long, default_value_t = 0)]
        seed: u64,
    },
    /// Run the end-to-end tests many times, and stop at the first failure.
    E2e {
        /// How many times to run the tests.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        times: u16,
        /// Run only the tests whose names contain this text.
        filter: Option<String>,
    },
    /// Run a benchmark.
    #[command(subcommand)]
    Bench(Bench),
}

#[derive(Subcommand)]
enum Bench {
    /// Measure the time from process start to the first response, compared with functions that do
    /// not use Stepward.
    ///
    /// The benchmark compares steps of several services with three kinds of functions: an empty one
    /// (a), one that makes the step's last AWS call with the Rust SDK (b), and one that makes it
    /// with Python and boto3 (c). They run on this machine, alternating, against a Runtime API
    /// and a fake of AWS on loopback. The table shows medians. The first release build takes half
    /// an hour.
    ColdStart {
        /// How many times to start each program.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
        runs: u16,
        /// Cargo's build profile. Use `dev` to try the benchmark.
        #[arg(long, default_value = "release")]
        profile: String,
        /// A Python interpreter that has boto3. Default: the local cloud's interpreter.
        #[arg(long)]
        python: Option<PathBuf>,
    },
    /// Compare the S3 steps with s5cmd and the AWS CLI: time, CPU time and memory, against one S3
    /// server on loopback.
    ///
    /// The steps run as Lambda runs them. The tools take turns. Before each transfer the benchmark
    /// empties the destination; after it, it compares the destination with the source and fails if
    /// they differ. The first run installs the pinned tools and builds the server.
    S3(s3_bench::Options),
    /// Run a command on many nodes of a local cloud, and measure calls of SSM and Lambda, state
    /// transitions, time and memory.
    ///
    /// The deployed stack runs the job `nodes/dispatch` in an account in two Regions. The local
    /// cloud runs the command on every node. The command fails on about 3 % of the nodes. The
    /// benchmark fails if the job reports any other node as failed.
    Dispatch(dispatch_bench::Options),
}

fn main() -> ExitCode {
    let result = match Task::parse() {
        Task::Generate => generate(),
        Task::Proofs => proofs::print_proofs(),
        Task::IamActions => iam_actions::update_list(),
        Task::Moto { filter } => moto::run_steps(filter.as_deref()),
        Task::NodeFilters(options) => node_filters::compare(&options),
        Task::S3Differential {
            seeds,
            from,
            print_cases: true,
            ..
        } => {
            s3_differential::print_cases(from..from + seeds);
            Ok(())
        }
        Task::S3Differential {
            seeds,
            from,
            jobs,
            itself,
            faulty,
            ..
        } => {
            let opponent = match (itself, faulty) {
                (true, _) => Opponent::Cli,
                (_, true) => Opponent::FaultyCli,
                _ => Opponent::Steps,
            };
            s3_differential::compare(from..from + seeds, jobs, opponent)
        }
        Task::S3Kill { times, seed } => s3_differential::kill_steps(times, seed),
        Task::E2e { times, filter } => e2e::run_repeatedly(times, filter.as_deref()),
        Task::Bench(Bench::ColdStart {
            runs,
            profile,
            python,
        }) => cold_start::run_benchmark(runs, &profile, python),
        Task::Bench(Bench::S3(options)) => s3_bench::run_benchmark(options),
        Task::Bench(Bench::Dispatch(options)) => dispatch_bench::run_benchmark(&options),
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
    // The binaries print the catalog, so a new step first needs its binary.
    let mut changes = generated::write_sources()?;
    changes.extend(generated::write_all(&catalog::build_catalog()?)?);

    if changes.is_empty() {
        println!("all generated files are up to date");
    } else {
        println!("{}", changes.join("\n"));
    }
    Ok(())
}

//! `cargo xtask bench s3`: compares the S3 steps with s5cmd and the AWS CLI.

mod choice;
mod environment;
mod tools;

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table};
use stepward_cli::local::venv;
use stepward_cli::workspace::{Function, Workspace};
use stepward_testkit::build::{build_binaries, current_build, install_program, root};

use self::choice::{Case, Tool, chosen_or_all, value_name};
use self::environment::{BenchFolder, Environment};
use self::tools::{Measurement, Tools};

/// The S3 server and its version. It stores objects as files, so the benchmark can check the result
/// of a transfer without the server.
const SERVER: (&str, &str) = ("s3s-fs", "0.14.1");
/// The pinned versions of s5cmd and the AWS CLI.
const TOOL_REQUIREMENTS: &str = "local-cloud/requirements-s3.txt";

#[derive(Args)]
pub(crate) struct Options {
    /// How many times to run each transfer.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Cargo's build profile for the steps. Use `dev` to try the benchmark.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Measure only these tools.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Tool>,
    /// Measure only these transfers.
    #[arg(long, value_enum, value_delimiter = ',')]
    case: Vec<Case>,
    /// A new folder for 5 GB of files and objects, which is removed at the end. Default: a folder
    /// below Cargo's target directory.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// The measurements of one transfer by one tool.
struct Row {
    case: Case,
    tool: Tool,
    runs: Vec<Measurement>,
}

pub(crate) fn run_benchmark(options: Options) -> Result<(), String> {
    let Options {
        runs,
        profile,
        only,
        case,
        dir,
    } = options;
    let chosen_tools = chosen_or_all(only);
    let (_, target) = current_build()?;
    let workspace = Workspace::at(root()).map_err(|error| error.to_string())?;
    let venv =
        venv::ensure_venv(&workspace, TOOL_REQUIREMENTS).map_err(|error| error.to_string())?;
    let mut tools = Tools::new(venv);

    if chosen_tools.contains(&Tool::Step) {
        let step = |name: &str| Function {
            name: name.into(),
            package: "stepward-s3".into(),
        };
        let mut binaries = build_binaries(&[step("s3-copy"), step("s3-sync")], &profile, &target)?;
        tools.steps = binaries
            .remove("s3-copy")
            .zip(binaries.remove("s3-sync"))
            .map(Into::into);
    }
    let server = install_program(SERVER.0, SERVER.1, "binary", &target)?;
    let mut environment = Environment::new(BenchFolder::create(dir, &target)?, &server)?;
    tools.fill_buckets(&mut environment)?;

    let mut rows: Vec<Row> = Vec::new();
    // After a failure the table still shows the transfers before it.
    let result = chosen_or_all(case).into_iter().try_for_each(|case| {
        rows.extend(measure_in_turn(
            case,
            &chosen_tools,
            runs,
            &tools,
            &environment,
        )?);
        Ok(())
    });
    println!("{}", format_table(&rows));
    println!(
        "Medians of {runs} runs in turn, after a first run that does not count. Build profile of \
         the steps: {profile}. MB: the highest peak.\n\
         Each result was compared with its source, byte by byte.\n\
         The time ends with the process, or with the response of a step. The server ({} {}) runs on \
         the same machine.",
        SERVER.0, SERVER.1
    );
    result
}

/// Measures one transfer with every tool, `runs` times in turn.
fn measure_in_turn(
    case: Case,
    chosen_tools: &[Tool],
    runs: u16,
    tools: &Tools,
    environment: &Environment,
) -> Result<Vec<Row>, String> {
    let mut rows: Vec<_> = chosen_tools
        .iter()
        .map(|tool| Row {
            case,
            tool: *tool,
            runs: Vec::new(),
        })
        .collect();
    for run in 0..=runs {
        eprintln!("{}: run {run} of {runs}", value_name(&case));
        for row in &mut rows {
            environment.prepare_transfer()?;
            let measurement = tools
                .run_transfer(row.tool, case, environment)
                .and_then(|measurement| environment.check_result(case).map(|()| measurement))
                .map_err(|error| {
                    format!(
                        "{} by {}: {error}",
                        value_name(&case),
                        value_name(&row.tool)
                    )
                })?;
            // The first run reads programs and files from disk, so it does not count.
            if run > 0 {
                row.runs.push(measurement);
            }
        }
    }
    Ok(rows)
}

fn format_table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.set_header([
        "transfer",
        "by",
        "s",
        "from",
        "to",
        "CPU s",
        "MB",
        "s / s5cmd",
        "CPU",
        "MB",
        "s / awscli",
        "CPU",
        "MB",
    ]);
    for row in rows {
        table.add_row(row.cells(rows));
    }
    table
        .column_iter_mut()
        .skip(2)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

impl Row {
    fn cells(&self, rows: &[Self]) -> Vec<String> {
        let fold_seconds = |combine: fn(f64, f64) -> f64, initial| {
            self.runs
                .iter()
                .map(|run| run.wall_seconds)
                .fold(initial, combine)
        };
        let shortest = fold_seconds(f64::min, f64::INFINITY);
        let longest = fold_seconds(f64::max, 0.0);
        let totals = self.totals();

        let mut cells = vec![value_name(&self.case), value_name(&self.tool)];
        let most_calls = self.runs.iter().map(|run| run.calls).max();
        if let Some(calls @ 2..) = most_calls {
            cells[1] = format!("{}, {calls} calls", cells[1]);
        }
        cells.extend(
            [totals[0], shortest, longest, totals[1]].map(|seconds| format!("{seconds:.2}")),
        );
        cells.push(format!("{:.0}", totals[2]));

        for tool in [Tool::S5cmd, Tool::Awscli] {
            let reference = rows
                .iter()
                .find(|row| row.case == self.case && row.tool == tool && row.tool != self.tool);
            let ratios = reference.map(|row| {
                [0, 1, 2].map(|index| format!("{:.2}", totals[index] / row.totals()[index]))
            });
            cells.extend(ratios.unwrap_or_default());
        }
        cells
    }

    /// Returns wall seconds, CPU seconds and megabytes.
    #[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
    fn totals(&self) -> [f64; 3] {
        let peak = self
            .runs
            .iter()
            .map(|run| run.peak_memory)
            .max()
            .unwrap_or_default();
        [
            self.median(|run| run.wall_seconds),
            self.median(|run| run.cpu_seconds),
            peak as f64 / 1e6,
        ]
    }

    fn median(&self, value: fn(&Measurement) -> f64) -> f64 {
        let mut values: Vec<_> = self.runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        f64::midpoint(low, high)
    }
}

//! `cargo xtask bench s3`: the S3 steps beside s5cmd and the AWS CLI.

mod bed;
mod choice;
mod tools;

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, Table};
use stepward_cli::local::venv;
use stepward_cli::workspace::{Function, Workspace};
use stepward_testkit::build::{build, install, of_this_program, root};

use self::bed::{Bed, Place};
use self::choice::{Case, Tool, name, or_all};
use self::tools::{Measure, Tools};

/// The server: an S3 whose objects are files, so that what came of a transfer can be read without
/// it.
const SERVER: (&str, &str) = ("s3s-fs", "0.14.1");
/// What the steps are compared with.
const PINS: &str = "local-cloud/requirements-s3.txt";

#[derive(Args)]
pub(crate) struct Options {
    /// How often each transfer runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Cargo's profile for the steps; `dev` to try the bench.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Only these tools.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Tool>,
    /// Only these transfers.
    #[arg(long, value_enum, value_delimiter = ',')]
    case: Vec<Case>,
    /// A folder that is made for the 5 GB of files and objects, and removed; below Cargo's target
    /// directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What a tool took for a transfer, run by run.
struct Row {
    case: Case,
    tool: Tool,
    runs: Vec<Measure>,
}

pub(crate) fn bench(options: Options) -> Result<(), String> {
    let Options {
        runs,
        profile,
        only,
        case,
        dir,
    } = options;
    let chosen = or_all(only);
    let (_, target) = of_this_program()?;
    let workspace = Workspace::at(root()).map_err(|error| error.to_string())?;
    let mut tools = Tools::new(venv::ensure(&workspace, PINS).map_err(|error| error.to_string())?);
    if chosen.contains(&Tool::Step) {
        let step = |name: &str| Function {
            name: name.into(),
            package: "stepward-s3".into(),
        };
        let mut built = build(&[step("s3-copy"), step("s3-sync")], &profile, &target)?;
        tools.steps = built
            .remove("s3-copy")
            .zip(built.remove("s3-sync"))
            .map(Into::into);
    }
    let server = install(SERVER.0, SERVER.1, "binary", &target)?;
    let mut bed = Bed::new(Place::new(dir, &target)?, &server)?;
    tools.fill(&mut bed)?;

    let mut rows: Vec<Row> = Vec::new();
    let done = or_all(case).into_iter().try_for_each(|case| {
        rows.extend(in_turn(case, &chosen, runs, &tools, &bed)?);
        Ok(())
    });
    println!("{}", table(&rows));
    println!(
        "Medians of {runs} runs in turn after one that does not count, steps' profile {profile}; MB: the highest peak. \
         Each result was compared with its source, byte by byte.\n\
         Process start to end, a step's to its answer; the server ({} {}) shares the machine.",
        SERVER.0, SERVER.1
    );
    done
}

/// One transfer by every tool, again and again.
fn in_turn(
    case: Case,
    by: &[Tool],
    runs: u16,
    tools: &Tools,
    bed: &Bed,
) -> Result<Vec<Row>, String> {
    let mut rows: Vec<_> = by
        .iter()
        .map(|tool| Row {
            case,
            tool: *tool,
            runs: Vec::new(),
        })
        .collect();
    for run in 0..=runs {
        eprintln!("{}: run {run} of {runs}", name(&case));
        for row in &mut rows {
            bed.prepare()?;
            let measure = tools.run(row.tool, case, bed);
            let right = measure.and_then(|measure| bed.check(case).map(|()| measure));
            let right = right
                .map_err(|error| format!("{} by {}: {error}", name(&case), name(&row.tool)))?;
            // The first run fetches programs and files from disk, and is not counted.
            if run > 0 {
                row.runs.push(right);
            }
        }
    }
    Ok(rows)
}

fn table(rows: &[Row]) -> Table {
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
        let seconds = |run: fn(f64, f64) -> f64, first| {
            self.runs
                .iter()
                .map(|measure| measure.wall)
                .fold(first, run)
        };
        let (from, to) = (seconds(f64::min, f64::INFINITY), seconds(f64::max, 0.0));
        let own = self.totals();
        let mut cells = vec![name(&self.case), name(&self.tool)];
        let called = self.runs.iter().map(|measure| measure.calls).max();
        if let Some(more @ 2..) = called {
            cells[1] = format!("{}, {more} calls", cells[1]);
        }
        cells.extend([own[0], from, to, own[1]].map(|seconds| format!("{seconds:.2}")));
        cells.push(format!("{:.0}", own[2]));
        for other in [Tool::S5cmd, Tool::Awscli] {
            let other = rows
                .iter()
                .find(|row| row.case == self.case && row.tool == other && row.tool != self.tool);
            let ratios = other
                .map(|other| [0, 1, 2].map(|at| format!("{:.2}", own[at] / other.totals()[at])));
            cells.extend(ratios.unwrap_or_default());
        }
        cells
    }

    /// Wall and CPU seconds, and megabytes.
    #[expect(clippy::cast_precision_loss, reason = "shown without decimals")]
    fn totals(&self) -> [f64; 3] {
        let peak = self
            .runs
            .iter()
            .map(|measure| measure.peak)
            .max()
            .unwrap_or_default();
        [
            self.median(|measure| measure.wall),
            self.median(|measure| measure.cpu),
            peak as f64 / 1e6,
        ]
    }

    fn median(&self, of: fn(&Measure) -> f64) -> f64 {
        let mut all: Vec<_> = self.runs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
        f64::midpoint(low, high)
    }
}

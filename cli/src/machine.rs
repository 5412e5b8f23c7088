//! What this machine has free, for builds.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};

const MIB: u64 = 1 << 20;
/// The memory that the compiler needs for the largest crate. Measured: 7,876 MiB with
/// one job, so fewer jobs do not reduce it.
const LARGEST_CRATE_MEMORY: u64 = 7900 * MIB;
/// The start of the file name of the largest crate in Cargo's directory `deps`.
const LARGEST_CRATE_FILE: &str = "libaws_sdk_ec2-";
/// The memory that the compiler needs for any other crate. Measured: 1,713 MiB for `aws-sdk-s3`.
const CRATE_MEMORY: u64 = 1750 * MIB;

/// The memory that one job of a build needs, in bytes. This program needs the largest crate too, so
/// it is usually built before.
fn first_job_memory(target: &Path) -> u64 {
    let files = std::fs::read_dir(target.join("debug/deps"));
    let is_largest = |file: std::io::Result<std::fs::DirEntry>| {
        file.is_ok_and(|file| {
            let name = file.file_name();
            name.to_string_lossy().starts_with(LARGEST_CRATE_FILE)
        })
    };
    if files.is_ok_and(|mut files| files.any(is_largest)) {
        CRATE_MEMORY
    } else {
        LARGEST_CRATE_MEMORY
    }
}

/// How many jobs Cargo can run at once to build in this target directory: as many as the available
/// memory suffices for, and at most one for each processor.
pub(crate) fn parallel_jobs(target: &Path, processors: usize, memory: Option<u64>) -> usize {
    fitting_jobs(first_job_memory(target), processors, memory)
}

fn fitting_jobs(first_job: u64, processors: usize, memory: Option<u64>) -> usize {
    let fitting = memory.map_or(processors, |memory| {
        let others = memory.saturating_sub(first_job) / CRATE_MEMORY;
        usize::try_from(others).map_or(processors, |others| others.saturating_add(1))
    });
    fitting.clamp(1, processors.max(1))
}

/// The memory that programs can use without swapping, in bytes: that of the machine, or less in a
/// container. `None` if the system does not tell.
/// <https://docs.kernel.org/filesystems/proc.html>
pub(crate) fn available_memory() -> Option<u64> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok();
    let machine = machine
        .as_deref()
        .and_then(|text| meminfo_value(text, "MemAvailable:"));
    let group = |file: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    // Without a limit, memory.max is not a number.
    let container = group("memory.max").zip(group("memory.current"));
    let container = container.map(|(limit, used)| limit.saturating_sub(used));
    machine.into_iter().chain(container).min()
}

/// The free swap space, in bytes; 0 if the system does not tell.
fn free_swap() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    meminfo_value(&text, "SwapFree:").unwrap_or(0)
}

/// A value in the text of `/proc/meminfo`, in bytes.
fn meminfo_value(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// The free space of the file system that contains a directory, in bytes. `None` if the system does
/// not tell. The standard library has no function for it, but every system has `df`.
pub(crate) fn free_space(dir: &Path) -> Option<u64> {
    let existing = dir.ancestors().find(|dir| dir.exists())?;
    let output = Command::new("df").arg("-Pk").arg(existing).output().ok()?;
    df_available(&String::from_utf8_lossy(&output.stdout))
}

/// The available space in the output of `df -Pk` for one file system, in bytes.
/// <https://pubs.opengroup.org/onlinepubs/9799919799/utilities/df.html>
fn df_available(output: &str) -> Option<u64> {
    let kibibytes: u64 = output
        .lines()
        .nth(1)?
        .split_whitespace()
        .nth(3)?
        .parse()
        .ok()?;
    Some(kibibytes * 1024)
}

/// Refuses a first build on a machine that has too little memory or space for it.
pub(crate) fn check_resources(target: &Path, needed_space: u64) -> Result<()> {
    let memory = available_memory().map(|memory| memory + free_swap());
    check_free("memory", memory, first_job_memory(target))
        .map_err(|error| error.with_advice("close other programs, or add memory or swap space"))?;
    let place = format!("disk space for {}", target.display());
    check_free(&place, free_space(target), needed_space).map_err(|error| {
        error.with_advice("free some space, or set CARGO_TARGET_DIR to a directory with more space")
    })
}

fn check_free(what: &str, free: Option<u64>, needed: u64) -> Result<()> {
    match free {
        Some(free) if free < needed => Err(Error::usage_error(format!(
            "the first build needs {} of {what}, but only {} is free",
            gigabytes(needed),
            gigabytes(free)
        ))),
        _ => Ok(()),
    }
}

/// A number of bytes for people: `4.3 GB`.
pub(crate) fn gigabytes(bytes: u64) -> String {
    // One decimal is exact enough.
    let tenths = bytes / 100_000_000;
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::NOT_STARTED;

    #[test]
    fn fewer_jobs_run_when_memory_is_short() {
        let gib = |number: u64| Some(number * 1024 * MIB);
        for (processors, memory, jobs) in [
            (2, gib(16), 2),
            (2, gib(8), 1),
            (2, gib(1), 1),
            (16, gib(16), 5),
            (8, None, 8),
            (0, None, 1),
        ] {
            let fitting = fitting_jobs(LARGEST_CRATE_MEMORY, processors, memory);
            assert_eq!(fitting, jobs, "{processors} {memory:?}");
        }
        assert_eq!(fitting_jobs(CRATE_MEMORY, 16, gib(8)), 4);
    }

    #[test]
    fn a_built_crate_needs_no_memory_again() {
        let target = std::env::temp_dir().join(format!("stepward-deps-{}", std::process::id()));
        assert_eq!(first_job_memory(&target), LARGEST_CRATE_MEMORY);
        let deps = target.join("debug/deps");
        std::fs::create_dir_all(&deps).unwrap();
        std::fs::write(deps.join("libaws_sdk_ec2-0123.rlib"), "").unwrap();
        assert_eq!(first_job_memory(&target), CRATE_MEMORY);
        std::fs::remove_dir_all(target).unwrap();
    }

    #[test]
    fn free_memory_and_space_are_read() {
        let meminfo = "MemTotal:  9 kB\nMemFree:   1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(meminfo_value(meminfo, "MemAvailable:"), Some(2 * MIB));
        assert_eq!(meminfo_value("MemTotal: 9 kB\n", "MemAvailable:"), None);
        let df = "Filesystem 1024-blocks Used Available Capacity Mounted on\n\
                  /dev/vda 100 60 40 60% /\n";
        assert_eq!(df_available(df), Some(40 * 1024));
        assert_eq!(df_available(""), None);
        assert!(available_memory().is_some_and(|memory| memory > 0));
        assert!(free_space(Path::new("/tmp/no/such/dir")).is_some_and(|space| space > 0));
    }

    #[test]
    fn a_machine_without_space_is_refused_with_both_numbers() {
        let refused = check_free("disk space for /tmp", Some(2_900_000_000), 3_000_000_000);
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), NOT_STARTED);
        let text = "the first build needs 3.0 GB of disk space for /tmp, but only 2.9 GB is free";
        assert_eq!(refused.to_string(), text);
        assert_eq!(gigabytes(4_350_000_000), "4.3 GB");
        check_free("memory", Some(5), 5).unwrap();
        check_free("memory", None, 5).unwrap();
    }
}

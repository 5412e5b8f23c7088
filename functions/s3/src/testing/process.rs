//! Tests with a local root. The root is a setting of the process, so each of these tests runs in
//! its own process.

use std::any::type_name;
use std::path::Path;
use std::process::Command;

use stepward::settings;

const ROOT_PREFIX: &str = "stepward-s3-test-";

/// Runs the calling test, which consists of this closure only, again in a process whose local root
/// is a new, empty directory.
pub(crate) fn run_with_root<F: FnOnce(&Path)>(test: F) {
    run_in_process::<F>(test);
}

/// Like [`run_with_root`], for async tests. The clock is paused.
pub(crate) fn run_in_root<F: AsyncFnOnce(&Path)>(test: F) {
    run_in_process::<F>(|root| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(test(root));
    });
}

/// Runs the test again. The type name of `F`, a closure in the test, is the only place where Rust
/// reveals the test's name.
fn run_in_process<F>(test: impl FnOnce(&Path)) {
    let is_test_root = |root: &Path| {
        root.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(ROOT_PREFIX))
    };
    if let Some(root) = settings::local_root().filter(|root| is_test_root(root)) {
        return test(&root);
    }
    let closure = type_name::<F>();
    let (_, name) = closure.split_once("::").unwrap();
    let name = name.split("::{{closure}}").next().unwrap();
    let unique = format!(
        "{ROOT_PREFIX}{}-{}",
        std::process::id(),
        name.replace("::", "-")
    );
    let root = std::env::temp_dir().join(unique);
    std::fs::create_dir(&root).unwrap();
    let mut rerun = Command::new(std::env::current_exe().unwrap());
    let output = rerun
        .args([name, "--exact", "--nocapture"])
        .env("STEPWARD_LOCAL_ROOT", &root)
        .output();
    std::fs::remove_dir_all(&root).unwrap();
    let output = output.unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    // An unknown name would run no test, and succeed.
    assert!(
        output.status.success() && stdout.contains("1 passed"),
        "{stdout}\n{stderr}"
    );
}

//! Tests with a local root. The root is a setting of the process, so each of them has a process of
//! its own.

use std::any::type_name;
use std::path::Path;
use std::process::Command;

use stepward::settings;

const NAME: &str = "stepward-s3-test-";

/// Runs the test that this closure is the whole of again, in a process whose local root is a new,
/// empty directory.
pub(crate) fn run_with_root<F: FnOnce(&Path)>(test: F) {
    run::<F>(test);
}

/// As [`run_with_root`], for what awaits. The clock stands still, but for what is waited for.
pub(crate) fn run_in_root<F: AsyncFnOnce(&Path)>(test: F) {
    run::<F>(|root| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build();
        runtime.unwrap().block_on(test(root));
    });
}

/// `F` is a closure in the test, and its type's name the only place where Rust tells the test's.
fn run<F>(test: impl FnOnce(&Path)) {
    let is_ours = |root: &Path| {
        root.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(NAME))
    };
    if let Some(root) = settings::local_root().filter(|root| is_ours(root)) {
        return test(&root);
    }
    let closure = type_name::<F>();
    let (_, name) = closure.split_once("::").unwrap();
    let name = name.split("::{{closure}}").next().unwrap();
    let unique = format!("{NAME}{}-{}", std::process::id(), name.replace("::", "-"));
    let root = std::env::temp_dir().join(unique);
    std::fs::create_dir(&root).unwrap();
    let mut again = Command::new(std::env::current_exe().unwrap());
    let output = again
        .args([name, "--exact", "--nocapture"])
        .env("STEPWARD_LOCAL_ROOT", &root)
        .output();
    std::fs::remove_dir_all(&root).unwrap();
    let output = output.unwrap();
    let (said, errors) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    // A name that no test has would run none, and succeed.
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{errors}"
    );
}

//! The proofs of every step. They are read from the names of the step's tests, so nobody has to
//! maintain a list.

use std::collections::BTreeMap;

use stepward_cli::steps::page::markdown_table;
use stepward_cli::workspace::Function;

use stepward_testkit::build::list_steps;

use crate::files;
use crate::moto_results::{self, MotoResult};

/// The kinds of proofs: the prefix of the test's name, and what such a test shows.
pub const KEYS: [(&str, &str); 8] = [
    (
        "done",
        "The step does what its page says. The test asserts the requests to AWS and the output.",
    ),
    (
        "already",
        "If the resource already has the wanted state, the step succeeds and changes nothing.",
    ),
    (
        "not_found",
        "If the resource does not exist, the step fails with `NotFound`.",
    ),
    (
        "invalid",
        "If a parameter is invalid, the step fails with `InvalidInput` before it calls AWS.",
    ),
    (
        "throttled",
        "If AWS throttles a request once, the step retries it and succeeds.",
    ),
    (
        "pending",
        "A later call continues the work, also after a lost response, and starts nothing twice.",
    ),
    (
        "failed",
        "If AWS reports a failure, the step fails with AWS's reason.",
    ),
    (
        "permissions",
        "On the local cloud, which enforces IAM, the step succeeds with a role that has exactly \
         the declared permissions. If one action is missing, the step fails with `AccessDenied` \
         and names the action.",
    ),
];

/// The proofs of one step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proofs {
    /// The step's name.
    pub step: String,
    /// The crate of the step.
    pub package: String,
    /// The names of the step's tests, by kind of proof.
    pub tests: BTreeMap<&'static str, Vec<String>>,
    /// The reasons why a proof does not exist, by kind. They are read from lines like `// no proof
    /// of KEY: reason`.
    pub reasons: BTreeMap<String, String>,
}

/// Returns the proofs of all steps, sorted by service and name.
pub fn read_proofs() -> Result<Vec<Proofs>, String> {
    let mut steps = list_steps()?;
    steps.sort_by(|a, b| (&a.package, &a.name).cmp(&(&b.package, &b.name)));
    let read = |step: Function| {
        let source = files::read_file(&format!(
            "functions/{}/src/steps/{}.rs",
            step.service(),
            step.name
        ))?;
        Ok(Proofs::from_source(step.name, step.package, &source))
    };
    steps.into_iter().map(read).collect()
}

impl Proofs {
    fn from_source(step: String, package: String, source: &str) -> Self {
        let module = source
            .split_once("#[cfg(test)]")
            .map_or("", |(_, module)| module);
        let mut tests: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut reasons: BTreeMap<String, String> = BTreeMap::new();
        let (mut is_test, mut reason_for) = (false, None::<String>);
        for line in module.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                let first_line = text
                    .trim()
                    .strip_prefix("no proof of ")
                    .and_then(|text| text.split_once(": "));
                if let Some((key, text)) = first_line {
                    reasons.insert(key.into(), capitalize(text.trim()));
                    reason_for = Some(key.into());
                } else if let Some(reason) =
                    reason_for.as_ref().and_then(|key| reasons.get_mut(key))
                {
                    *reason = format!("{reason} {}", text.trim());
                }
                continue;
            }
            reason_for = None;
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if line.starts_with("#[ignore") {
                is_test = false;
            } else if let Some((_, rest)) =
                line.split_once("fn ").filter(|_| !line.starts_with('#'))
            {
                let name = rest.split(['(', '<']).next().unwrap_or_default();
                let key = KEYS
                    .iter()
                    .map(|(key, _)| *key)
                    .find(|key| is_proof_of(name, key));
                if let Some(key) = key.filter(|_| is_test) {
                    tests.entry(key).or_default().push(name.to_owned());
                }
                is_test = false;
            }
        }
        Self {
            step,
            package,
            tests,
            reasons,
        }
    }

    /// Returns one line for each problem: a proof that has neither a test nor a reason, or both.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let step = &self.step;
        let keys = || KEYS.iter().map(|(key, _)| *key);
        let has_reason = |key: &str| self.reasons.contains_key(key);
        let missing: Vec<_> = keys()
            .filter(|key| !self.tests.contains_key(key) && !has_reason(key))
            .collect();
        let mut faults = Vec::new();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            faults.push(format!(
                "{step}: no proof of {missing}; add tests with these prefixes, or give the reason \
                 in a comment `// no proof of KEY: reason.`"
            ));
        }
        for (key, reason) in &self.reasons {
            if !keys().any(|kind| kind == key) {
                faults.push(format!(
                    "{step}: the comment \"no proof of {key}\" names an unknown proof; use one of \
                     {}",
                    keys().collect::<Vec<_>>().join(", ")
                ));
            } else if self.tests.contains_key(key.as_str()) {
                faults.push(format!(
                    "{step}: the comment \"no proof of {key}\" is wrong, because a test {key}_… \
                     exists; delete the comment"
                ));
            } else if !reason.ends_with('.') {
                faults.push(format!(
                    "{step}: the reason in the comment \"no proof of {key}\" does not end with a \
                     period: {reason:?}"
                ));
            }
        }
        faults
    }

    /// Returns the table of the step's proofs, for the end of its page.
    #[must_use]
    pub fn page_section(&self) -> String {
        let row = |(key, _): &(&'static str, &str)| {
            let cell = match self.reasons.get(*key) {
                Some(reason) => format!("— {reason}"),
                None => self.test_count(key),
            };
            [(*key).to_owned(), cell]
        };
        let rows = markdown_table(&["proof", "tests"], KEYS.iter().map(row));
        format!(
            "\n{rows}\n\n[PROOFS.md](../PROOFS.md) explains the proofs and shows how to run them.\n"
        )
    }

    fn test_count(&self, key: &str) -> String {
        self.tests
            .get(key)
            .map_or_else(|| "✘ missing".into(), |tests| format!("✔ {}", tests.len()))
    }
}

fn capitalize(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(letters)
        .collect()
}

/// Returns whether a test has the prefix of a kind of proof.
#[must_use]
pub fn is_proof_of(test: &str, key: &str) -> bool {
    test.strip_prefix(key)
        .is_some_and(|rest| rest.starts_with('_'))
}

/// Returns the table of all steps. A dash means that a proof cannot apply; its number refers to a
/// reason below the table.
pub fn proof_matrix(proofs: &[Proofs], cell: impl Fn(&Proofs, &'static str) -> String) -> String {
    let mut notes: Vec<&str> = Vec::new();
    let mut rows = Vec::new();
    for step in proofs {
        let mut row = vec![step.step.clone()];
        for (key, _) in KEYS {
            row.push(match step.reasons.get(key) {
                Some(reason) => {
                    let index = notes.iter().position(|note| note == reason);
                    let number = index.unwrap_or_else(|| {
                        notes.push(reason);
                        notes.len() - 1
                    });
                    format!("— ({})", number + 1)
                }
                None => cell(step, key),
            });
        }
        rows.push(row);
    }
    let heading: Vec<_> = ["step"]
        .into_iter()
        .chain(KEYS.map(|(key, _)| key))
        .collect();
    let notes = notes
        .iter()
        .enumerate()
        .map(|(number, note)| format!("\n{}. {note}", number + 1));
    let notes: String = notes.collect();
    format!("{}\n{}", markdown_table(&heading, rows), notes)
        .trim_end()
        .to_owned()
        + "\n"
}

/// Returns the page `docs/PROOFS.md`.
#[must_use]
pub(crate) fn proofs_page(proofs: &[Proofs], moto: &[MotoResult]) -> String {
    let keys = markdown_table(
        &["proof", "what its tests show"],
        KEYS.iter()
            .map(|(key, text)| [format!("`{key}`"), (*text).into()]),
    );
    format!(
        "# Proofs

Written by `cargo xtask generate` from the names of the steps' tests. The prefix of a test's name
says what it proves. If a step lacks a proof, `cargo test -p stepward-tests --test fleet` fails.

{keys}

The tests `permissions_…` run on a local cloud. All other proofs are unit tests with prepared
responses of AWS; they assert the requests that the step sends. `cargo test` runs all of them.
`cargo xtask proofs` runs only the proofs and prints the table below with the results. To run one
proof of one step:

```
cargo test -p stepward-ec2 ec2_start::tests::throttled_
```

A number is the number of tests. A dash means that the proof cannot apply; the reasons are below
the table. No proof has run on AWS itself. The [page of each step](steps/README.md) says what the
local cloud cannot show.

{}
## On a second emulator

`cargo xtask moto` runs the first example of every step against [moto](https://docs.getmoto.org/),
another emulator of AWS, and writes this table. It is not part of `.ci/run`. The resources of an
example are created first, and IDs that AWS chooses are replaced. moto does not check permissions, and
runs neither Lambda code nor Athena queries. The last column lists APIs that the step called and that
moto lacks, or of which moto lacks the part in parentheses; the command responds to them itself.

{}
",
        proof_matrix(proofs, Proofs::test_count),
        moto_results::results_table(proofs.iter().map(|step| step.step.as_str()), moto)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
async fn done_outside_of_the_test_module() {}
#[cfg(test)]
mod tests {
    // no proof of pending: the response comes at once,
    // or not at all.
    // no proof of done: There is one.
    #[tokio::test(start_paused = true)]
    #[expect(clippy::too_many_lines)]
    async fn done_sends_one_request() {}

    fn already_is_a_helper() {}

    #[test]
    #[ignore = "slow"]
    fn failed_is_never_run() {}

    #[test]
    fn not_found_and_so_on() {}
}
"#;

    fn proofs() -> Proofs {
        Proofs::from_source("s".into(), "p".into(), SOURCE)
    }

    #[test]
    fn tests_and_reasons_are_read_from_the_source() {
        let proofs = proofs();
        let tests: Vec<_> = proofs.tests.values().flatten().collect();
        assert_eq!(tests, ["done_sends_one_request", "not_found_and_so_on"]);
        assert_eq!(
            proofs.reasons["pending"],
            "The response comes at once, or not at all."
        );
    }

    #[test]
    fn missing_proofs_and_superfluous_reasons_are_reported() {
        let faults = proofs().faults().join("\n");
        for part in [
            "no proof of already, invalid, throttled, failed, permissions; ",
            "because a test done_… exists",
        ] {
            assert!(faults.contains(part), "{faults}");
        }
        assert_eq!(faults.lines().count(), 2, "{faults}");
    }

    #[test]
    fn equal_reasons_share_one_number() {
        let second = Proofs {
            step: "t".into(),
            ..proofs()
        };
        let text = proof_matrix(&[proofs(), second], Proofs::test_count);
        assert_eq!(text.matches("— (2)").count(), 2, "{text}");
        assert!(
            text.contains("\n2. The response comes at once, or not at all.\n"),
            "{text}"
        );
        assert!(!text.contains("\n3. "), "{text}");
    }
}

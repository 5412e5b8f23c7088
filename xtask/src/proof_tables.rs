//! Which proofs every step has: read from the names of its tests, so that no list of them is kept
//! by hand.

use std::collections::BTreeMap;

use stepward_cli::steps::page::table;
use stepward_cli::workspace::Function;

use stepward_testkit::build::steps;

use crate::files;

/// The proofs: what a test's name begins with, and what such a test shows.
pub const KEYS: [(&str, &str); 8] = [
    (
        "done",
        "It does what its page says: the test asserts the requests that AWS gets, and the output.",
    ),
    (
        "already",
        "What is already as it should be is success, and nothing is done twice.",
    ),
    ("not_found", "What does not exist is `NotFound`."),
    (
        "invalid",
        "Bad parameters are `InvalidInput` before any call to AWS.",
    ),
    ("throttled", "AWS asks to slow down once; the step goes on."),
    (
        "pending",
        "It goes on in another invocation, and after a lost answer, without starting anything twice.",
    ),
    (
        "failed",
        "What AWS itself reports as failed fails the step, with AWS's reason.",
    ),
    (
        "permissions",
        "On the local cloud with IAM enforced, a role with exactly the declared permissions is enough; without any one \
         of the actions the step is `AccessDenied`, and names it.",
    ),
];

/// The proofs of one step.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Proofs {
    /// The step's name.
    pub step: String,
    /// The crate that it belongs to.
    pub package: String,
    /// The names of its tests by key.
    pub tests: BTreeMap<&'static str, Vec<String>>,
    /// Why there is no test, by key: from a line `// no proof of KEY: reason`.
    pub reasons: BTreeMap<String, String>,
}

/// The proofs of all steps, by service and name.
pub fn read() -> Result<Vec<Proofs>, String> {
    let mut steps = steps()?;
    steps.sort_by(|one, other| (&one.package, &one.name).cmp(&(&other.package, &other.name)));
    let read = |step: Function| {
        let source = files::read(&format!(
            "functions/{}/src/steps/{}.rs",
            step.service(),
            step.name
        ))?;
        Ok(Proofs::of_source(step.name, step.package, &source))
    };
    steps.into_iter().map(read).collect()
}

impl Proofs {
    fn of_source(step: String, package: String, source: &str) -> Self {
        let module = source
            .split_once("#[cfg(test)]")
            .map_or("", |(_, module)| module);
        let mut tests: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut reasons: BTreeMap<String, String> = BTreeMap::new();
        let (mut is_test, mut reason_for) = (false, None::<String>);
        for line in module.lines().map(str::trim) {
            if let Some(text) = line.strip_prefix("//") {
                let begun = text
                    .trim()
                    .strip_prefix("no proof of ")
                    .and_then(|text| text.split_once(": "));
                if let Some((key, text)) = begun {
                    reasons.insert(key.into(), capital(text.trim()));
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
                    .find(|key| proves(name, key));
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

    /// What is wrong with them, a line each: proofs with neither test nor reason, or with both.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let step = &self.step;
        let keys = || KEYS.iter().map(|(key, _)| *key);
        let is_reasoned = |key: &str| self.reasons.contains_key(key);
        let missing: Vec<_> = keys()
            .filter(|key| !self.tests.contains_key(key) && !is_reasoned(key))
            .collect();
        let mut faults = Vec::new();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            faults.push(format!(
                "{step} has no proof of {missing}: a test whose name begins so, or a line `// no proof of KEY: why.`"
            ));
        }
        for (key, reason) in &self.reasons {
            if !keys().any(|known| known == key) {
                faults.push(format!(
                    "{step} says why it has no proof of {key}, which is none"
                ));
            } else if self.tests.contains_key(key.as_str()) {
                faults.push(format!(
                    "{step} says why it has no proof of {key}, and has a test {key}_…"
                ));
            } else if !reason.ends_with('.') {
                faults.push(format!(
                    "{step} says why it has no proof of {key}, but in no sentence: {reason:?}"
                ));
            }
        }
        faults
    }

    /// The step's own row, for the end of its page.
    #[must_use]
    pub fn of_one_step(&self) -> String {
        let row = |(key, _): &(&'static str, &str)| {
            let cell = match self.reasons.get(*key) {
                Some(reason) => format!("— {reason}"),
                None => self.counted(key),
            };
            [(*key).to_owned(), cell]
        };
        let rows = table(&["proof", "tests"], KEYS.iter().map(row));
        format!("\n{rows}\n\nWhat these mean and how to run them: [PROOFS.md](../PROOFS.md).\n")
    }

    fn counted(&self, key: &str) -> String {
        self.tests
            .get(key)
            .map_or_else(|| "✘ missing".into(), |tests| format!("✔ {}", tests.len()))
    }
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters
        .next()
        .into_iter()
        .flat_map(char::to_uppercase)
        .chain(letters)
        .collect()
}

/// Whether a test's name says that it is of a proof.
#[must_use]
pub fn proves(test: &str, key: &str) -> bool {
    test.strip_prefix(key)
        .is_some_and(|rest| rest.starts_with('_'))
}

/// The table of all steps; a dash stands where a proof cannot apply, with the number of its reason
/// below.
pub fn matrix(proofs: &[Proofs], cell: impl Fn(&Proofs, &'static str) -> String) -> String {
    let mut notes: Vec<&str> = Vec::new();
    let mut rows = Vec::new();
    for step in proofs {
        let mut row = vec![step.step.clone()];
        for (key, _) in KEYS {
            row.push(match step.reasons.get(key) {
                Some(reason) => {
                    let known = notes.iter().position(|note| note == reason);
                    let number = known.unwrap_or_else(|| {
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
    format!("{}\n{}", table(&heading, rows), notes)
        .trim_end()
        .to_owned()
        + "\n"
}

/// The page `docs/PROOFS.md`.
#[must_use]
pub(crate) fn page(proofs: &[Proofs]) -> String {
    let keys = table(
        &["proof", "what its tests show"],
        KEYS.iter()
            .map(|(key, text)| [format!("`{key}`"), (*text).into()]),
    );
    format!(
        "# Proofs

Written by `cargo xtask generate` from the names of the steps' tests: a test's name begins with what it proves. A test
fails when a step lacks one.

{keys}

All but `permissions` are unit tests against canned answers of AWS, and assert what is sent. They run in `cargo test`.
`cargo xtask proofs` runs them alone and prints the table below with what came of it; one step's, one proof's:

```
cargo test -p stepward-ec2 ec2_start::tests::throttled_
```

A number is how many tests there are; a dash, why there can be none. Nothing here has been run on AWS itself: each
[step's page](steps/README.md) says what the local cloud cannot show.

{}",
        matrix(proofs, Proofs::counted)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = r#"
async fn done_is_no_test_here() {}
#[cfg(test)]
mod tests {
    // no proof of pending: the answer comes at once,
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
        Proofs::of_source("s".into(), "p".into(), SOURCE)
    }

    #[test]
    fn tests_and_reasons_are_read_from_the_source() {
        let found = proofs();
        let tests: Vec<_> = found.tests.values().flatten().collect();
        assert_eq!(tests, ["done_sends_one_request", "not_found_and_so_on"]);
        assert_eq!(
            found.reasons["pending"],
            "The answer comes at once, or not at all."
        );
    }

    #[test]
    fn a_missing_proof_and_a_reason_too_many_are_faults() {
        let faults = proofs().faults().join("\n");
        for part in [
            "no proof of already, invalid, throttled, failed, permissions: ",
            "and has a test done_…",
        ] {
            assert!(faults.contains(part), "{faults}");
        }
        assert_eq!(faults.lines().count(), 2, "{faults}");
    }

    #[test]
    fn reasons_are_numbered_once() {
        let other = Proofs {
            step: "t".into(),
            ..proofs()
        };
        let text = matrix(&[proofs(), other], Proofs::counted);
        assert_eq!(text.matches("— (2)").count(), 2, "{text}");
        assert!(
            text.contains("\n2. The answer comes at once, or not at all.\n"),
            "{text}"
        );
        assert!(!text.contains("\n3. "), "{text}");
    }
}

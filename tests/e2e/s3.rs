//! A job of S3 steps that transfers files of the local root and objects of two accounts of one
//! customer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stepward_cli::jobs::Outcome;

use crate::long_job::run_job_of_steps;
use crate::test_stack::{CustomerAccount, TestStack, with_stack};

/// The steps of the job, in the format of the long job. The uploaded objects are deleted with their
/// bucket, and the objects of the other account are moved to the local root.
pub(crate) const STEPS: [(&str, &str); 6] = [
    ("s3-create-bucket", "{ 'uri': $input.bucket }"),
    (
        "s3-copy",
        "{ 'source': $input.files, 'destination': $input.up, 'recursive': true, \
         'filters': [{ 'exclude': '*' }, { 'include': '*.log' }] }",
    ),
    (
        "s3-sync",
        "{ 'source': $input.archive, 'source_account': 'archive', 'destination': $input.copy, \
         'filters': [{ 'exclude': 'backups/*' }] }",
    ),
    (
        "s3-move",
        "{ 'source': $input.copy, 'destination': $input.down, 'recursive': true }",
    ),
    ("s3-delete", "{ 'uri': $input.deep, 'recursive': true }"),
    (
        "s3-delete-bucket",
        "{ 'uri': $input.bucket, 'force': true }",
    ),
];

/// A customer with two accounts with buckets, and files in the local root.
pub(crate) struct TransferSetup {
    pub(crate) prod: CustomerAccount,
    archive: CustomerAccount,
    folder: PathBuf,
    buckets_before: Vec<String>,
    /// The input of a job of [`STEPS`].
    pub(crate) input: Value,
}

pub(crate) async fn set_up_transfers(test_stack: &TestStack) -> TransferSetup {
    let prod = onboarded(test_stack, test_stack.create_customer_without_role().await).await;
    let archive = test_stack
        .account(&prod.customer, "archive", &test_stack.new_names().1)
        .await;
    let archive = onboarded(test_stack, archive).await;
    let folder = test_stack.local.files().unwrap().join(&prod.customer);
    for (path, text) in [
        ("up/a.log", "a"),
        ("up/deep/b \u{e4}.log", "b"),
        ("up/empty.log", ""),
        ("up/c.tmp", "c"),
    ] {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    for (key, text) in [("2025/one.csv", "1"), ("2025/two & three.csv", "2,3")] {
        archive
            .owner
            .s3()
            .put_object()
            .bucket(bucket(&archive))
            .key(key)
            .body(text.as_bytes().to_vec().into())
            .send()
            .await
            .unwrap();
    }
    let buckets_before = buckets(&prod).await;
    let (customer, made) = (
        &prod.customer,
        format!("s3://stepward-night-{}", prod.owner.account),
    );
    let input = json!({
        "target": { "customer": customer, "account": "prod" },
        "files": format!("{customer}/up"),
        "down": format!("{customer}/down"),
        "bucket": made,
        "up": format!("{made}/up"),
        "deep": format!("{made}/up/deep/"),
        "copy": format!("{made}/archive"),
        "archive": format!("s3://{}", bucket(&archive)),
    });
    TransferSetup {
        prod,
        archive,
        folder,
        buckets_before,
        input,
    }
}

impl TransferSetup {
    /// Checks the effects of the steps with the credentials of the accounts' owners and in the
    /// local root.
    pub(crate) async fn assert_effects(&self) {
        assert_eq!(buckets(&self.prod).await, self.buckets_before);
        assert_eq!(
            keys(&self.archive).await,
            [
                "2025/one.csv",
                "2025/two & three.csv",
                "backups/2026-01.csv"
            ]
        );
        let down = [("2025/one.csv", "1"), ("2025/two & three.csv", "2,3")];
        assert_eq!(
            files(&self.folder.join("down")),
            down.map(|(path, text)| (path.to_owned(), text.to_owned()))
                .into()
        );
        assert_eq!(
            files(&self.folder.join("up")).len(),
            4,
            "the copied files still exist"
        );
    }
}

/// Onboards an account with buckets and with the role template of these steps.
async fn onboarded(test_stack: &TestStack, customer_account: CustomerAccount) -> CustomerAccount {
    customer_account.create_data().await;
    test_stack
        .onboard_with_template(
            &customer_account,
            &["--steps", &STEPS.map(|(step, _)| step).join(",")],
        )
        .await;
    customer_account
}

fn bucket(customer_account: &CustomerAccount) -> String {
    format!("stepward-data-{}", customer_account.owner.account)
}

async fn buckets(customer_account: &CustomerAccount) -> Vec<String> {
    let listed = customer_account
        .owner
        .s3()
        .list_buckets()
        .send()
        .await
        .unwrap();
    listed
        .buckets
        .unwrap_or_default()
        .into_iter()
        .filter_map(|bucket| bucket.name)
        .collect()
}

async fn keys(customer_account: &CustomerAccount) -> Vec<String> {
    let listed = customer_account
        .owner
        .s3()
        .list_objects_v2()
        .bucket(bucket(customer_account))
        .send()
        .await
        .unwrap();
    listed
        .contents
        .unwrap_or_default()
        .into_iter()
        .filter_map(|object| object.key)
        .collect()
}

/// Returns all files below a folder, by path.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(
                files(&entry.path())
                    .into_iter()
                    .map(|(path, text)| (format!("{name}/{path}"), text)),
            );
        } else {
            found.insert(name, std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    found
}

#[test]
fn a_job_transfers_files_between_two_accounts_of_a_customer() {
    with_stack(async |test_stack| {
        let scene = Box::pin(set_up_transfers(test_stack)).await;

        let finished = run_job_of_steps(test_stack, "test/s3", &STEPS, &scene.input).await;

        assert_eq!(finished.outcome, Outcome::Succeeded, "{finished:?}");
        let done = |step: &str, count: &str| finished.output[step][count].clone();
        assert_eq!(
            (done("s3-copy", "transferred"), done("s3-copy", "bytes")),
            (json!(3), json!(2)),
            "{finished:?}"
        );
        assert_eq!(
            (done("s3-sync", "transferred"), done("s3-sync", "bytes")),
            (json!(2), json!(4)),
            "{finished:?}"
        );
        assert_eq!(done("s3-move", "transferred"), 2, "{finished:?}");
        assert_eq!(done("s3-delete", "deleted"), 1, "{finished:?}");
        assert_eq!(done("s3-create-bucket", "created"), true, "{finished:?}");
        assert_eq!(
            done("s3-delete-bucket", "versions"),
            2,
            "two of the uploaded objects were left: {finished:?}"
        );
        scene.assert_effects().await;
    });
}

#[test]
fn a_peer_account_must_belong_to_the_same_customer() {
    with_stack(async |test_stack| {
        let acme = onboarded(test_stack, test_stack.create_customer_without_role().await).await;
        let globex = test_stack.create_customer_without_role().await;
        let globex = onboarded(
            test_stack,
            test_stack
                .account(&globex.customer, "archive", &test_stack.new_names().1)
                .await,
        )
        .await;
        let source = format!("s3://{}", bucket(&globex));
        let destination = format!("s3://{}/theirs", bucket(&acme));
        let params =
            json!({ "source": source, "source_account": "archive", "destination": destination });
        let (name, message) = test_stack
            .call_function("s3-sync", &acme.envelope(&params))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound", "{message}");
        // The bucket's name without the account does not work either.
        let params = json!({ "source": source, "destination": destination });
        assert!(
            test_stack
                .call_function("s3-sync", &acme.envelope(&params))
                .await
                .is_err()
        );
        assert_eq!(keys(&acme).await, ["backups/2026-01.csv"]);
    });
}

#[test]
fn a_path_outside_the_local_root_is_refused() {
    with_stack(async |test_stack| {
        let acme = onboarded(test_stack, test_stack.create_customer_without_role().await).await;
        let outside = test_stack.local.dir.join("ministack.log");
        let destination = format!("s3://{}/stolen", bucket(&acme));
        for source in [outside.to_str().unwrap(), "../ministack.log"] {
            let params = json!({ "source": source, "destination": destination });
            let (name, message) = test_stack
                .call_function("s3-copy", &acme.envelope(&params))
                .await
                .unwrap_err();
            assert!(
                name == "InvalidInput" && message.contains("leaves the local root"),
                "{name}: {message}"
            );
        }
        assert_eq!(keys(&acme).await, ["backups/2026-01.csv"]);
    });
}

//! The S3 steps as a job calls them: files of the deployment's local root, and buckets of two
//! accounts of one customer.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use stepward_cli::jobs::Outcome;

use crate::long_job::run;
use crate::world::{Owned, World, cut_role, in_the_world};

/// As in the long job. What is up is deleted again with its bucket, and what came from the other
/// account is moved down.
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

/// Two accounts of a customer with buckets, and files in the local root.
pub(crate) struct Scene {
    pub(crate) prod: Owned,
    archive: Owned,
    folder: PathBuf,
    buckets_before: Vec<String>,
    /// What a job of [`STEPS`] is started with.
    pub(crate) input: Value,
}

pub(crate) async fn scene(world: &World) -> Scene {
    let prod = onboarded(world, world.customer_without_role().await).await;
    let archive = world
        .account(&prod.customer, "archive", &world.new_names().1)
        .await;
    let archive = onboarded(world, archive).await;
    let folder = world.local.files().unwrap().join(&prod.customer);
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
        let put = archive
            .owner
            .s3()
            .put_object()
            .bucket(bucket(&archive))
            .key(key);
        put.body(text.as_bytes().to_vec().into())
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
    Scene {
        prod,
        archive,
        folder,
        buckets_before,
        input,
    }
}

impl Scene {
    /// What the steps leave behind, and only the accounts' owners, and who sees the folder, can
    /// tell.
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
            "what was copied is there still"
        );
    }
}

/// An account with buckets, and with the role that is made for these steps.
async fn onboarded(world: &World, owned: Owned) -> Owned {
    owned.data().await;
    let role = cut_role(
        world,
        &owned,
        &["--steps", &STEPS.map(|(step, _)| step).join(",")],
    )
    .await;
    assert!(world.onboard(&owned, &role).await.unwrap().passed());
    owned
}

fn bucket(owned: &Owned) -> String {
    format!("stepward-data-{}", owned.owner.account)
}

async fn buckets(owned: &Owned) -> Vec<String> {
    let listed = owned.owner.s3().list_buckets().send().await.unwrap();
    listed
        .buckets
        .unwrap_or_default()
        .into_iter()
        .filter_map(|bucket| bucket.name)
        .collect()
}

async fn keys(owned: &Owned) -> Vec<String> {
    let listed = owned
        .owner
        .s3()
        .list_objects_v2()
        .bucket(bucket(owned))
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

/// All files below a folder, by their path in it.
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
fn a_job_moves_files_and_objects_between_the_local_root_and_two_accounts_of_a_customer() {
    in_the_world(async |world| {
        let scene = Box::pin(scene(world)).await;

        let finished = run(world, "test/s3", &STEPS, &scene.input).await;

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
            "what was left of what came up: {finished:?}"
        );
        scene.assert_effects().await;
    });
}

#[test]
fn a_second_account_must_be_the_same_customers() {
    in_the_world(async |world| {
        let acme = onboarded(world, world.customer_without_role().await).await;
        let globex = world.customer_without_role().await;
        let globex = onboarded(
            world,
            world
                .account(&globex.customer, "archive", &world.new_names().1)
                .await,
        )
        .await;
        let source = format!("s3://{}", bucket(&globex));
        let destination = format!("s3://{}/theirs", bucket(&acme));
        let params =
            json!({ "source": source, "source_account": "archive", "destination": destination });
        let (name, message) = world
            .call("s3-sync", &acme.envelope(&params))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound", "{message}");
        // Nor by its name alone.
        let params = json!({ "source": source, "destination": destination });
        assert!(
            world
                .call("s3-sync", &acme.envelope(&params))
                .await
                .is_err()
        );
        assert_eq!(keys(&acme).await, ["backups/2026-01.csv"]);
    });
}

#[test]
fn a_path_outside_the_local_root_is_refused() {
    in_the_world(async |world| {
        let acme = onboarded(world, world.customer_without_role().await).await;
        let outside = world.local.dir.join("ministack.log");
        let destination = format!("s3://{}/stolen", bucket(&acme));
        for source in [outside.to_str().unwrap(), "../ministack.log"] {
            let params = json!({ "source": source, "destination": destination });
            let (name, message) = world
                .call("s3-copy", &acme.envelope(&params))
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

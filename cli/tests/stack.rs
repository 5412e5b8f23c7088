//! The errors for stacks that CloudFormation cannot create, and stacks that do not change.

use serde_json::json;
use stepward_cli::cloud::Cloud;
use stepward_cli::deploy::stack::{self, Outcome, Parameters, Template};
use stepward_cli::error::Result;
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::output::Progress;
use stepward_cli::workspace::Workspace;

fn start_local_cloud(name: &str) -> Result<LocalCloud> {
    let dir = Workspace::find()?
        .local_cloud()
        .join(format!("test-{name}-{}", std::process::id()));
    LocalCloud::start_private(&dir)
}

fn bucket_template(names: &[&str]) -> Template {
    let bucket =
        |name: &&str| json!({ "Type": "AWS::S3::Bucket", "Properties": { "BucketName": name } });
    let resources: serde_json::Map<_, _> = names
        .iter()
        .enumerate()
        .map(|(number, name)| (format!("Bucket{number}"), bucket(name)))
        .collect();
    Template::Body(json!({ "Resources": resources }).to_string())
}

async fn apply(cloud: &Cloud, template: &Template) -> Result<Outcome, String> {
    let applied = stack::apply_template(
        cloud,
        "test",
        template,
        &Parameters::new(),
        &Progress::hidden(),
    )
    .await;
    applied.map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_failed_stack_names_the_failed_resource_and_advice() {
    let local = start_local_cloud("failed-stack").unwrap();
    let other = Cloud::local(local.port, "999999999999", None);
    apply(&other, &bucket_template(&["taken-by-another-account"]))
        .await
        .unwrap();
    let cloud = Cloud::local(local.port, OPERATOR, None);
    let error = apply(
        &cloud,
        &bucket_template(&["free-name", "taken-by-another-account"]),
    )
    .await
    .unwrap_err();
    assert!(
        error.contains("Bucket1 (AWS::S3::Bucket)") && error.contains("ROLLBACK_COMPLETE"),
        "{error}"
    );
    assert!(
        error.contains("delete-stack --stack-name test") && error.contains("the local cloud"),
        "{error}"
    );
    let error = apply(&cloud, &bucket_template(&["free-name"]))
        .await
        .unwrap_err();
    assert!(error.contains("it was never created"), "{error}");
    std::fs::remove_dir_all(&local.dir).unwrap();
}

#[tokio::test]
async fn a_template_without_changes_succeeds() {
    let local = start_local_cloud("same-stack").unwrap();
    let cloud = Cloud::local(local.port, OPERATOR, None);
    assert_eq!(
        apply(&cloud, &bucket_template(&["one"])).await,
        Ok(Outcome::Changed)
    );
    assert_eq!(
        apply(&cloud, &bucket_template(&["one"])).await,
        Ok(Outcome::Unchanged)
    );
    assert_eq!(
        apply(&cloud, &bucket_template(&["one", "two"])).await,
        Ok(Outcome::Changed)
    );
    std::fs::remove_dir_all(&local.dir).unwrap();
}

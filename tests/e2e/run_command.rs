//! Tests of the local cloud's Run Command: commands run and end as processes, and an unreachable
//! node has the right status.

use std::fs::{read_link, read_to_string};
use std::path::Path;
use std::time::Duration;

use aws_sdk_ssm::Client;
use aws_sdk_ssm::operation::get_command_invocation::GetCommandInvocationOutput;
use stepward_cli::cloud::Cloud;
use stepward_cli::local::{LocalCloud, OPERATOR};
use stepward_cli::workspace::Workspace;
use stepward_testkit::nodes;

use crate::test_stack::REGION;

/// A command that starts a process in its process group, and another one outside. It writes their
/// IDs to files in `dir`, whose names begin with the instance's ID: that is the name of the
/// directory in which the commands of an instance run.
fn long_command(dir: &Path) -> String {
    let file = format!("'{}'/$(basename \"$PWD\")", dir.display());
    format!("setsid sleep 600 & echo $! > {file}-other; sleep 600 & echo $! > {file}-own; wait")
}

/// Runs a test with its own local cloud and two nodes.
fn with_nodes<F: Future<Output = ()>>(
    name: &str,
    test: impl FnOnce(LocalCloud, Cloud, Vec<String>) -> F,
) {
    let dir = Workspace::find()
        .unwrap()
        .local_cloud()
        .join(format!("run-command-{name}-{}", std::process::id()));
    let local = LocalCloud::start_private(&dir)
        .unwrap_or_else(|error| panic!("the local cloud did not start: {error}"));
    let owner = Cloud::local(local.port, OPERATOR, Some(REGION));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let ids = nodes::launch_nodes(&owner, "prod", 2).await.unwrap();
        tokio::time::timeout(Duration::from_mins(1), test(local, owner, ids))
            .await
            .expect("the test ends within its limit");
    });
    std::fs::remove_dir_all(dir).unwrap();
}

async fn send(ssm: &Client, ids: &[String], command: &str) -> String {
    let request = ssm
        .send_command()
        .set_instance_ids(Some(ids.to_vec()))
        .document_name("AWS-RunShellScript");
    let sent = request
        .parameters("commands", vec![command.to_owned()])
        .send()
        .await
        .unwrap();
    sent.command.unwrap().command_id.unwrap()
}

/// Waits until an invocation has the given status details, and returns it.
async fn invocation(
    ssm: &Client,
    command: &str,
    id: &str,
    wanted: &str,
) -> GetCommandInvocationOutput {
    loop {
        // As on AWS, the invocation does not exist in the first moment.
        if let Ok(found) = ssm
            .get_command_invocation()
            .command_id(command)
            .instance_id(id)
            .send()
            .await
            && found.status_details() == Some(wanted)
        {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until [`long_command`] has written the ID of a process on an instance, and returns it.
async fn process(dir: &Path, id: &str, name: &str) -> String {
    let file = dir.join(format!("{id}-{name}"));
    loop {
        match read_to_string(&file) {
            Ok(number) if number.ends_with('\n') => return number.trim().to_owned(),
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn is_running(process: &str) -> bool {
    read_link(format!("/proc/{process}/cwd")).is_ok()
}

/// Waits up to 2 s until a process has ended. Returns false if it still runs.
async fn has_ended(process: &str) -> bool {
    for _ in 0..40 {
        if !is_running(process) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}

#[test]
fn a_cancelled_command_is_killed_with_its_child_processes() {
    with_nodes("cancel", |local, owner, ids| async move {
        let ssm = Client::new(&owner.config);
        let command = send(&ssm, &ids, &long_command(&local.dir)).await;
        let own = process(&local.dir, &ids[0], "own").await;
        assert!(is_running(&own));
        ssm.cancel_command()
            .command_id(&command)
            .instance_ids(&ids[0])
            .send()
            .await
            .unwrap();
        let ended = invocation(&ssm, &command, &ids[0], "Cancelled").await;
        assert_eq!(ended.response_code(), 137);
        assert!(has_ended(&own).await, "the process outlived its command");
        let other = invocation(&ssm, &command, &ids[1], "InProgress").await;
        assert_eq!(
            other.response_code(),
            -1,
            "the other node's command was cancelled with it"
        );
    });
}

#[test]
fn all_command_processes_end_with_the_local_cloud() {
    with_nodes("end", |local, owner, ids| async move {
        send(&Client::new(&owner.config), &ids, &long_command(&local.dir)).await;
        let own = process(&local.dir, &ids[0], "own").await;
        let other = process(&local.dir, &ids[1], "other").await;
        assert!(is_running(&own) && is_running(&other));
        drop(local);
        assert!(has_ended(&own).await && has_ended(&other).await);
    });
}

#[test]
fn stopped_lost_and_unmanaged_nodes_have_different_statuses() {
    with_nodes("nodes", |local, owner, ids| async move {
        let (ssm, ec2) = (Client::new(&owner.config), owner.ec2());
        ec2.stop_instances()
            .instance_ids(&ids[0])
            .send()
            .await
            .unwrap();
        let profiles = ec2
            .describe_iam_instance_profile_associations()
            .send()
            .await
            .unwrap();
        let profiles = profiles.iam_instance_profile_associations();
        let lost = profiles
            .iter()
            .find(|one| one.instance_id() == Some(&ids[1]))
            .unwrap();
        let lost = lost.association_id().unwrap();
        ec2.disassociate_iam_instance_profile()
            .association_id(lost)
            .send()
            .await
            .unwrap();

        let command = send(&ssm, &ids, "echo ran").await;
        let undeliverable = invocation(&ssm, &command, &ids[1], "Undeliverable").await;
        assert_eq!(undeliverable.response_code(), -1);
        invocation(&ssm, &command, &ids[0], "Delayed").await;
        ec2.start_instances()
            .instance_ids(&ids[0])
            .send()
            .await
            .unwrap();
        let ran = invocation(&ssm, &command, &ids[0], "Success").await;
        assert_eq!(ran.standard_output_content(), Some("ran\n"));

        ec2.terminate_instances()
            .instance_ids(&ids[1])
            .send()
            .await
            .unwrap();
        let request = ssm
            .send_command()
            .set_instance_ids(Some(ids))
            .document_name("AWS-RunShellScript");
        let refused = request
            .parameters("commands", vec!["true".to_owned()])
            .send()
            .await
            .unwrap_err();
        assert!(refused.into_service_error().is_invalid_instance_id());
        drop(local);
    });
}

//! Nobody reaches an account that is not theirs, and a step does only what it declares: with IAM
//! enforced.

use serde_json::{Value, json};
use stepward::access::trust::{TrustProof, TrustVerdict};
use stepward::model::customer::Trust;

use crate::world::{Owned, STACK, World, customer_role, in_the_world, made_role, zipped};

const START: &str = "ec2-start";

fn start_params() -> Value {
    json!({ "tags": { "stepward:morning-check": "start" } })
}

#[test]
fn sts_refuses_the_broker_without_the_external_id_and_with_a_wrong_one() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let answer = world
            .call("validate-credentials", &acme.envelope(&json!({})))
            .await
            .unwrap();
        let proof: TrustProof = serde_json::from_value(answer["output"]["trust"].clone()).unwrap();
        assert_eq!(proof.without_external_id, TrustVerdict::Refused);
        assert_eq!(proof.wrong_external_id, TrustVerdict::Refused);
        assert_eq!(proof.right_external_id, TrustVerdict::Accepted);
        assert_eq!(answer["output"]["account_id"], json!(acme.owner.account));
    });
}

#[test]
fn a_role_that_asks_for_another_external_id_is_access_denied() {
    in_the_world(async |world| {
        let owned = world.customer_without_role().await;
        let mut role = customer_role(world, &owned).await;
        role.parameters.insert(
            "ExternalId".into(),
            "an-external-id-of-somebody-else".into(),
        );
        let checked = world.onboard(&owned, &role).await.unwrap();
        assert_eq!(
            checked.finished.error.as_deref(),
            Some("AccessDenied"),
            "{checked:?}"
        );
        assert_eq!(checked.account.trust, Trust::Unproven);
    });
}

#[test]
fn somebody_elses_root_user_is_not_the_broker() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let record = world.record(&acme).await;
        // Even with the external ID: the trust policy names the broker's role, not the operator's
        // account.
        let (_, stranger) = world.new_names();
        for cloud in [&world.operator, &world.operator.other_account(&stranger)] {
            let assume = cloud
                .sts()
                .assume_role()
                .role_arn(record.role_arn.as_ref().unwrap())
                .role_session_name("x");
            let refused = assume
                .external_id(record.external_id.expose())
                .send()
                .await
                .unwrap_err();
            assert_eq!(
                refused.into_service_error().meta().code(),
                Some("AccessDenied")
            );
        }
    });
}

#[test]
fn a_role_that_one_customer_has_cannot_be_registered_for_another() {
    in_the_world(async |world| {
        let acme = world.customer().await;
        let role = world.record(&acme).await.role_arn.unwrap();
        let (thief, _) = world.new_names();
        world
            .store
            .add_customer("test", &thief, None, None)
            .await
            .unwrap();
        let account = world.account(&thief, "mine", &acme.owner.account).await;
        let record = world.record(&account).await;
        let refused = world
            .store
            .set_role("test", &record, &role)
            .await
            .unwrap_err();
        assert_eq!(refused.name, stepward::ErrorName::Conflict);
        assert!(
            refused.message.contains("registered for another account"),
            "{refused}"
        );
        assert!(
            !refused.message.contains(&acme.customer),
            "it does not tell whose: {refused}"
        );
    });
}

#[test]
fn even_an_unclaimed_role_of_another_customer_does_not_open() {
    in_the_world(async |world| {
        // The thief is first to register the role; the owner's trust policy asks for the owner's
        // external ID.
        let owned = world.customer_without_role().await;
        let (thief, _) = world.new_names();
        world
            .store
            .add_customer("test", &thief, None, None)
            .await
            .unwrap();
        let stolen = world.account(&thief, "prod", &owned.owner.account).await;
        let checked = world
            .onboard(&stolen, &customer_role(world, &owned).await)
            .await
            .unwrap();
        assert_eq!(
            checked.finished.error.as_deref(),
            Some("AccessDenied"),
            "{checked:?}"
        );
        let (name, _) = world
            .call(START, &stolen.envelope(&start_params()))
            .await
            .unwrap_err();
        assert_eq!(name, "TrustBroken");
    });
}

#[test]
fn no_envelope_of_one_customer_reaches_the_account_of_another() {
    in_the_world(async |world| {
        let (acme, globex) = tokio::join!(world.customer(), world.customer());
        let theirs = world.record(&globex).await;
        let (role, id) = (
            theirs.role_arn.clone().unwrap(),
            theirs.external_id.expose().to_owned(),
        );
        let with = |place: &str, value: Value| {
            let mut envelope = acme.envelope(&start_params());
            *envelope.pointer_mut(place).unwrap() = value;
            envelope
        };
        let target = |extra: Value| {
            let mut target = json!({ "customer": acme.customer, "account": "prod" });
            target
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            with("/target", target)
        };
        let params = |extra: Value| {
            let mut params = start_params();
            params
                .as_object_mut()
                .unwrap()
                .extend(extra.as_object().unwrap().clone());
            with("/params", params)
        };
        for (envelope, name) in [
            (target(json!({ "role_arn": role })), "InvalidInput"),
            (target(json!({ "external_id": id })), "InvalidInput"),
            (
                target(json!({ "account_id": theirs.account_id })),
                "InvalidInput",
            ),
            (target(json!({ "account": theirs.account_id })), "NotFound"),
            (
                target(json!({ "account": format!("../{}/prod", globex.customer) })),
                "InvalidInput",
            ),
            (
                target(json!({ "account": format!("prod#CUSTOMER#{}", globex.customer) })),
                "InvalidInput",
            ),
            (
                params(json!({ "role_arn": role, "external_id": id })),
                "InvalidInput",
            ),
            (
                params(json!({ "account": theirs.account_id })),
                "InvalidInput",
            ),
            (
                params(json!({ "target": { "customer": globex.customer, "account": "prod" } })),
                "InvalidInput",
            ),
        ] {
            let (refused, message) = world.call(START, &envelope).await.unwrap_err();
            assert_eq!(refused, name, "{envelope}: {message}");
        }
        // Naming the other's resources reaches one's own account only, where they do not exist.
        let ids = globex.run_instances(1).await;
        let (name, _) = world
            .call("ec2-stop", &acme.envelope(&json!({ "instance_ids": ids })))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound");
        let bucket =
            json!({ "uri": format!("s3://stepward-data-{}/backups/", globex.owner.account) });
        let (name, _) = world
            .call("s3-list", &acme.envelope(&bucket))
            .await
            .unwrap_err();
        assert!(
            ["AccessDenied", "NotFound"].contains(&name.as_str()),
            "{name}"
        );
        assert_eq!(
            globex.instance_states().await,
            ["stopped", "stopped", "running"]
        );
    });
}

/// A step made for tests, deployed beside the real ones as the broker; see `tests/rogue_step.rs`.
async fn rogue(world: &World) {
    use aws_sdk_lambda::types::{Environment, FunctionCode, Runtime};
    let lambda = aws_sdk_lambda::Client::new(&world.operator.config);
    let like = lambda
        .get_function_configuration()
        .function_name(format!("{STACK}-ec2-start"))
        .send()
        .await
        .unwrap();
    let bootstrap = std::fs::read(env!("CARGO_BIN_EXE_rogue-step")).unwrap();
    let variables = like
        .environment()
        .and_then(|environment| environment.variables())
        .cloned();
    let created = lambda
        .create_function()
        .function_name(format!("{STACK}-rogue-step"))
        .runtime(Runtime::Providedal2023)
        .handler("bootstrap")
        .role(world.broker())
        .timeout(60)
        .environment(Environment::builder().set_variables(variables).build())
        .code(
            FunctionCode::builder()
                .zip_file(zipped("bootstrap", &bootstrap).into())
                .build(),
        )
        .send()
        .await;
    if let Err(error) = created {
        let error = error.into_service_error();
        assert!(error.is_resource_conflict_exception(), "{error}");
    }
}

async fn generous(world: &World) -> Owned {
    let owned = world.customer_without_role().await;
    let id = world.record(&owned).await.external_id.expose().to_owned();
    let everything = json!([{ "Effect": "Allow", "Action": "*", "Resource": "*" }]);
    assert!(
        world
            .onboard(&owned, &made_role(world, Some(&id), &everything))
            .await
            .unwrap()
            .passed()
    );
    owned
}

#[test]
fn an_action_that_the_step_did_not_declare_is_denied_although_the_role_allows_it() {
    in_the_world(async |world| {
        rogue(world).await;
        let owned = generous(world).await;
        let ids = owned.run_instances(1).await;
        let (name, message) = world
            .call(
                "rogue-step",
                &owned.envelope(&json!({ "do": "undeclared" })),
            )
            .await
            .unwrap_err();
        assert_eq!(name, "AccessDenied", "{message}");
        assert_eq!(
            owned.instance_states().await,
            ["running"],
            "{ids:?} were not touched"
        );
        // The same role runs what is declared.
        let stopped = world
            .call("ec2-stop", &owned.envelope(&json!({ "instance_ids": ids })))
            .await;
        assert!(stopped.is_ok(), "{stopped:?}");
    });
}

#[test]
fn the_broker_itself_can_do_nothing_in_a_customers_account() {
    in_the_world(async |world| {
        rogue(world).await;
        let owned = generous(world).await;
        let (name, message) = world
            .call("rogue-step", &owned.envelope(&json!({ "do": "as-broker" })))
            .await
            .unwrap_err();
        assert_eq!(name, "AccessDenied", "{message}");
    });
}

#[test]
fn an_action_that_the_role_lacks_is_access_denied_and_named() {
    in_the_world(async |world| {
        let owned = world.customer_without_role().await;
        owned.data().await;
        let id = world.record(&owned).await.external_id.expose().to_owned();
        for (allowed, missing) in [
            ("ec2:DescribeInstances", "ec2:StartInstances"),
            ("ec2:StartInstances", "ec2:DescribeInstances"),
        ] {
            let statements = json!([{ "Effect": "Allow", "Action": allowed, "Resource": "*" }]);
            assert!(
                world
                    .onboard(&owned, &made_role(world, Some(&id), &statements))
                    .await
                    .unwrap()
                    .passed()
            );
            let (name, message) = world
                .call(START, &owned.envelope(&start_params()))
                .await
                .unwrap_err();
            assert_eq!(name, "AccessDenied");
            assert!(message.contains(missing), "{message}");
            assert!(
                message.contains(&format!("[{}/prod]", owned.customer))
                    && !message.contains("arn:"),
                "{message}"
            );
        }
        assert_eq!(owned.instance_states().await, ["stopped", "stopped"]);
    });
}

#[test]
fn the_session_policy_narrows_to_the_chosen_instances() {
    in_the_world(async |world| {
        rogue(world).await;
        let owned = generous(world).await;
        let ids = owned.run_instances(2).await;
        let stop_one = owned.envelope(&json!({ "instance_ids": [ids[0]] }));
        world.call("ec2-stop", &stop_one).await.unwrap();
        let mut states = owned.instance_states().await;
        states.sort();
        assert_eq!(states, ["running", "stopped"]);
    });
}

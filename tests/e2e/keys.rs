//! Secrets by `keys/…` paths: stored by the operator, read by steps for their own customer only,
//! shown nowhere.

use aws_sdk_lambda::types::{FunctionCode, Runtime};
use serde_json::{Value, json};

use crate::world::{Owned, World, cut_role, in_the_world, zipped};

const SECRET: &str = "correct horse battery staple";
/// Says whether it got the secret, and gives it away in its answer and in its log.
const GOSSIP: &str = "\
def handler(event, context):
    print('got', event['password'])
    return {'right': event['password'] == 'correct horse battery staple', 'said': 'it is ' + event['password']}
";

/// A customer with the role that the Lambda steps need and a function that gives secrets away.
async fn customer(world: &World) -> Owned {
    let owned = world.customer_without_role().await;
    let role = cut_role(world, &owned, &["--steps", "lambda-invoke,lambda-run-code"]).await;
    assert!(world.onboard(&owned, &role).await.unwrap().passed());
    let lambda = aws_sdk_lambda::Client::new(&owned.owner.config);
    let create = lambda
        .create_function()
        .function_name("gossip")
        .runtime(Runtime::Python312)
        .handler("index.handler");
    let code = FunctionCode::builder()
        .zip_file(zipped("index.py", GOSSIP.as_bytes()).into())
        .build();
    create
        .role(owned.function_role().await)
        .code(code)
        .send()
        .await
        .unwrap();
    owned
}

fn tell(owned: &Owned, key: &str) -> Value {
    owned.envelope(&json!({ "function_name": "gossip", "payload": { "password": key } }))
}

fn text(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_step_gets_its_customers_secret_and_shows_it_nowhere() {
    in_the_world(async |world| {
        let acme = customer(world).await;
        let path = format!("keys/{}/database/password", acme.customer);
        let set = world.stepward_reading(&format!("{SECRET}\n"), &["keys", "set", &path], false);
        assert!(
            set.status.success() && !text(&set).contains(SECRET),
            "{}",
            text(&set)
        );

        let answer = world
            .call("lambda-invoke", &tell(&acme, &path))
            .await
            .unwrap();
        assert_eq!(
            answer["output"]["payload"],
            json!({ "right": true, "said": "it is ***" }),
            "{answer}"
        );
        assert!(!answer.to_string().contains(SECRET), "{answer}");
        assert!(
            answer.to_string().contains("got ***"),
            "the function's log is in the answer: {answer}"
        );
        let logs = world.logs().await;
        assert!(
            logs.iter().any(|line| line.contains(&acme.customer)),
            "there is something to look through"
        );
        assert_eq!(logs.iter().find(|line| line.contains(SECRET)), None);

        // A name is shown everywhere, so a secret cannot be one.
        let envelope = acme.envelope(&json!({ "function_name": path }));
        let (name, message) = world.call("lambda-invoke", &envelope).await.unwrap_err();
        assert_eq!(name, "InvalidInput", "{message}");
        assert!(!message.contains(SECRET), "{message}");
    });
}

#[test]
fn a_key_of_another_customer_a_lost_one_and_a_removed_one_are_refused() {
    in_the_world(async |world| {
        let (acme, globex) = tokio::join!(customer(world), customer(world));
        let path = format!("keys/{}/token", globex.customer);
        assert!(
            world
                .stepward_reading(SECRET, &["keys", "set", &path], false)
                .status
                .success()
        );

        let (name, message) = world
            .call("lambda-invoke", &tell(&acme, &path))
            .await
            .unwrap_err();
        assert_eq!(name, "AccessDenied", "{message}");
        assert!(
            message.contains(&format!("keys/{}/…", acme.customer)),
            "{message}"
        );
        let lost = format!("keys/{}/lost", acme.customer);
        let (name, message) = world
            .call("lambda-invoke", &tell(&acme, &lost))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound", "{message}");
        assert!(
            message.contains(&format!("stepward keys set {lost}")),
            "{message}"
        );

        // What a step has started can be stopped also when the key is gone.
        let role = format!("arn:aws:iam::{}:role/functions", acme.owner.account);
        let code = json!({ "execution_role_arn": role, "runtime": "Python", "code": "x = 1", "payload": lost });
        let mut cancel = acme.envelope(&code);
        cancel["cancel"] = json!(true);
        world.call("lambda-run-code", &cancel).await.unwrap();

        let kept = world.stepward(&["customer", "remove", &globex.customer, "--yes"], false);
        assert!(
            kept.status.code() == Some(2) && text(&kept).contains(&path),
            "{}",
            text(&kept)
        );
        assert_eq!(
            world
                .stepward(&["keys", "remove", &path], false)
                .status
                .code(),
            Some(2),
            "only with --yes"
        );
        assert!(
            world
                .stepward(&["keys", "remove", &path, "--yes"], false)
                .status
                .success()
        );
        let (name, message) = world
            .call("lambda-invoke", &tell(&globex, &path))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound", "{message}");
        // What was removed can be set again.
        let set = world.stepward_reading(SECRET, &["keys", "set", &path], false);
        assert!(set.status.success(), "{}", text(&set));
        world
            .call("lambda-invoke", &tell(&globex, &path))
            .await
            .unwrap();
    });
}

#[test]
fn keys_are_listed_without_values_and_bad_ones_are_not_stored() {
    in_the_world(async |world| {
        let acme = world.customer_without_role().await.customer;
        for name in ["b", "a"] {
            let set = world.stepward_reading(
                SECRET,
                &["keys", "set", &format!("keys/{acme}/{name}")],
                true,
            );
            assert!(set.status.success(), "{}", text(&set));
        }
        let listed = world.stepward(&["keys", "list", &acme], true);
        let keys: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let paths: Vec<_> = keys
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["path"].as_str().unwrap())
            .collect();
        assert_eq!(paths, [format!("keys/{acme}/a"), format!("keys/{acme}/b")]);
        assert!(!text(&listed).contains(SECRET));

        for (input, path, tells) in [
            ("short", format!("keys/{acme}/c"), "8 to 65536"),
            (
                SECRET,
                "keys/nobody-at-all/c".to_owned(),
                "customer \"nobody-at-all\" does not exist",
            ),
            (SECRET, format!("keys/{acme}"), "is not a key path"),
        ] {
            let refused = world.stepward_reading(input, &["keys", "set", &path], false);
            assert!(
                !refused.status.success() && text(&refused).contains(tells),
                "{path}: {}",
                text(&refused)
            );
        }
    });
}

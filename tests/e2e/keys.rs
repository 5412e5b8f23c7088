//! Key storage: the operator stores a secret under a `keys/…` path. Steps can read only the secrets
//! of their own customer, and never show them.

use aws_sdk_lambda::types::{FunctionCode, Runtime};
use serde_json::{Value, json};

use crate::test_stack::{CustomerAccount, TestStack, create_zip, with_stack};

const SECRET: &str = "correct horse battery staple";
/// A function that returns whether it received the secret, and leaks the secret in its response and
/// its log.
const LEAKING_FUNCTION: &str = "\
def handler(event, context):
    print('got', event['password'])
    is_right = event['password'] == 'correct horse battery staple'
    return {'right': is_right, 'said': 'it is ' + event['password']}
";

/// Creates a customer with the role of the Lambda steps and a function that leaks secrets.
async fn create_customer(test_stack: &TestStack) -> CustomerAccount {
    let customer_account = test_stack.create_customer_without_role().await;
    test_stack
        .onboard_with_template(
            &customer_account,
            &["--steps", "lambda-invoke,lambda-run-code"],
        )
        .await;
    let lambda = aws_sdk_lambda::Client::new(&customer_account.owner.config);
    let create = lambda
        .create_function()
        .function_name("gossip")
        .runtime(Runtime::Python312)
        .handler("index.handler");
    let code = FunctionCode::builder()
        .zip_file(create_zip("index.py", LEAKING_FUNCTION.as_bytes()).into())
        .build();
    create
        .role(customer_account.function_role().await)
        .code(code)
        .send()
        .await
        .unwrap();
    customer_account
}

fn invoke_with_key(customer_account: &CustomerAccount, key: &str) -> Value {
    customer_account.envelope(&json!({ "function_name": "gossip", "payload": { "password": key } }))
}

fn text(output: &std::process::Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_step_reads_its_customers_secret_and_never_shows_it() {
    with_stack(async |test_stack| {
        let acme = create_customer(test_stack).await;
        let path = format!("keys/{}/database/password", acme.customer);
        let set =
            test_stack.stepward_reading(&format!("{SECRET}\n"), &["keys", "set", &path], false);
        assert!(
            set.status.success() && !text(&set).contains(SECRET),
            "{}",
            text(&set)
        );

        let response = test_stack
            .call_function("lambda-invoke", &invoke_with_key(&acme, &path))
            .await
            .unwrap();
        assert_eq!(
            response["output"]["payload"],
            json!({ "right": true, "said": "it is ***" }),
            "{response}"
        );
        assert!(!response.to_string().contains(SECRET), "{response}");
        assert!(
            response.to_string().contains("got ***"),
            "the function's log is in the response: {response}"
        );
        let logs = test_stack.read_logs().await;
        assert!(
            logs.iter().any(|line| line.contains(&acme.customer)),
            "the log must contain lines of this customer"
        );
        assert_eq!(logs.iter().find(|line| line.contains(SECRET)), None);

        // A function name is visible in logs, so it cannot be a secret.
        let envelope = acme.envelope(&json!({ "function_name": path }));
        let (name, message) = test_stack
            .call_function("lambda-invoke", &envelope)
            .await
            .unwrap_err();
        assert_eq!(name, "InvalidInput", "{message}");
        assert!(!message.contains(SECRET), "{message}");
    });
}

#[test]
fn foreign_missing_and_removed_keys_are_refused() {
    with_stack(async |test_stack| {
        let (acme, globex) = tokio::join!(create_customer(test_stack), create_customer(test_stack));
        let path = format!("keys/{}/token", globex.customer);
        assert!(
            test_stack
                .stepward_reading(SECRET, &["keys", "set", &path], false)
                .status
                .success()
        );

        let (name, message) = test_stack
            .call_function("lambda-invoke", &invoke_with_key(&acme, &path))
            .await
            .unwrap_err();
        assert_eq!(name, "AccessDenied", "{message}");
        assert!(
            message.contains(&format!("keys/{}/…", acme.customer)),
            "{message}"
        );
        let lost = format!("keys/{}/lost", acme.customer);
        let (name, message) = test_stack
            .call_function("lambda-invoke", &invoke_with_key(&acme, &lost))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound", "{message}");
        assert!(
            message.contains(&format!("stepward keys set {lost}")),
            "{message}"
        );

        // A step can be cancelled even if its key no longer exists.
        let role = format!("arn:aws:iam::{}:role/functions", acme.owner.account);
        let code = json!({ "execution_role_arn": role, "runtime": "Python", "code": "x = \
             1", "payload": lost });
        let mut cancel = acme.envelope(&code);
        cancel["cancel"] = json!(true);
        test_stack
            .call_function("lambda-run-code", &cancel)
            .await
            .unwrap();

        let kept = test_stack.stepward(&["customer", "remove", &globex.customer, "--yes"], false);
        assert!(
            kept.status.code() == Some(2) && text(&kept).contains(&path),
            "{}",
            text(&kept)
        );
        assert_eq!(
            test_stack
                .stepward(&["keys", "remove", &path], false)
                .status
                .code(),
            Some(2),
            "the command needs --yes"
        );
        assert!(
            test_stack
                .stepward(&["keys", "remove", &path, "--yes"], false)
                .status
                .success()
        );
        let (name, message) = test_stack
            .call_function("lambda-invoke", &invoke_with_key(&globex, &path))
            .await
            .unwrap_err();
        assert_eq!(name, "NotFound", "{message}");
        // A removed key can be set again.
        let set = test_stack.stepward_reading(SECRET, &["keys", "set", &path], false);
        assert!(set.status.success(), "{}", text(&set));
        test_stack
            .call_function("lambda-invoke", &invoke_with_key(&globex, &path))
            .await
            .unwrap();
    });
}

#[test]
fn keys_are_listed_without_values_and_invalid_keys_refused() {
    with_stack(async |test_stack| {
        let acme = test_stack.create_customer_without_role().await.customer;
        for name in ["b", "a"] {
            let set = test_stack.stepward_reading(
                SECRET,
                &["keys", "set", &format!("keys/{acme}/{name}")],
                true,
            );
            assert!(set.status.success(), "{}", text(&set));
        }
        let listed = test_stack.stepward(&["keys", "list", &acme], true);
        let keys: Value = serde_json::from_slice(&listed.stdout).unwrap();
        let paths: Vec<_> = keys
            .as_array()
            .unwrap()
            .iter()
            .map(|key| key["path"].as_str().unwrap())
            .collect();
        assert_eq!(paths, [format!("keys/{acme}/a"), format!("keys/{acme}/b")]);
        assert!(!text(&listed).contains(SECRET));

        for (input, path, expected) in [
            ("short", format!("keys/{acme}/c"), "8 to 65536"),
            (
                SECRET,
                "keys/nobody-at-all/c".to_owned(),
                "customer \"nobody-at-all\" does not exist",
            ),
            (SECRET, format!("keys/{acme}"), "is not a key path"),
        ] {
            let refused = test_stack.stepward_reading(input, &["keys", "set", &path], false);
            assert!(
                !refused.status.success() && text(&refused).contains(expected),
                "{path}: {}",
                text(&refused)
            );
        }
    });
}

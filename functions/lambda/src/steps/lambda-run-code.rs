//! The step `lambda-run-code`.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::code::{Handler, Language, zipped};
use crate::invoke;
use crate::own::{Claim, LOG_GROUP, OwnFunction, Phase, Role, check_tags};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{FunctionCode, LogType};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stepward::model::input::require;
use stepward::model::permissions::{arn, literal};
use stepward::{
    Context, ErrorName, Example, Permissions, Progress, Resume, RundeckPlugin, Step, StepError,
    settings,
};

/// Between two looks at a new function, which takes a few seconds.
const POLL: Duration = Duration::from_secs(2);
/// Between two attempts that AWS has refused for now.
const AGAIN: Duration = Duration::from_secs(5);
/// How often a role is tried that Lambda may not assume: one minute, as a new role needs some
/// seconds to be known.
/// <https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot.html#troubleshoot_general_eventual-consistency>
const ROLE_ATTEMPTS: u32 = 12;
/// What an invocation may take beside the function's own timeout: its runtime starts up in 10
/// seconds.
/// <https://docs.aws.amazon.com/lambda/latest/dg/lambda-runtime-environment.html> (init phase)
const START_UP: Duration = Duration::from_secs(12);

/// Run a piece of code once as a Lambda function.
///
/// The step creates a function with the code, waits until it is ready, invokes it once, and deletes
/// it, also when the code fails. Code that fails makes the step `StepFailed`, with the error's type
/// and message and the log's last lines. It runs for 30 seconds at most; have longer work done by a
/// function of its own and `lambda-invoke`.
///
/// The code is never run twice for one step. Before the function is invoked, it is marked by an
/// alias, `run-1`, which only one call can create. If the answer is lost after that, a retry finds
/// the mark, or the function gone: it does not run the code again and ends as `StepFailed`, as
/// nobody knows then how the code ended; its log may tell. To know a function that is gone from one
/// that never was, the step goes through the state machine between creating and invoking it, which
/// takes some 10 seconds. Only an invocation that Lambda throttles is tried again, as `run-2`. An
/// execution that is redriven has the same name: if it begins this step anew, it creates the
/// function and runs the code again, also after such an end, unless the function was kept.
///
/// The function is called `stepward-run-` and 20 hex digits and is tagged `stepward:token`. With
/// `delete_after` false it stays, and costs nothing while nobody invokes it. If AWS does not delete
/// it, the output or the error says so. Stopping the job deletes the function; code that runs by
/// then goes on to its end. The code's log goes to the log group `/aws/lambda/stepward-run`, which
/// stays, if the execution role allows it. Lambda charges for the run.
///
/// Whoever may run this step can do in the account whatever the roles can do that Lambda may assume
/// there: the customer's role allows to pass any role to Lambda. Narrow its `iam:PassRole` to the
/// roles that are meant for this.
///
/// Proven on the local cloud with Python and Node.js. It has no Ruby, makes functions ready at
/// once, checks neither `iam:PassRole` nor who may see or set a function's tags, and loses no
/// answers: those rest on unit tests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunCode {
    /// ARN of the role that the code runs with. It must be in the account that the step works in,
    /// and let `lambda.amazonaws.com` assume it.
    execution_role_arn: String,
    /// The language: `Python` (3.13), `Node.js` (22) or `Ruby` (3.4).
    runtime: Language,
    /// The code: one file, which can use what the runtime brings, AWS's SDK included. Node.js code
    /// with a line that begins with `export` is taken for an ES module, other for `CommonJS`. A job
    /// carries up to 256 KiB in all.
    code: String,
    /// The function in the code that Lambda calls, as `function` or `file.function`; by default
    /// `lambda_handler` for Python and Ruby and `handler` for Node.js.
    handler: Option<String>,
    /// Whether the function is deleted afterwards; true by default.
    #[serde(default = "yes")]
    delete_after: bool,
    /// The function's description, up to 256 characters; which execution it is for by default.
    description: Option<String>,
    /// What the code gets as its event: any JSON, where text is passed on as a JSON string; an
    /// empty object by default.
    #[serde(default)]
    payload: Option<Value>,
    /// Tags for the function, up to 49.
    #[serde(default)]
    tags: BTreeMap<String, String>,
    /// After how many seconds Lambda stops the code, 1 to 30; 30 by default.
    #[serde(default = "thirty")]
    timeout: u16,
    /// Memory in MB, 128 to 10,240; 128 by default. More memory comes with more processor time.
    #[serde(default = "least_memory")]
    memory: u16,
}

fn yes() -> bool {
    true
}

fn thirty() -> u16 {
    30
}

fn least_memory() -> u16 {
    128
}

/// Code that has run. The names are those of the plugin that this step stands for.
#[derive(Debug, JsonSchema, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ran {
    /// What the code returned, as JSON text.
    invoke_response_payload_string: String,
    /// The function's name.
    function_name: String,
    /// Whether the function was created: true.
    function_was_created: bool,
    /// Whether the function was invoked: true.
    function_was_invoked: bool,
    /// Whether the function was deleted: false if it should stay, or if AWS could not delete it.
    function_was_deleted: bool,
    /// Always empty: code that fails makes the step fail, and is told in its error.
    invoke_function_error: String,
    /// The last 4 KB of the code's log.
    invoke_execution_log: String,
}

impl RunCode {
    fn handler(&self) -> Option<Handler> {
        self.runtime.handler(self.handler.as_deref(), &self.code)
    }

    async fn create(&self, ctx: &Context, refused: u32) -> Result<Progress<Ran>, StepError> {
        let own = OwnFunction::of(ctx, self.delete_after);
        let handler = self
            .handler()
            .ok_or_else(|| ErrorName::InvalidInput.with_message("handler is no handler"))?;
        let about = format!(
            "Stepward: runs once for execution {} and is deleted then",
            ctx.execution.id
        );
        let request = ctx
            .client(Client::new)
            .create_function()
            .description(
                self.description
                    .clone()
                    .unwrap_or_else(|| about.chars().take(256).collect()),
            )
            .runtime(self.runtime.runtime())
            .role(&self.execution_role_arn)
            .code(
                FunctionCode::builder()
                    .zip_file(Blob::new(zipped(&handler.file, &self.code)?))
                    .build(),
            )
            .handler(handler.name)
            .timeout(self.timeout.into())
            .memory_size(self.memory.into())
            .set_tags(Some(self.tags.clone().into_iter().collect()));
        if let Err(error) = own.create(ctx, request).await {
            if !error.message.contains("cannot be assumed by Lambda") {
                return Err(error);
            }
            if refused < ROLE_ATTEMPTS {
                let phase = Phase::Create {
                    refused: refused + 1,
                };
                return Progress::pending(&phase, AGAIN, "Lambda may not assume the role yet");
            }
            let message = "execution_role_arn: Lambda may not assume this role; allow sts:AssumeRole to \
                           lambda.amazonaws.com in its trust policy";
            return Err(StepError {
                name: ErrorName::InvalidInput,
                message: message.into(),
                ..error
            });
        }
        // The state machine must have this answer before the code runs, so that a later call knows
        // of a function that is gone that it was there. A step never waits so long in its own
        // process.
        let progress = format!("function {} is being created", own.name);
        Progress::pending(
            &Phase::Invoke { attempt: 1 },
            settings::inline_wait(),
            progress,
        )
    }

    async fn invoke(&self, ctx: &Context, attempt: u32) -> Result<Progress<Ran>, StepError> {
        let own = OwnFunction::of(ctx, self.delete_after);
        match own.claim(attempt).await? {
            Claim::Ours => {}
            Claim::NotReady(state) => {
                let progress = format!("function {} is {state}", own.name);
                return Progress::pending(&Phase::Invoke { attempt }, POLL, progress);
            }
            Claim::Never(why) => return Err(own.failed(ctx, why).await),
            Claim::Gone(why) => return Err(ErrorName::StepFailed.with_message(why)),
        }
        let payload = self
            .payload
            .as_ref()
            .map_or_else(|| "{}".into(), Value::to_string);
        let request = ctx
            .client(Client::new)
            .invoke()
            .function_name(&own.name)
            .log_type(LogType::Tail);
        let wait = Duration::from_secs(self.timeout.into()) + START_UP;
        let answer = match invoke(request.payload(Blob::new(payload)), wait).await {
            Ok(answer) => answer,
            Err(error) if error.name == ErrorName::Throttled => {
                let phase = Phase::Invoke {
                    attempt: attempt + 1,
                };
                return Progress::pending(
                    &phase,
                    AGAIN,
                    format!("Lambda throttled attempt {attempt} to run the code"),
                );
            }
            Err(error) if error.name == ErrorName::TimedOut => {
                let why = format!("{}; its log, if any, is in {LOG_GROUP}", error.message);
                return Err(StepError {
                    aws: error.aws,
                    ..own.failed(ctx, why).await
                });
            }
            Err(error) => {
                let why = format!("the code did not run: {}", error.message);
                return Err(StepError {
                    message: own.failed(ctx, why).await.message,
                    ..error
                });
            }
        };
        ctx.log(format_args!("Function {} invoked", own.name));
        if let Some(failure) = answer.failure() {
            return Err(own.failed(ctx, format!("the code failed: {failure}")).await);
        }
        let function_was_deleted = own.finished(ctx).await?;
        Ok(Progress::Done(Ran {
            invoke_response_payload_string: answer.payload,
            function_name: own.name,
            function_was_created: true,
            function_was_invoked: true,
            function_was_deleted,
            invoke_function_error: String::new(),
            invoke_execution_log: answer.log_tail,
        }))
    }
}

impl Step for RunCode {
    const NAME: &'static str = "lambda-run-code";
    const RUNDECK: &'static [RundeckPlugin] = &[RundeckPlugin {
        provider_type: "aws-lambda-custom-code-execution",
        fields: &[],
    }];
    const EXAMPLES: &'static [Example] = &[
        Example {
            title: "TODO",
            parameters: r#"{
        "execution_role_arn": "arn:aws:iam::222222222222:role/run-code",
        "runtime": "Python",
        "code": "def lambda_handler(event, context):\n    return event['days'] + 1\n",
        "payload": { "days": 7 }
    }"#,
            output: "null",
        },
        Example {
            title: "TODO",
            parameters: r#"{
        "execution_role_arn": "arn:aws:iam::222222222222:role/run-code",
        "runtime": "Node.js",
        "code": "export const clean = async (event) => ({ cleaned: 3 })",
        "handler": "clean",
        "timeout": 20,
        "memory": 256,
        "tags": { "team": "operations" },
        "delete_after": false
    }"#,
            output: "null",
        },
    ];
    const ERRORS: &'static [(ErrorName, &'static str)] = &[
        (
            ErrorName::InvalidInput,
            "Lambda refuses the code or the role, which it must be allowed to assume.",
        ),
        (
            ErrorName::StepFailed,
            "The code failed, or whether it ran is unknown; the message says which.",
        ),
        (
            ErrorName::Conflict,
            "There is a function of this step's name that the step has not created.",
        ),
    ];
    const TIMEOUT: Duration = Duration::from_mins(10);
    type Output = Ran;

    fn validate(&self) -> Result<(), StepError> {
        require(Role::parse(&self.execution_role_arn).is_some(), || {
            format!(
                "execution_role_arn `{}` is not the ARN of a role",
                self.execution_role_arn
            )
        })?;
        require(!self.code.trim().is_empty(), || "code is empty".into())?;
        require(self.handler().is_some(), || {
            "handler is neither `function` nor `file.function`, of up to 100 letters, digits and _ - $".into()
        })?;
        require(
            self.description
                .as_ref()
                .is_none_or(|text| text.chars().count() <= 256),
            || "description has more than 256 characters".into(),
        )?;
        check_tags(&self.tags)?;
        require((1..=30).contains(&self.timeout), || {
            format!(
                "timeout is {} and must be 1 to 30 seconds; use lambda-invoke for longer work",
                self.timeout
            )
        })?;
        require((128..=10_240).contains(&self.memory), || {
            format!("memory is {} and must be 128 to 10,240 MB", self.memory)
        })
    }

    fn permissions(&self) -> Permissions {
        let role = literal(Role::parse(&self.execution_role_arn).map_or("none", |role| role.name));
        let to_lambda =
            json!({ "StringEquals": { "iam:PassedToService": "lambda.amazonaws.com" } });
        Permissions::default()
            .allow(
                "TODO",
                &[
                    "lambda:CreateFunction",
                    "lambda:TagResource",
                    "lambda:GetFunction",
                    "lambda:ListTags",
                    "lambda:CreateAlias",
                    "lambda:InvokeFunction",
                    "lambda:DeleteFunction",
                ],
                [arn("lambda", "function:stepward-run-*")],
            )
            .allow_if(
                to_lambda,
                "TODO",
                &["iam:PassRole"],
                [format!("arn:$partition:iam::$account:role/{role}")],
            )
    }

    async fn run(&self, ctx: &Context, resume: Option<Resume>) -> Result<Progress<Ran>, StepError> {
        require(
            Role::parse(&self.execution_role_arn).is_some_and(|role| role.is_in(&ctx.place)),
            || {
                format!(
                    "execution_role_arn is of another account than the step works in, {}",
                    ctx.place.account_id
                )
            },
        )?;
        match resume.map(|resume| resume.state()).transpose()? {
            None => self.create(ctx, 0).await,
            Some(Phase::Create { refused }) => self.create(ctx, refused).await,
            Some(Phase::Invoke { attempt }) => self.invoke(ctx, attempt).await,
        }
    }

    async fn cancel(&self, ctx: &Context, _: Option<Resume>) -> Result<(), StepError> {
        let own = OwnFunction::of(ctx, true);
        if own.find().await?.is_some() {
            own.delete(ctx).await.map(drop)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use crate::own::TAG;
    use aws_sdk_lambda::operation::create_alias::{CreateAliasError, CreateAliasOutput};
    use aws_sdk_lambda::operation::create_function::{
        CreateFunctionError, CreateFunctionInput, CreateFunctionOutput,
    };
    use aws_sdk_lambda::operation::delete_function::{DeleteFunctionError, DeleteFunctionOutput};
    use aws_sdk_lambda::operation::get_function::{GetFunctionError, GetFunctionOutput};
    use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
    use aws_sdk_lambda::types::{FunctionConfiguration, Runtime, State, TagsError};
    use aws_smithy_mocks::{Rule, RuleMode, mock, mock_client};
    use aws_smithy_types::base64;
    use aws_smithy_types::error::ErrorMetadata;
    use stepward::model::permissions::ArnScope;
    use stepward::testing::{self, done};
    use stepward_testkit::proof::prove;

    use super::*;

    const CODE: &str = "def lambda_handler(event, context):\n    return event['days'] + 1\n";

    fn params() -> Value {
        json!({
            "execution_role_arn": "arn:aws:iam::222222222222:role/jobs/run-code",
            "runtime": "Python",
            "code": CODE,
            "payload": { "days": 7 },
        })
    }

    fn step(params: Value) -> RunCode {
        serde_json::from_value(params).unwrap()
    }

    fn error(code: &'static str, message: &'static str) -> ErrorMetadata {
        ErrorMetadata::builder().code(code).message(message).build()
    }

    fn context(rules: &[&Rule]) -> Context {
        testing::context(mock_client!(aws_sdk_lambda, RuleMode::MatchAny, rules))
    }

    /// The token of the step in `testing::context`.
    fn token() -> String {
        context(&[]).client_token("run-code")
    }

    fn name() -> String {
        format!("stepward-run-{}", &token()[..20])
    }

    fn creates() -> Rule {
        mock!(Client::create_function).then_output(|| CreateFunctionOutput::builder().build())
    }

    fn found(state: State) -> GetFunctionOutput {
        let configuration = FunctionConfiguration::builder()
            .state(state)
            .state_reason("the key is disabled")
            .build();
        GetFunctionOutput::builder()
            .configuration(configuration)
            .tags(TAG, token())
            .build()
    }

    fn is(state: State) -> Rule {
        mock!(Client::get_function).then_output(move || found(state.clone()))
    }

    fn gone() -> Rule {
        mock!(Client::get_function).then_error(|| {
            GetFunctionError::generic(error("ResourceNotFoundException", "no such function"))
        })
    }

    fn marks(attempt: &'static str) -> Rule {
        mock!(Client::create_alias)
            .match_requests(move |request| {
                request.function_name() == Some(name().as_str())
                    && request.name() == Some(attempt)
                    && request.function_version() == Some("$LATEST")
            })
            .then_output(|| CreateAliasOutput::builder().build())
    }

    fn is_marked() -> Rule {
        mock!(Client::create_alias).then_error(|| {
            CreateAliasError::generic(error("ResourceConflictException", "Alias already exists"))
        })
    }

    fn runs() -> Rule {
        mock!(Client::invoke)
            .match_requests(|request| {
                request.function_name() == Some(name().as_str())
                    && request.log_type() == Some(&LogType::Tail)
                    && request.payload().unwrap().as_ref() == br#"{"days":7}"#
            })
            .then_output(|| {
                let log = base64::encode("hello\n");
                InvokeOutput::builder()
                    .status_code(200)
                    .payload(Blob::new("8"))
                    .log_result(log)
                    .build()
            })
    }

    fn deletes() -> Rule {
        mock!(Client::delete_function)
            .match_requests(|request| request.function_name() == Some(name().as_str()))
            .then_output(|| DeleteFunctionOutput::builder().build())
    }

    fn resume(phase: &Value) -> Resume {
        stepward::testing::resume(phase)
    }

    fn created() -> Resume {
        resume(&json!({ "invoke": { "attempt": 1 } }))
    }

    fn pending(answer: Progress<Ran>) -> (Value, Duration, String) {
        let Progress::Pending {
            state,
            retry_after,
            progress,
        } = answer
        else {
            panic!("not pending: {answer:?}")
        };
        (state, retry_after, progress)
    }

    fn file_of(request: &CreateFunctionInput) -> (String, String) {
        let zip = request.code().unwrap().zip_file().unwrap().as_ref();
        let mut zip = zip::ZipArchive::new(std::io::Cursor::new(zip)).unwrap();
        let (mut file, mut text) = (zip.by_index(0).unwrap(), String::new());
        file.read_to_string(&mut text).unwrap();
        (file.name().unwrap().into_owned(), text)
    }

    #[tokio::test]
    async fn done_with_the_plugins_outputs_after_creating_running_and_deleting() {
        let create = mock!(Client::create_function)
            .match_requests(|request| {
                let tags = request.tags().unwrap();
                request.function_name() == Some(name().as_str())
                    && file_of(request) == ("lambda_function.py".into(), CODE.into())
                    && request.runtime() == Some(&Runtime::Python313)
                    && request.handler() == Some("lambda_function.lambda_handler")
                    && request.role() == Some("arn:aws:iam::222222222222:role/jobs/run-code")
                    && (request.timeout(), request.memory_size()) == (Some(30), Some(128))
                    && request
                        .description()
                        .is_some_and(|text| text.contains("execution-1"))
                    && request.logging_config().and_then(|log| log.log_group()) == Some(LOG_GROUP)
                    && tags.len() == 1
                    && tags[TAG] == token()
            })
            .then_output(|| CreateFunctionOutput::builder().build());
        let look = mock!(Client::get_function)
            .sequence()
            .output(|| found(State::Pending))
            .output(|| found(State::Active))
            .build();
        let (mark, run, delete) = (marks("run-1"), runs(), deletes());
        let ctx = context(&[&create, &look, &mark, &run, &delete]);
        let step = step(params());

        let (state, retry_after, progress) = pending(step.run(&ctx, None).await.unwrap());
        assert_eq!(
            (retry_after, progress),
            (
                settings::inline_wait(),
                format!("function {} is being created", name())
            )
        );
        let (state, _, progress) = pending(step.run(&ctx, Some(resume(&state))).await.unwrap());
        assert_eq!(progress, format!("function {} is Pending", name()));
        let ran = done(step.run(&ctx, Some(resume(&state))).await);

        assert_eq!(
            json!(ran),
            json!({
                "invokeResponsePayloadString": "8",
                "functionName": name(),
                "functionWasCreated": true,
                "functionWasInvoked": true,
                "functionWasDeleted": true,
                "invokeFunctionError": "",
                "invokeExecutionLog": "hello\n",
            })
        );
        assert_eq!(
            [&create, &mark, &run, &delete].map(Rule::num_calls),
            [1, 1, 1, 1]
        );
    }

    #[tokio::test]
    async fn done_and_kept_with_all_that_was_asked_for() {
        let create = mock!(Client::create_function)
            .match_requests(|request| {
                request.runtime() == Some(&Runtime::Nodejs22x)
                    && request.handler() == Some("job.clean")
                    && file_of(request).0 == "job.mjs"
                    && (request.timeout(), request.memory_size()) == (Some(5), Some(512))
                    && request.description() == Some("cleans")
                    && request
                        .tags()
                        .is_some_and(|tags| tags["team"] == "ops" && tags.len() == 2)
            })
            .then_output(|| CreateFunctionOutput::builder().build());
        let ran = || {
            InvokeOutput::builder()
                .status_code(200)
                .payload(Blob::new("null"))
                .build()
        };
        let invoke = mock!(Client::invoke)
            .match_requests(|request| request.payload().unwrap().as_ref() == b"{}")
            .then_output(ran);
        let (look, mark) = (is(State::Active), marks("run-1"));
        let ctx = context(&[&create, &look, &mark, &invoke]);
        let step = step(json!({
            "execution_role_arn": "arn:aws:iam::222222222222:role/run-code",
            "runtime": "Node.js",
            "code": "export const clean = async () => null",
            "handler": "job.clean",
            "description": "cleans",
            "tags": { "team": "ops" },
            "timeout": 5,
            "memory": 512,
            "delete_after": false,
        }));
        let (state, ..) = pending(step.run(&ctx, None).await.unwrap());
        assert!(!done(step.run(&ctx, Some(resume(&state))).await).function_was_deleted);
    }

    #[tokio::test]
    async fn done_although_the_function_could_not_be_deleted_but_not_if_it_never_can_be() {
        let refuses = |code: &'static str| {
            mock!(Client::delete_function)
                .then_error(move || DeleteFunctionError::generic(error(code, "no")))
        };
        let (look, mark, run) = (is(State::Active), marks("run-1"), runs());
        let busy = refuses("ResourceConflictException");
        let ctx = context(&[&look, &mark, &run, &busy]);
        assert!(!done(step(params()).run(&ctx, Some(created())).await).function_was_deleted);
        assert!(
            testing::log(&ctx)
                .iter()
                .any(|line| line.contains("is left, delete it"))
        );
        let denied = refuses("AccessDeniedException");
        let error = step(params())
            .run(&context(&[&look, &mark, &run, &denied]), Some(created()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(
            error.message.contains(&name()) && error.message.contains("lambda:DeleteFunction"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn already_created_by_a_call_whose_answer_was_lost() {
        let exists = mock!(Client::create_function).then_error(|| {
            CreateFunctionError::generic(error(
                "ResourceConflictException",
                "Function already exist",
            ))
        });
        let look = is(State::Pending);
        let (state, ..) = pending(
            step(params())
                .run(&context(&[&exists, &look]), None)
                .await
                .unwrap(),
        );
        assert_eq!(state, json!({ "invoke": { "attempt": 1 } }));
        assert_eq!(exists.num_calls(), 1);

        let foreign = mock!(Client::get_function).then_output(|| {
            let tags = GetFunctionOutput::builder().tags(TAG, "another");
            tags.configuration(FunctionConfiguration::builder().build())
                .build()
        });
        let error = step(params())
            .run(&context(&[&exists, &foreign]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::Conflict);

        let hidden = mock!(Client::get_function).then_output(|| {
            let said = "User: x is not authorized to perform: lambda:ListTags on resource: y";
            let refused = TagsError::builder()
                .error_code("AccessDeniedException")
                .message(said)
                .build()
                .unwrap();
            GetFunctionOutput::builder().tags_error(refused).build()
        });
        let error = step(params())
            .run(&context(&[&exists, &hidden]), None)
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::AccessDenied);
        assert!(error.message.contains("lambda:ListTags"), "{error}");
    }

    #[tokio::test]
    async fn already_created_but_not_shown_yet_is_run_later_and_not_left_behind() {
        let exists = mock!(Client::create_function).then_error(|| {
            CreateFunctionError::generic(error(
                "ResourceConflictException",
                "Function already exist",
            ))
        });
        let missing =
            || GetFunctionError::generic(error("ResourceNotFoundException", "no such function"));
        let look = mock!(Client::get_function)
            .sequence()
            .error(missing)
            .output(|| found(State::Active))
            .build();
        let (mark, run, delete) = (marks("run-1"), runs(), deletes());
        let ctx = context(&[&exists, &look, &mark, &run, &delete]);
        let (state, retry_after, _) = pending(step(params()).run(&ctx, None).await.unwrap());
        assert_eq!(
            (&state, retry_after),
            (
                &json!({ "invoke": { "attempt": 1 } }),
                settings::inline_wait()
            )
        );
        assert!(done(step(params()).run(&ctx, Some(resume(&state))).await).function_was_deleted);
        assert_eq!([&exists, &run, &delete].map(Rule::num_calls), [1, 1, 1]);
    }

    #[tokio::test]
    async fn not_found_again_after_it_was_created_is_an_unknown_outcome_and_runs_nothing() {
        let (look, create, run) = (gone(), creates(), runs());
        let error = step(params())
            .run(&context(&[&look, &create, &run]), Some(created()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error
                .message
                .contains("whether the code ran, and how it ended, is unknown"),
            "{error}"
        );
        assert_eq!([&create, &run].map(Rule::num_calls), [0, 0]);
    }

    #[test]
    fn invalid_parameters_are_refused_before_any_call() {
        step(params()).validate().unwrap();
        let many: BTreeMap<_, _> = (0..50).map(|n| (format!("tag{n}"), "x")).collect();
        for (field, value) in [
            ("execution_role_arn", json!("run-code")),
            (
                "execution_role_arn",
                json!("arn:aws:iam::222222222222:user/ann"),
            ),
            (
                "execution_role_arn",
                json!("arn:aws:iam::222222222222:role/"),
            ),
            (
                "execution_role_arn",
                json!("arn:aws:iam::222222222222:role/*"),
            ),
            ("code", json!(" \n")),
            ("handler", json!("../job.clean")),
            ("description", json!("x".repeat(257))),
            ("tags", json!(many)),
            ("tags", json!({ "aws:x": "y" })),
            ("tags", json!({ "stepward:token": "y" })),
            ("tags", json!({ "": "y" })),
            ("tags", json!({ "x": "y".repeat(257) })),
            ("timeout", json!(0)),
            ("timeout", json!(31)),
            ("memory", json!(127)),
            ("memory", json!(10_241)),
        ] {
            let mut params = params();
            params[field] = value;
            let error = step(params.clone()).validate().unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{params}");
            assert!(error.message.contains(field), "{error}");
        }
    }

    #[tokio::test]
    async fn invalid_is_a_role_of_another_account_or_partition() {
        for role in [
            "arn:aws:iam::333333333333:role/x",
            "arn:aws-cn:iam::222222222222:role/x",
        ] {
            let mut params = params();
            params["execution_role_arn"] = role.into();
            let error = step(params).run(&context(&[]), None).await.unwrap_err();
            assert_eq!(error.name, ErrorName::InvalidInput, "{role}");
        }
    }

    #[tokio::test]
    async fn invalid_is_a_role_that_lambda_may_not_assume_after_a_minute() {
        let create = mock!(Client::create_function).then_error(|| {
            let said = "The role defined for the function cannot be assumed by Lambda.";
            CreateFunctionError::generic(error("InvalidParameterValueException", said))
        });
        let ctx = context(&[&create]);
        let (mut from, mut waited) = (None, Duration::ZERO);
        for _ in 0..ROLE_ATTEMPTS {
            let (state, retry_after, _) = pending(step(params()).run(&ctx, from).await.unwrap());
            from = Some(resume(&state));
            waited += retry_after;
        }
        let error = step(params()).run(&ctx, from).await.unwrap_err();
        assert_eq!(
            (error.name, waited),
            (ErrorName::InvalidInput, Duration::from_mins(1))
        );
        assert!(error.message.contains("trust policy"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn throttled_calls_are_sent_again_and_a_throttled_run_gets_a_new_attempt() {
        let create = mock!(Client::create_function)
            .sequence()
            .error(|| {
                CreateFunctionError::generic(error("TooManyRequestsException", "Rate exceeded"))
            })
            .output(|| CreateFunctionOutput::builder().build())
            .build();
        let throttled = || InvokeError::generic(error("TooManyRequestsException", "Rate exceeded"));
        let invoke = mock!(Client::invoke)
            .sequence()
            .error(throttled)
            .error(throttled)
            .error(throttled)
            .output(|| {
                InvokeOutput::builder()
                    .status_code(200)
                    .payload(Blob::new("8"))
                    .build()
            })
            .build();
        let (look, first, second, delete) =
            (is(State::Active), marks("run-1"), marks("run-2"), deletes());
        let ctx = context(&[&create, &look, &first, &second, &invoke, &delete]);
        let (state, ..) = pending(step(params()).run(&ctx, None).await.unwrap());
        assert_eq!(create.num_calls(), 2);
        let (state, ..) = pending(
            step(params())
                .run(&ctx, Some(resume(&state)))
                .await
                .unwrap(),
        );
        assert_eq!(
            (&state, delete.num_calls()),
            (&json!({ "invoke": { "attempt": 2 } }), 0)
        );
        let ran = done(step(params()).run(&ctx, Some(resume(&state))).await);
        assert_eq!(
            (
                ran.invoke_response_payload_string.as_str(),
                invoke.num_calls()
            ),
            ("8", 4)
        );
    }

    #[tokio::test]
    async fn pending_and_marked_by_a_call_whose_answer_was_lost_is_not_run_again_but_deleted() {
        let (look, mark, run, delete) = (is(State::Active), is_marked(), runs(), deletes());
        let error = step(params())
            .run(&context(&[&look, &mark, &run, &delete]), Some(created()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        assert!(
            error.message.contains("is unknown") && error.message.contains("is deleted"),
            "{error}"
        );
        assert_eq!([&run, &delete].map(Rule::num_calls), [0, 1]);
    }

    #[tokio::test]
    async fn pending_while_lambda_is_busy_with_the_function_and_then_run_once() {
        for said in [
            "The operation cannot be performed at this time. The function is currently in the following state: Pending",
            "The operation cannot be performed at this time. An update is in progress for resource: arn:aws:lambda:…",
        ] {
            let mark = mock!(Client::create_alias)
                .sequence()
                .error(move || CreateAliasError::generic(error("ResourceConflictException", said)))
                .output(|| CreateAliasOutput::builder().build())
                .build();
            let (look, run, delete) = (is(State::Active), runs(), deletes());
            let ctx = context(&[&look, &mark, &run, &delete]);
            let (state, retry_after, progress) =
                pending(step(params()).run(&ctx, Some(created())).await.unwrap());
            assert_eq!(
                (&state, retry_after),
                (&json!({ "invoke": { "attempt": 1 } }), POLL)
            );
            assert_eq!(
                progress,
                format!("function {} is not ready: {said}", name())
            );
            assert_eq!([&run, &delete].map(Rule::num_calls), [0, 0]);
            done(step(params()).run(&ctx, Some(resume(&state))).await);
            assert_eq!([&mark, &run, &delete].map(Rule::num_calls), [2, 1, 1]);
        }
    }

    #[tokio::test]
    async fn failed_code_fails_the_step_with_its_error_and_log_and_is_deleted() {
        let run = mock!(Client::invoke).then_output(|| {
            let error = r#"{ "errorType": "KeyError", "errorMessage": "'days'" }"#;
            let answer = InvokeOutput::builder()
                .status_code(200)
                .function_error("Unhandled");
            answer
                .payload(Blob::new(error))
                .log_result(base64::encode("Traceback\n"))
                .build()
        });
        let (look, mark, delete) = (is(State::Active), marks("run-1"), deletes());
        let error = step(params())
            .run(&context(&[&look, &mark, &run, &delete]), Some(created()))
            .await
            .unwrap_err();
        assert_eq!(error.name, ErrorName::StepFailed);
        let said = "the code failed: KeyError: 'days' (Unhandled)\nIts log ends with:\nTraceback";
        assert_eq!(
            error.message,
            format!("{said}\nFunction {} is deleted", name())
        );
    }

    #[tokio::test]
    async fn failed_functions_and_refused_or_lost_invocations_are_deleted() {
        for (code, expected, says) in [
            (
                "InvalidRequestContentException",
                ErrorName::InvalidInput,
                "did not run",
            ),
            ("KMSDisabledException", ErrorName::StepFailed, "did not run"),
        ] {
            let run =
                mock!(Client::invoke).then_error(move || InvokeError::generic(error(code, "no")));
            let (look, mark, delete) = (is(State::Active), marks("run-1"), deletes());
            let error = step(params())
                .run(&context(&[&look, &mark, &run, &delete]), Some(created()))
                .await
                .unwrap_err();
            assert_eq!(
                (error.name, delete.num_calls()),
                (expected, 1),
                "{code}: {error}"
            );
            assert!(error.message.contains(says), "{error}");
        }
        let (look, delete) = (is(State::Failed), deletes());
        let error = step(params())
            .run(&context(&[&look, &delete]), Some(created()))
            .await
            .unwrap_err();
        assert!(
            error.name == ErrorName::StepFailed && error.message.contains("the key is disabled"),
            "{error}"
        );
        assert_eq!(delete.num_calls(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_on_the_way_is_an_unknown_outcome() {
        let lost = || {
            let body = aws_sdk_lambda::primitives::SdkBody::from("{}");
            aws_sdk_lambda::config::http::HttpResponse::new(500.try_into().unwrap(), body)
        };
        let run = mock!(Client::invoke)
            .sequence()
            .http_response(lost)
            .repeatedly()
            .build();
        let (look, mark, delete) = (is(State::Active), marks("run-1"), deletes());
        let error = step(params())
            .run(&context(&[&look, &mark, &run, &delete]), Some(created()))
            .await
            .unwrap_err();
        assert_eq!(
            (error.name, run.num_calls(), delete.num_calls()),
            (ErrorName::StepFailed, 1, 1)
        );
        assert!(
            error
                .message
                .contains("nobody knows whether the function ran"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_stopped_job_deletes_the_function_that_there_is() {
        let (look, delete) = (is(State::Pending), deletes());
        step(params())
            .cancel(&context(&[&look, &delete]), None)
            .await
            .unwrap();
        assert_eq!(delete.num_calls(), 1);
        step(params())
            .cancel(&context(&[&gone()]), Some(created()))
            .await
            .unwrap();
    }

    #[test]
    fn the_session_can_pass_this_role_only_and_only_to_lambda() {
        let place = ArnScope {
            partition: "aws".into(),
            region: "eu-west-1".into(),
            account_id: "222222222222".into(),
        };
        let policy = step(params()).permissions().session_policy(&place).unwrap();
        for part in [
            r#"["arn:aws:lambda:eu-west-1:222222222222:function:stepward-run-*"]"#,
            r#"["arn:aws:iam::222222222222:role/jobs/run-code"]"#,
            r#"{"StringEquals":{"iam:PassedToService":"lambda.amazonaws.com"}}"#,
        ] {
            assert!(policy.contains(part), "{policy}");
        }
    }

    #[test]
    fn permissions_are_those_that_the_local_cloud_asks_for() {
        let idle = [
            ("iam:PassRole", "The local cloud passes any role to Lambda."),
            (
                "lambda:ListTags",
                "The local cloud's GetFunction shows tags to everybody.",
            ),
            (
                "lambda:TagResource",
                "The local cloud creates functions with tags for everybody.",
            ),
        ];
        prove::<RunCode>(&idle, async |scene| {
            let name = scene.name("run-code");
            let trust = json!({
                "Version": "2012-10-17",
                "Statement": [{
                    "Effect": "Allow",
                    "Principal": { "Service": "lambda.amazonaws.com" },
                    "Action": "sts:AssumeRole",
                }],
            });
            let role = json!({ "RoleName": name, "AssumeRolePolicyDocument": trust });
            scene.make(&json!({ "Resources": { "Role": { "Type": "AWS::IAM::Role", "Properties": role } } })).await;
            let arn = format!("arn:aws:iam::{}:role/{name}", scene.account_id());
            json!({ "execution_role_arn": arn, "runtime": "Python", "code": CODE, "payload": { "days": 7 } })
        });
    }
}

//! Runs a bootstrap binary as Lambda does, with the Runtime API on loopback:
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>.

#![expect(clippy::expect_used, reason = "a test cannot run without its process")]

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::http::{Call, Server};

/// The default timeout of an invocation.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);
/// How often to check that the process still runs.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
const INVOCATION_PATH: &str = "/2018-06-01/runtime/invocation/";

/// The process of a function and its Runtime API. The process is killed when dropped.
pub struct Function {
    child: Child,
    started: Instant,
    events: Option<Sender<Event>>,
    responses: Receiver<Response>,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    // The last field, because its thread ends only after `events` is dropped.
    _server: Server,
}

/// The response of a function.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Response {
    /// The body of the response.
    Success(String),
    /// An error, as Step Functions receives it.
    Failure {
        /// `errorType`, which state machines match.
        name: String,
        /// `errorMessage`, which operators read.
        message: String,
    },
}

struct Event {
    body: Vec<u8>,
    timeout: Duration,
}

impl Function {
    /// Starts a bootstrap with the environment variables that Lambda sets and with the given ones.
    /// It does not inherit variables of the test.
    ///
    /// # Panics
    /// If the process cannot be started.
    #[must_use]
    pub fn start(mut command: Command, environment: &[(String, String)]) -> Self {
        let (events, next) = channel();
        let (response, responses) = channel();
        let mut invocations = 0;
        let server =
            Server::start(move |call| handle_request(call, &mut invocations, &next, &response));
        let name = command
            .get_program()
            .to_string_lossy()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_owned();
        command
            .env_clear()
            .envs(lambda_environment(&name))
            .env("AWS_LAMBDA_RUNTIME_API", server.address());
        command.envs(environment.iter().cloned());
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = command.spawn().expect("the function's binary starts");
        let output = Arc::default();
        let readers = vec![
            spawn_reader(child.stdout.take().expect("stdout is piped"), &output),
            spawn_reader(child.stderr.take().expect("stderr is piped"), &output),
        ];
        Self {
            child,
            started,
            events: Some(events),
            responses,
            output,
            readers,
            _server: server,
        }
    }

    /// Sends an event and waits for the response. As on Lambda, the response is `Runtime.ExitError`
    /// if the process ends. If the process takes too long, it is killed and the response is
    /// `Sandbox.Timedout`.
    pub fn invoke(&mut self, event: &[u8]) -> Response {
        self.invoke_within(DEFAULT_TIMEOUT, event)
    }

    /// Like [`invoke`](Self::invoke), with another timeout.
    pub fn invoke_within(&mut self, timeout: Duration, event: &[u8]) -> Response {
        self.send_event(timeout, event);
        self.wait_for_response(timeout)
    }

    /// Sends an event without waiting for the response.
    pub fn send_event(&self, timeout: Duration, event: &[u8]) {
        // Fails if the process has ended. Then `wait_for_response` returns the error.
        let _ = self.events.as_ref().map(|events| {
            events.send(Event {
                body: event.to_vec(),
                timeout,
            })
        });
    }

    /// Waits for the response to the event that was sent.
    pub fn wait_for_response(&mut self, timeout: Duration) -> Response {
        let limit = Instant::now() + timeout;
        loop {
            match self.responses.recv_timeout(POLL_INTERVAL) {
                Ok(response) => return response,
                Err(RecvTimeoutError::Disconnected) => {
                    return Response::failure("Runtime.ExitError", "the Runtime API has ended");
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() > limit => {
                    self.kill();
                    return Response::failure("Sandbox.Timedout", "the task timed out");
                }
                Err(RecvTimeoutError::Timeout) => {
                    if let Ok(Some(status)) = self.child.try_wait() {
                        return Response::failure(
                            "Runtime.ExitError",
                            &format!("the process ended: {status}"),
                        );
                    }
                }
            }
        }
    }

    /// Returns the time since the process was started.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Kills the process with SIGKILL, and waits until its output has been read.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }

    /// Returns what the process has written to standard output and standard error so far.
    #[must_use]
    pub fn output(&self) -> String {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Returns the ID of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the peak memory of the running process in bytes, or `None` on other systems than
    /// Linux.
    #[must_use]
    pub fn peak_memory(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let peak = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(peak.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Returns the CPU time of the running process and its ended children, or `None` on other
    /// systems than Linux. <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        // The second field is the program's name in parentheses, which may contain spaces and
        // parentheses. `utime` is the 14th field.
        let fields = stat.rsplit_once(')')?.1.split_whitespace();
        let ticks: Option<Vec<u64>> = fields
            .skip(11)
            .take(4)
            .map(|field| field.parse().ok())
            .collect();
        // On all processors that Lambda uses, Linux counts these times in hundredths of a second.
        Some(Duration::from_millis(ticks?.iter().sum::<u64>() * 10))
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        self.kill();
        self.events = None;
    }
}

impl Response {
    fn failure(name: &str, message: &str) -> Self {
        Self::Failure {
            name: name.into(),
            message: message.into(),
        }
    }

    /// Returns the response as JSON, or `null` for an error.
    #[must_use]
    pub fn json(&self) -> Value {
        match self {
            Self::Success(body) => serde_json::from_str(body).unwrap_or_default(),
            Self::Failure { .. } => Value::Null,
        }
    }
}

/// Handles one request of the process. It may wait for the next event, because a process sends only
/// one request at a time.
fn handle_request(
    call: Call,
    invocations: &mut u32,
    events: &Receiver<Event>,
    responses: &Sender<Response>,
) {
    let read_error = || {
        let error: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let text = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
        Response::Failure {
            name: text("errorType"),
            message: text("errorMessage"),
        }
    };
    let response = match call
        .path
        .strip_prefix(INVOCATION_PATH)
        .map(|rest| rest.rsplit('/').next().unwrap_or(rest))
    {
        Some("next") => {
            *invocations += 1;
            // Without an event the test has ended, and its process ends too.
            if let Ok(event) = events.recv() {
                deliver_event(call, *invocations, &event);
            }
            return;
        }
        Some("response") => Response::Success(String::from_utf8_lossy(&call.body).into_owned()),
        Some("error") => read_error(),
        None if call.path.ends_with("/runtime/init/error") => read_error(),
        _ => return call.response(404, &[], b""),
    };
    let _ = responses.send(response);
    call.response(
        202,
        &[("Content-Type", "application/json")],
        br#"{"status":"OK"}"#,
    );
}

fn deliver_event(call: Call, invocation: u32, event: &Event) {
    let deadline = SystemTime::now() + event.timeout;
    let deadline = deadline
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis()
        .to_string();
    call.response(
        200,
        &[
            ("Content-Type", "application/json"),
            (
                "Lambda-Runtime-Aws-Request-Id",
                &format!("8476a536-e9f4-11e8-9739-{invocation:012}"),
            ),
            ("Lambda-Runtime-Deadline-Ms", &deadline),
            (
                "Lambda-Runtime-Invoked-Function-Arn",
                "arn:aws:lambda:eu-west-1:111111111111:function:stepward-test",
            ),
            (
                "Lambda-Runtime-Trace-Id",
                "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
            ),
        ],
        &event.body,
    );
}

/// Returns the variables that Lambda sets:
/// <https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html>
fn lambda_environment(name: &str) -> Vec<(&'static str, String)> {
    let fixed = [
        ("AWS_DEFAULT_REGION", "eu-west-1"),
        ("AWS_EXECUTION_ENV", "AWS_Lambda_provided.al2023"),
        ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "512"),
        ("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST"),
        ("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand"),
        ("AWS_LAMBDA_LOG_STREAM_NAME", "2026/01/01/[$LATEST]0"),
        ("AWS_REGION", "eu-west-1"),
        ("LANG", "en_US.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
        ("TZ", ":UTC"),
        ("_HANDLER", "bootstrap"),
    ];
    let mut variables: Vec<_> = fixed
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect();
    variables.push(("AWS_LAMBDA_FUNCTION_NAME", format!("stepward-{name}")));
    variables.push((
        "AWS_LAMBDA_LOG_GROUP_NAME",
        format!("/aws/lambda/stepward-{name}"),
    ));
    variables
}

/// Collects the output of the process line by line, so that the two streams do not interrupt each
/// other's lines.
fn spawn_reader(stream: impl Read + Send + 'static, output: &Arc<Mutex<String>>) -> JoinHandle<()> {
    let output = Arc::clone(output);
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut line = Vec::new();
        while stream
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    })
}

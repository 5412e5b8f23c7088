//! Runs a program that reads requests as JSON lines and writes responses as JSON lines.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::Value;

/// Longer than any request takes, also on a busy machine.
const RESPONSE_LIMIT: Duration = Duration::from_mins(3);

/// A program that ends when its standard input ends: when this value is dropped, or when this
/// process ends.
pub(super) struct JsonProgram {
    name: &'static str,
    child: Child,
    requests: Option<ChildStdin>,
    responses: Receiver<String>,
}

impl JsonProgram {
    pub(super) fn start(name: &'static str, mut command: Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .spawn()
            .map_err(|error| format!("{name} did not start: {error}"))?;
        let (sender, responses) = channel();
        let output = child.stdout.take().ok_or("standard output is not piped")?;
        std::thread::spawn(move || {
            // Sending fails after the receiver was dropped, when the program is no longer needed.
            BufReader::new(output)
                .lines()
                .map_while(Result::ok)
                .take_while(|line| sender.send(line.clone()).is_ok())
                .count();
        });
        let requests = child.stdin.take();
        Ok(Self {
            name,
            child,
            requests,
            responses,
        })
    }

    /// Sends a request and waits for the response.
    pub(super) fn send_request(&mut self, request: &Value) -> Result<Value, String> {
        let name = self.name;
        let requests = self
            .requests
            .as_mut()
            .ok_or_else(|| format!("{name} has ended"))?;
        writeln!(requests, "{request}")
            .map_err(|error| format!("{name} accepts no request: {error}; see its log"))?;
        match self.responses.recv_timeout(RESPONSE_LIMIT) {
            Ok(line) => serde_json::from_str(&line)
                .map_err(|error| format!("{name} returned an invalid response {line:?}: {error}")),
            Err(error) => Err(format!("{name} did not respond: {error}; see its log")),
        }
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for JsonProgram {
    fn drop(&mut self) {
        drop(self.requests.take());
        // Fails if the program has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

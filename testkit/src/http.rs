//! A small HTTP server on loopback, for the Runtime API and the fakes of AWS.

#![expect(clippy::expect_used, reason = "a test cannot run without its server")]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tiny_http::{Request, StatusCode};

/// How often [`open_connections`] opens a connection.
const CONNECTION_INTERVAL: Duration = Duration::from_millis(10);

/// A server on a free port. It handles one request at a time.
pub(crate) struct Server {
    listener: Arc<tiny_http::Server>,
    thread: Option<JoinHandle<()>>,
    // Ends the thread of `open_connections` when dropped.
    _end: Sender<()>,
}

/// A complete request, and the connection for its response.
pub(crate) struct Call {
    /// The method, for example `GET`.
    pub(crate) method: String,
    /// The part of the URL before the `?`.
    pub(crate) path: String,
    /// The part of the URL after the `?`.
    pub(crate) query: String,
    /// The body.
    pub(crate) body: Vec<u8>,
    request: Request,
}

impl Server {
    pub(crate) fn start(mut handle: impl FnMut(Call) + Send + 'static) -> Self {
        let server =
            Arc::new(tiny_http::Server::http("127.0.0.1:0").expect("a free port on loopback"));
        let (end, ended) = channel();
        if let Some(address) = server.server_addr().to_ip() {
            std::thread::spawn(move || open_connections(address, &ended));
        }
        let requests = Arc::clone(&server);
        let thread = std::thread::spawn(move || {
            requests
                .incoming_requests()
                .filter_map(Call::read_request)
                .for_each(&mut handle);
        });
        Self {
            listener: server,
            thread: Some(thread),
            _end: end,
        }
    }

    /// Address and port.
    pub(crate) fn address(&self) -> String {
        self.listener.server_addr().to_string()
    }
}

/// Opens and closes connections until the server ends, so that no client waits forever.
///
/// `tiny_http` has one thread per connection. It queues a new connection if a thread is idle, but
/// counts a thread as idle until that thread has woken up. In a burst it can therefore queue more
/// connections than it has idle threads, and the others wait until a client closes its connection,
/// which an SDK client does not do. For a later connection it starts a thread, which then takes the
/// queued ones.
fn open_connections(address: SocketAddr, ended: &Receiver<()>) {
    while ended.recv_timeout(CONNECTION_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        // If it fails, the next one may succeed.
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.listener.unblock();
        // A panic of the thread has been printed, and its test has failed because it got no
        // response.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Call {
    /// Reads a request. Returns `None` if the client closed the connection before its end.
    fn read_request(mut request: Request) -> Option<Self> {
        let mut body = Vec::new();
        request.as_reader().read_to_end(&mut body).ok()?;
        let (path, query) = request.url().split_once('?').unwrap_or((request.url(), ""));
        Some(Self {
            method: request.method().to_string(),
            path: path.into(),
            query: query.into(),
            body,
            request,
        })
    }

    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        self.request
            .headers()
            .iter()
            .find(|header| header.field.equiv(name))
            .map(|header| header.value.as_str())
    }

    /// Sends the response in one write. `tiny_http` uses several writes, each of which waits for
    /// the acknowledgement of the previous one (Nagle's algorithm). That would distort every
    /// measurement.
    pub(crate) fn response(self, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let reason = StatusCode(status).default_reason_phrase();
        let mut response = format!(
            "HTTP/1.1 {status} {reason}\r\nContent-Length: {}\r\n",
            body.len()
        )
        .into_bytes();
        for (name, value) in headers {
            response.extend(format!("{name}: {value}\r\n").bytes());
        }
        response.extend(b"\r\n");
        response.extend(body);
        let mut writer = self.request.into_writer();
        // Fails if a test has killed the client.
        let _ = writer.write_all(&response).and_then(|()| writer.flush());
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    /// Sends a request and returns the connection, which stays open like those of SDK clients.
    fn connect(address: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .unwrap();
        assert!(
            stream.read(&mut [0; 100]).unwrap() > 0,
            "the request has a response"
        );
        stream
    }

    #[test]
    fn every_connection_of_a_burst_is_served() {
        for _ in 0..20 {
            let server = Server::start(|call| call.response(200, &[], b"ok"));
            let address = server.address();
            let started = Instant::now();
            let streams: Vec<_> = std::thread::scope(|scope| {
                let clients: Vec<_> = (0..16).map(|_| scope.spawn(|| connect(&address))).collect();
                clients
                    .into_iter()
                    .map(|client| client.join().unwrap())
                    .collect()
            });
            let elapsed = started.elapsed();
            assert!(elapsed < Duration::from_secs(2), "{elapsed:?}");
            drop(streams);
        }
    }
}

//! Ctrl-C.

use std::future::pending;
use std::sync::OnceLock;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Whether Ctrl-C has been pressed.
static PRESSED: OnceLock<watch::Receiver<bool>> = OnceLock::new();

/// Completes when Ctrl-C is pressed. It counts from the first call of [`listen`] on, so that a press
/// between two waits is not lost.
pub(crate) async fn interrupted() {
    if listen().wait_for(|pressed| *pressed).await.is_err() {
        // Without a signal handler, Ctrl-C ends the process.
        pending::<()>().await;
    }
}

/// Begins to listen for Ctrl-C, which no longer ends the process. Call it before a command prints
/// that it waits.
pub(crate) fn listen() -> watch::Receiver<bool> {
    let receiver = PRESSED.get_or_init(|| {
        let (sender, receiver) = watch::channel(false);
        if let Ok(mut interrupts) = signal(SignalKind::interrupt()) {
            tokio::spawn(async move {
                interrupts.recv().await;
                sender.send_replace(true);
            });
        }
        receiver
    });
    receiver.clone()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test]
    async fn a_press_between_two_waits_is_not_lost() {
        listen();
        let process = std::process::id().to_string();
        let sent = Command::new("kill").args(["-s", "INT", &process]).status();
        assert!(sent.unwrap().success());
        sleep(Duration::from_millis(50)).await;
        for _ in 0..2 {
            timeout(Duration::from_secs(10), interrupted())
                .await
                .unwrap();
        }
    }
}

//! What holds while another thread changes the tree continuously.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use stepward::model::error::ErrorName;

use super::WalkedEntry;
use super::tests::{Tree, read_content};

/// Runs `attempt` repeatedly while another thread makes `d` alternately a directory with the file
/// `f` and a link out of the root. `attempt` returns whether it met the directory; each state must
/// be met often.
fn while_a_directory_becomes_a_link_out(tree: &Tree, mut attempt: impl FnMut(usize) -> bool) {
    let is_finished = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            tree.link(tree.outside(), "link");
            while !is_finished.load(Ordering::Relaxed) {
                let (path, link) = (tree.path("d"), tree.path("link"));
                renameat_with(CWD, path, CWD, link, RenameFlags::EXCHANGE).unwrap();
                // Each state lasts a moment; otherwise the test would hardly ever meet them.
                thread::sleep(Duration::from_micros(50));
            }
        });
        let started = Instant::now();
        let (mut inside_count, mut outside_count, mut rounds) = (0, 0, 0);
        while rounds < 3_000 || inside_count < 200 || outside_count < 200 {
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(rounds)));
            // A failed assertion must end the other thread, too.
            is_finished.store(
                outcome.is_err() || started.elapsed() > Duration::from_mins(1),
                Ordering::Relaxed,
            );
            let is_inside = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (inside_count, outside_count, rounds) = (
                inside_count + usize::from(is_inside),
                outside_count + usize::from(!is_inside),
                rounds + 1,
            );
            assert!(
                !is_finished.load(Ordering::Relaxed),
                "the directory was there in {inside_count} of {rounds} rounds"
            );
        }
        is_finished.store(true, Ordering::Relaxed);
    });
    tree.assert_outside_unchanged();
}

#[test]
fn nothing_outside_is_read_while_a_directory_becomes_a_link() {
    let tree = Tree::new();
    tree.file("d/f");
    while_a_directory_becomes_a_link_out(&tree, |_| match read_content(&tree, "d/f") {
        Ok(text) => {
            assert_eq!(text, "d/f");
            true
        }
        Err(error) => {
            assert!(
                matches!(error.name, ErrorName::InvalidInput | ErrorName::NotFound),
                "{error}"
            );
            false
        }
    });
}

#[test]
fn nothing_outside_is_listed_while_a_directory_becomes_a_link() {
    let tree = Tree::new();
    tree.file("d/f");
    tree.file("d/g/inside");
    let device = tree.root.stat("d/f").unwrap().unwrap().device;
    while_a_directory_becomes_a_link_out(&tree, |_| {
        let mut inside = false;
        let walked = tree.root.walk("", None, &mut |listed| {
            if let WalkedEntry::File { key, stat } = listed {
                // The outside file has six bytes; the inside files are as long as their paths.
                let expected = [
                    ("d/f", 3),
                    ("d/g/inside", 10),
                    ("link/f", 3),
                    ("link/g/inside", 10),
                ];
                assert!(
                    expected.contains(&(key.as_str(), stat.size)),
                    "{key} of {} bytes",
                    stat.size
                );
                inside |= key == "d/f" && stat.device == device;
            }
            ControlFlow::Continue(())
        });
        walked.unwrap();
        inside
    });
}

#[test]
fn nothing_outside_is_written_while_a_directory_becomes_a_link() {
    let tree = Tree::new();
    tree.file("d/f");
    let scratch = tree.root.scratch("race").unwrap();
    while_a_directory_becomes_a_link_out(&tree, |round| {
        drop(scratch.create_file("x").unwrap());
        let destination = if round % 2 == 0 {
            "d/f".to_owned()
        } else {
            format!("d/deep/{}", round % 7)
        };
        scratch
            .publish_file("x", &destination, SystemTime::now(), false)
            .is_ok()
    });
}

#[test]
fn nothing_outside_is_removed_while_a_directory_becomes_a_link() {
    let tree = Tree::new();
    tree.file("d/f");
    while_a_directory_becomes_a_link_out(&tree, |_| {
        let removed = tree.root.remove_file("d/f").is_ok();
        if removed {
            // `d` may be the link now; restore the file without following it.
            let scratch = tree.root.scratch("back").unwrap();
            drop(scratch.create_file("f").unwrap());
            while scratch
                .publish_file("f", "d/f", SystemTime::now(), false)
                .is_err()
            {}
        }
        removed
    });
}

//! What holds while another thread changes the tree all the time.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use stepward::model::error::ErrorName;

use super::Listed;
use super::tests::{Tree, content};

/// Runs `attempt` again and again while another thread makes `d` in turn a directory with the file
/// `f` and a link out of the root. `attempt` says whether it met the directory; both must have been
/// met often.
fn while_a_directory_becomes_a_link_out(tree: &Tree, mut attempt: impl FnMut(usize) -> bool) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            tree.link(tree.outside(), "link");
            while !over.load(Ordering::Relaxed) {
                let (place, link) = (tree.path("d"), tree.path("link"));
                renameat_with(CWD, place, CWD, link, RenameFlags::EXCHANGE).unwrap();
                // A moment for each state, or the two would hardly ever be met.
                thread::sleep(Duration::from_micros(50));
            }
        });
        let started = Instant::now();
        let (mut met, mut refused, mut rounds) = (0, 0, 0);
        while rounds < 3_000 || met < 200 || refused < 200 {
            let outcome =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attempt(rounds)));
            // A failed assertion must end the other thread, too.
            over.store(
                outcome.is_err() || started.elapsed() > Duration::from_mins(1),
                Ordering::Relaxed,
            );
            let inside = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            (met, refused, rounds) = (
                met + usize::from(inside),
                refused + usize::from(!inside),
                rounds + 1,
            );
            assert!(
                !over.load(Ordering::Relaxed),
                "{met} of {rounds} rounds met the directory"
            );
        }
        over.store(true, Ordering::Relaxed);
    });
    tree.nothing_happened_outside();
}

#[test]
fn nothing_outside_is_read_while_a_directory_becomes_a_link() {
    let tree = Tree::new();
    tree.file("d/f");
    while_a_directory_becomes_a_link_out(&tree, |_| match content(&tree, "d/f") {
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
    let secret = tree.root.stat("d/f").unwrap().unwrap().device;
    while_a_directory_becomes_a_link_out(&tree, |_| {
        let mut inside = false;
        let walked = tree.root.walk("", None, &mut |listed| {
            if let Listed::File { key, stat } = listed {
                // The file outside is six bytes, those inside are as long as their paths.
                let known = [
                    ("d/f", 3),
                    ("d/g/inside", 10),
                    ("link/f", 3),
                    ("link/g/inside", 10),
                ];
                assert!(
                    known.contains(&(key.as_str(), stat.size)),
                    "{key} of {} bytes",
                    stat.size
                );
                inside |= key == "d/f" && stat.device == secret;
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
        drop(scratch.create("x").unwrap());
        let destination = if round % 2 == 0 {
            "d/f".to_owned()
        } else {
            format!("d/deep/{}", round % 7)
        };
        scratch
            .publish("x", &destination, SystemTime::now(), false)
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
            // It is in one of the two places; never follow a link to put it back.
            let scratch = tree.root.scratch("back").unwrap();
            drop(scratch.create("f").unwrap());
            while scratch
                .publish("f", "d/f", SystemTime::now(), false)
                .is_err()
            {}
        }
        removed
    });
}

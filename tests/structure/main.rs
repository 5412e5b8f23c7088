//! Checks the structure and the language of the code: no files of a package import each other,
//! directly or through other files, and all files use plain words.
//!
//! Files in an import cycle cannot be read, moved or tested without each other.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests may panic, as tests do"
)]

mod cycles;
mod imports;
mod packages;
mod words;

use std::collections::BTreeMap;

use crate::cycles::{Cycle, cycles};
use crate::imports::{Import, Package, imports};

const ADVICE: &str = "Move the item that closes the cycle to the file where it belongs, or to a \
     new file that both sides import:";

/// Describes a cycle, one import per line, with advice.
fn report(cycle: &Cycle) -> String {
    let line = |import: &&Import| {
        format!(
            "{}:{}: `{}` imports from {}",
            import.from, import.line, import.path, import.to
        )
    };
    let lines: Vec<_> = cycle.shortest.iter().map(line).collect();
    let others = match cycle.files - cycle.shortest.len() {
        0 => String::new(),
        more => format!(", and with {more} more"),
    };
    format!(
        "{} files import each other{others}. {ADVICE}\n  {}",
        cycle.shortest.len(),
        lines.join("\n  ")
    )
}

fn reports(package: &Package) -> Vec<String> {
    let imports = imports(package).unwrap();
    cycles(&imports).iter().map(report).collect()
}

#[test]
fn no_files_of_a_package_import_each_other() {
    let found: Vec<_> = packages::workspace().iter().flat_map(reports).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n\n"));
}

#[test]
fn every_package_of_the_workspace_is_examined() {
    let packages = packages::workspace();
    for directory in packages::directories() {
        let is_in_directory = |package: &Package| {
            package
                .sources
                .keys()
                .any(|file| file.starts_with(&directory))
        };
        assert!(
            packages.iter().any(is_in_directory),
            "{directory} belongs to no package of the workspace"
        );
    }
    // If the analysis resolved no imports, it would find no cycles either.
    let largest = packages
        .iter()
        .max_by_key(|package| package.sources.len())
        .unwrap();
    let found = imports(largest).unwrap().len();
    assert!(
        found > largest.sources.len(),
        "only {found} imports in {}",
        largest.library_name
    );
}

/// Returns a package with the given files. `src/lib.rs` is the library `planted`, and files in
/// `src/bin` are binaries.
fn planted_package(files: &[(&str, &str)]) -> Package {
    let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
    let sources: BTreeMap<_, _> = files.iter().map(owned).collect();
    let others = sources
        .keys()
        .filter(|path| path.starts_with("src/bin/"))
        .cloned()
        .collect();
    Package {
        library_name: "planted".into(),
        library: Some("src/lib.rs".into()),
        others,
        sources,
    }
}

/// Returns the imports of such a package as `from -> to`, without line numbers.
fn edges(files: &[(&str, &str)]) -> Vec<String> {
    let imports = imports(&planted_package(files)).unwrap();
    imports
        .iter()
        .map(|import| format!("{} -> {}", import.from, import.to))
        .collect()
}

#[test]
fn a_planted_cycle_is_reported_with_paths_and_lines() {
    let found = reports(&planted_package(&[
        ("src/lib.rs", "mod a;\nmod b;\nmod c;\nmod d;"),
        ("src/a.rs", "\nuse crate::b::B;\npub struct A(B);"),
        ("src/b.rs", "use crate::c::{self, C};\npub struct B(C);"),
        (
            "src/c.rs",
            "pub struct C;\n\n\nfn c() -> Option<super::a::A> { None }",
        ),
        ("src/d.rs", "use crate::a::A;\npub struct D(A);"),
    ]));
    let [report] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(
        report.starts_with(&format!("3 files import each other. {ADVICE}\n")),
        "{report}"
    );
    let cycle = "\n  src/a.rs:2: `crate::b::B` imports from src/b.rs\
                 \n  src/b.rs:1: `crate::c::C` imports from src/c.rs\
                 \n  src/c.rs:4: `super::a::A` imports from src/a.rs";
    assert!(report.ends_with(cycle), "{report}");
}

#[test]
fn two_cycles_are_two_reports() {
    let found = reports(&planted_package(&[
        ("src/lib.rs", "mod a; mod b; mod c; mod d;"),
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        (
            "src/b.rs",
            "use crate::a::A; pub struct B; use crate::c::C;",
        ),
        ("src/c.rs", "use crate::d::D; pub struct C;"),
        ("src/d.rs", "use crate::c::C; pub struct D;"),
    ]));
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn the_shortest_cycle_of_a_group_is_reported() {
    let found = reports(&planted_package(&[
        ("src/lib.rs", "mod a; mod b; mod c;"),
        ("src/a.rs", "use crate::b::B; pub struct A;"),
        ("src/b.rs", "use crate::c::C; pub struct B;"),
        (
            "src/c.rs",
            "use crate::a::A; use crate::b::B; pub struct C;",
        ),
    ]));
    let [report] = &found[..] else {
        panic!("{found:?}")
    };
    assert!(
        report.starts_with("2 files import each other, and with 1 more."),
        "{report}"
    );
}

/// In each case `src/a.rs` imports from `src/b.rs`, which imports from `src/a.rs`.
#[test]
fn a_cycle_is_found_in_all_forms_of_imports() {
    for (case, text) in [
        ("import", "use crate::b::B;"),
        ("relative import", "use super::b::B;"),
        ("renamed import", "use crate::b::B as Other;"),
        ("nested group", "use crate::{b::{self, B}};"),
        ("re-exported by the root", "use crate::B;"),
        ("renamed by the root", "use crate::Renamed;"),
        ("re-exported by a facade", "use crate::facade::B;"),
        ("re-exported by a glob", "use crate::globbed::B;"),
        ("glob", "use crate::b::*;"),
        (
            "module named, then used",
            "use crate::b; fn f() -> b::B { todo!() }",
        ),
        ("import in a function", "fn f() { use crate::b::B; }"),
        ("qualified call", "fn f() { crate::b::b(); }"),
        ("qualified type", "struct S { b: Vec<crate::b::B> }"),
        ("associated function", "fn f() { crate::B::new(); }"),
        (
            "pattern",
            "fn f(x: u8) -> bool { matches!(x, crate::b::LIMIT) }",
        ),
        ("implementation", "struct S; impl crate::b::Trait for S {}"),
        (
            "argument of a macro",
            "fn f() { assert_eq!(1, crate::b::b(), \"{}\", 2); }",
        ),
        (
            "attribute",
            "#[derive(Deserialize)] struct S { #[serde(default = \"crate::b::b\")] b: u8 }",
        ),
        ("inline module", "mod inner { use super::super::b::B; }"),
        ("name that a macro makes", "use crate::b::MADE;"),
    ] {
        let text = format!("{text} pub struct A;");
        let found = reports(&planted_package(&[
            (
                "src/lib.rs",
                "mod a; mod b; mod facade; mod globbed; pub use b::{B, B as Renamed};",
            ),
            ("src/facade/mod.rs", "pub use super::b::B;"),
            ("src/globbed.rs", "pub(crate) use super::facade::*;"),
            ("src/a.rs", &text),
            (
                "src/b.rs",
                "use crate::a::A; made!(MADE); pub enum B {} pub fn b() -> u8 { 0 } pub const \
                 LIMIT: u8 = 1;",
            ),
        ]));
        assert_eq!(found.len(), 1, "{case}: {found:?}");
    }
}

#[test]
fn a_parent_and_its_child_are_two_files() {
    let child = ("src/a/child.rs", "use super::A; pub struct Child(A);");
    let root = ("src/lib.rs", "mod a;");
    let declares = ("src/a.rs", "mod child; pub use child::Child; pub struct A;");
    assert_eq!(
        edges(&[root, declares, child]),
        ["src/a/child.rs -> src/a.rs"]
    );
    let uses = (
        "src/a.rs",
        "mod child; pub use child::Child; pub struct A; fn f(_: &Child) {}",
    );
    assert_eq!(reports(&planted_package(&[root, uses, child])).len(), 1);
}

#[test]
fn a_file_that_only_re_exports_is_in_no_cycle() {
    let files = [
        ("src/lib.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
        ("src/a.rs", "pub struct A;"),
        ("src/b.rs", "use crate::A; pub struct B(A);"),
    ];
    assert_eq!(edges(&files), ["src/b.rs -> src/a.rs"]);
}

#[test]
fn code_for_tests_alone_does_not_count() {
    for text in [
        "#[cfg(test)] use crate::b::B;",
        "#[cfg(all(test, unix))] use crate::b::B;",
        "#[cfg(test)] mod tests { use crate::b::B; }",
        "#[cfg(test)] mod helper;",
        "#[cfg(test)] impl A { fn f() -> crate::b::B { todo!() } }",
        "impl A { #[cfg(test)] fn f() -> crate::b::B { todo!() } }",
        "fn f() { #[cfg(test)] let b = crate::b::B; }",
        "#[test] fn f() { crate::b::B; }",
        "struct S { #[cfg(test)] b: crate::b::B }",
    ] {
        let text = format!("{text} pub struct A;");
        let mut files = vec![
            ("src/lib.rs", "mod a; mod b;"),
            ("src/a.rs", text.as_str()),
            ("src/b.rs", "use crate::a::A; pub struct B;"),
        ];
        if text.contains("mod helper;") {
            files.push(("src/a/helper.rs", "use crate::b::B;"));
        }
        assert_eq!(edges(&files), ["src/b.rs -> src/a.rs"], "{text}");
    }
    let otherwise = (
        "src/a.rs",
        "#[cfg(not(test))] use crate::b::B; pub struct A;",
    );
    let files = [
        ("src/lib.rs", "mod a; mod b;"),
        otherwise,
        ("src/b.rs", "use crate::a::A; pub struct B;"),
    ];
    assert_eq!(
        edges(&files),
        ["src/a.rs -> src/b.rs", "src/b.rs -> src/a.rs"]
    );
}

#[test]
fn a_module_and_a_function_may_share_a_name() {
    let files = [
        ("src/lib.rs", "mod check; mod b; pub use check::check;"),
        ("src/check.rs", "pub fn check() {} pub use crate::b::b;"),
        (
            "src/b.rs",
            "pub fn b() { crate::check(); crate::check::b(); }",
        ),
    ];
    assert_eq!(edges(&files), ["src/b.rs -> src/check.rs"]);
}

#[test]
fn a_binary_imports_its_library_by_the_packages_name() {
    let files = [
        ("src/lib.rs", "pub mod a; pub use a::A;"),
        ("src/a.rs", "pub struct A; pub fn f() {}"),
        ("src/bin/one.rs", "use planted::A; fn main() {}"),
        ("src/bin/two.rs", "fn main() { ::planted::a::f() }"),
        (
            "src/bin/three.rs",
            "#[path = \"../shared.rs\"] mod shared; fn main() { shared::f() }",
        ),
        (
            "src/shared.rs",
            "use planted::a; pub fn f() { a::f(); let serde = 1; \
             serde_json::from_str(\"planted\"); }",
        ),
    ];
    let wanted = [
        "src/bin/one.rs -> src/a.rs",
        "src/bin/three.rs -> src/shared.rs",
        "src/bin/two.rs -> src/a.rs",
        "src/shared.rs -> src/a.rs",
    ];
    assert_eq!(edges(&files), wanted);
}

#[test]
fn a_source_file_that_no_module_declares_is_an_error() {
    let error = imports(&planted_package(&[("src/lib.rs", ""), ("src/lost.rs", "")])).unwrap_err();
    assert!(
        error.starts_with("src/lost.rs: no `mod` declaration"),
        "{error}"
    );
    let error = imports(&planted_package(&[("src/lib.rs", "mod absent;")])).unwrap_err();
    assert!(error.contains("`mod absent;` has no file"), "{error}");
}

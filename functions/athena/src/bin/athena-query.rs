//! The function of the step `athena-query`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_athena::steps::athena_query::RunQuery>()
}

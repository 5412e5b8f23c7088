//! The function of the step `ssm-copy-file`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ssm::steps::ssm_copy_file::CopyFile>()
}

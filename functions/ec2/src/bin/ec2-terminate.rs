//! The function of the step `ec2-terminate`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ec2::steps::ec2_terminate::Terminate>()
}

//! The function of the step `ec2-create-from-snapshot`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_ec2::steps::ec2_create_from_snapshot::Create>()
}

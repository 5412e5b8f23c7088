//! The function of the step `s3-delete-bucket`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_s3::steps::s3_delete_bucket::DeleteBucket>()
}

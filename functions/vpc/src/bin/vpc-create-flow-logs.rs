//! The function of the step `vpc-create-flow-logs`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_vpc::steps::vpc_create_flow_logs::CreateFlowLogs>()
}

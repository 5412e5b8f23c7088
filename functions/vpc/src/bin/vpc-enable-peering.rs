//! The function of the step `vpc-enable-peering`. Written by `cargo xtask generate`.

fn main() -> std::process::ExitCode {
    stepward::serve::<stepward_vpc::steps::vpc_enable_peering::EnablePeering>()
}

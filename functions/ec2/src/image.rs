//! Properties of a machine that EC2 cannot read from a snapshot.

use aws_sdk_ec2::types::{ArchitectureValues, BootModeValues};
use schemars::JsonSchema;
use serde::Deserialize;

/// The architecture of an image.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// 64-bit Intel and AMD.
    #[default]
    #[serde(rename = "x86_64")]
    X86,
    /// AWS Graviton.
    Arm64,
    /// 32-bit Intel and AMD.
    I386,
}

impl From<Architecture> for ArchitectureValues {
    fn from(architecture: Architecture) -> Self {
        match architecture {
            Architecture::X86 => Self::X8664,
            Architecture::Arm64 => Self::Arm64,
            Architecture::I386 => Self::I386,
        }
    }
}

/// How a machine boots.
/// <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-boot.html>
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    /// Legacy BIOS.
    LegacyBios,
    /// UEFI.
    Uefi,
    /// UEFI if the instance type supports it, otherwise legacy BIOS.
    UefiPreferred,
}

impl From<BootMode> for BootModeValues {
    fn from(mode: BootMode) -> Self {
        match mode {
            BootMode::LegacyBios => Self::LegacyBios,
            BootMode::Uefi => Self::Uefi,
            BootMode::UefiPreferred => Self::UefiPreferred,
        }
    }
}

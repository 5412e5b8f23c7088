//! `stepward account …`

mod add;
mod check;
mod override_trust;
mod remove;
mod rotate;
mod set_mapping;
mod set_role;
mod show;

use clap::Subcommand;

use crate::error::Result;
use crate::global::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    Add(add::AddAccount),
    SetRole(set_role::SetRole),
    SetMapping(set_mapping::SetAccountMapping),
    Check(check::CheckAccount),
    Rotate(rotate::RotateExternalId),
    Show(show::ShowAccount),
    Remove(remove::RemoveAccount),
    OverrideTrust(override_trust::OverrideTrust),
}

impl Account {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        match self {
            Self::Add(add) => add.run(global).await,
            Self::SetRole(set_role) => set_role.run(global).await,
            Self::SetMapping(set_mapping) => set_mapping.run(global).await,
            Self::Check(check) => check.run(global).await,
            Self::Rotate(rotate) => rotate.run(global).await,
            Self::Show(show) => show.run(global).await,
            Self::Remove(remove) => remove.run(global).await,
            Self::OverrideTrust(override_trust) => override_trust.run(global).await,
        }
    }
}

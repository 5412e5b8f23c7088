//! `stepward keys …`

mod list;
mod remove;
mod set;

use clap::Subcommand;

use crate::error::Result;
use crate::global::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    Set(set::SetKey),
    List(list::ListKeys),
    Remove(remove::RemoveKey),
}

impl Keys {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        match self {
            Self::Set(set) => set.run(global).await,
            Self::List(list) => list.run(global).await,
            Self::Remove(remove) => remove.run(global).await,
        }
    }
}

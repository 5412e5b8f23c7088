//! `stepward customer …`

mod add;
mod defaults;
mod list;
mod remove;
mod resume;
mod role_template;
mod set_mapping;
mod show;
mod suspend;

use clap::Subcommand;

use crate::error::Result;
use crate::global::Global;

#[derive(Debug, Subcommand)]
pub(crate) enum Customer {
    Add(add::AddCustomer),
    Defaults(defaults::SetDefaults),
    List(list::ListCustomers),
    Show(show::ShowCustomer),
    SetMapping(set_mapping::SetCustomerMapping),
    Suspend(suspend::SuspendCustomer),
    Resume(resume::ResumeCustomer),
    Remove(remove::RemoveCustomer),
    RoleTemplate(role_template::RoleTemplate),
}

impl Customer {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        match self {
            Self::Add(add) => add.run(global).await,
            Self::Defaults(defaults) => defaults.run(global).await,
            Self::List(list) => list.run(global).await,
            Self::Show(show) => show.run(global).await,
            Self::SetMapping(set_mapping) => set_mapping.run(global).await,
            Self::Suspend(suspend) => suspend.run(global).await,
            Self::Resume(resume) => resume.run(global).await,
            Self::Remove(remove) => remove.run(global).await,
            Self::RoleTemplate(template) => template.run(),
        }
    }
}

//! `stepward customer defaults`

use clap::Args;
use stepward::model::customer::{Defaults, Provider};

use crate::arguments::provider;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;
use crate::output::table;

/// Show or set what holds for customers that have no defaults of their own
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  stepward customer defaults
  stepward customer defaults --default-region eu-west-1")]
pub(crate) struct SetDefaults {
    /// The Region for steps that name none, where an account allows it
    #[arg(long)]
    default_region: Option<String>,
    /// Where credentials come from
    #[arg(long, value_parser = provider, value_name = "PROVIDER")]
    provider: Option<Provider>,
}

impl SetDefaults {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let mut defaults = records.explained(records.store.defaults().await)?;
        if self.default_region.is_some() || self.provider.is_some() {
            let Defaults {
                default_region,
                provider,
            } = defaults;
            defaults = Defaults {
                default_region: self.default_region.or(default_region),
                provider: self.provider.or(provider),
            };
            records.explained(
                records
                    .store
                    .set_defaults(&records.cloud.caller, &defaults)
                    .await,
            )?;
        }
        records.format.show(&defaults, || {
            let region = defaults
                .default_region
                .clone()
                .unwrap_or_else(|| "the account's first".into());
            let provider = defaults.provider.unwrap_or_default().to_string();
            table(&["default region", "provider"], [[region, provider]])
        })?;
        Ok(0)
    }
}

//! `stepward customer defaults`

use clap::Args;
use stepward::model::customer::{Defaults, Provider};

use crate::arguments::parse_provider;
use crate::commands::help::with_examples;
use crate::commands::records::Records;
use crate::error::Result;
use crate::global::Global;
use crate::output::format_table;

/// Show or set the defaults for customers that do not set their own
#[derive(Args, Debug)]
#[command(help_template = with_examples(
    "stepward customer defaults
stepward customer defaults --default-region eu-west-1"
))]
pub(crate) struct SetDefaults {
    /// The Region for steps that set no Region, if the account allows it
    #[arg(long)]
    default_region: Option<String>,
    /// The source of credentials: assume-role, ec2, ecs, execution-role, access-key
    #[arg(long, value_parser = parse_provider, value_name = "PROVIDER")]
    provider: Option<Provider>,
}

impl SetDefaults {
    pub(crate) async fn run(self, global: &Global) -> Result<u8> {
        let records = Records::open(global).await?;
        let mut defaults = records.map_error(records.store.defaults().await)?;
        if self.default_region.is_some() || self.provider.is_some() {
            let Defaults {
                default_region,
                provider,
            } = defaults;
            defaults = Defaults {
                default_region: self.default_region.or(default_region),
                provider: self.provider.or(provider),
            };
            records.map_error(
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
            format_table(&["default region", "provider"], [[region, provider]])
        })?;
        Ok(0)
    }
}

//! The options for mappings of EC2 instances to nodes.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Map, Value};
use stepward::model::customer::NodeMapping;
use stepward::model::error::StepError;
use stepward::node::mapping::Mapping;
use stepward::node::mapping::ec2::{check_field, check_mapping};

use crate::error::{Context, Error, Result};
use crate::output::escaped;

/// A mapping, as the parameters of the step `ec2-nodes` with the same names.
#[derive(Args, Debug)]
pub(crate) struct MappingOptions {
    /// How EC2 instances become nodes: entries in Rundeck's mapping syntax, separated by `;`
    /// [default: the mapping in the account's or customer's record]
    #[arg(long, value_name = "ENTRY;…")]
    mapping: Option<String>,
    /// A file with the mapping: a Java properties file, one entry on each line
    #[arg(long, value_name = "FILE", conflicts_with = "mapping")]
    mapping_file: Option<PathBuf>,
    /// Whether the mapping extends Rundeck's default mapping instead of replacing it
    /// [default: true]
    #[arg(long, value_name = "true|false")]
    use_default_mapping: Option<bool>,
}

impl MappingOptions {
    /// The mapping for a record, if there is one.
    pub(crate) fn record(&self) -> Result<Option<NodeMapping>> {
        let mapping = self.text()?.filter(|text| !text.is_empty());
        if mapping.is_none() && self.use_default_mapping.is_some() {
            return Err(
                Error::usage_error("--use-default-mapping without a mapping")
                    .with_advice("add --mapping or --mapping-file"),
            );
        }
        Ok(mapping.map(|mapping| NodeMapping {
            mapping,
            use_default_mapping: self.use_default_mapping.unwrap_or(true),
        }))
    }

    /// The mapping to set in a record, or `None` to remove the record's mapping.
    pub(crate) fn to_set(&self, remove: bool) -> Result<Option<NodeMapping>> {
        let mapping = self.record()?;
        if mapping.is_none() && !remove {
            return Err(Error::usage_error("the mapping is missing")
                .with_advice("add --mapping, --mapping-file or --remove"));
        }
        Ok(mapping)
    }

    /// The parameters for the step `ec2-nodes`.
    pub(crate) fn parameters(&self) -> Result<Map<String, Value>> {
        let mut parameters = Map::new();
        if let Some(mapping) = self.text()? {
            parameters.insert("mapping".into(), mapping.into());
        }
        if let Some(use_default) = self.use_default_mapping {
            parameters.insert("use_default_mapping".into(), use_default.into());
        }
        Ok(parameters)
    }

    /// The checked text of the mapping.
    fn text(&self) -> Result<Option<String>> {
        if let Some(path) = &self.mapping_file {
            return read_mapping_file(path).map(Some);
        }
        if let Some(text) = self.mapping.as_ref().filter(|text| !text.is_empty()) {
            check_mapping(text).map_err(|error| invalid_mapping("--mapping", &error))?;
        }
        Ok(self.mapping.clone())
    }
}

fn read_mapping_file(path: &Path) -> Result<String> {
    let option = format!("--mapping-file {}", path.display());
    let bytes = std::fs::read(path)
        .context(option.as_str())
        .map_err(Error::into_not_started)?;
    // Java reads properties files as ISO 8859-1, whose characters are the first of Unicode.
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| error.as_bytes().iter().copied().map(char::from).collect());
    let checked = Mapping::parse_file(&text, check_field);
    let text = Mapping::text_of_file(&text).into_owned();
    checked
        .and_then(|_| check_mapping(&text))
        .map_err(|error| invalid_mapping(&option, &error))?;
    Ok(text)
}

fn invalid_mapping(option: &str, error: &StepError) -> Error {
    Error::usage_error(error.message.clone()).with_context(option)
}

/// A mapping as a text to print, after the tables of a record.
pub(crate) fn mapping_text(owner: &str, mapping: Option<&NodeMapping>) -> String {
    let Some(mapping) = mapping else {
        return String::new();
    };
    let relation = if mapping.use_default_mapping {
        "extends"
    } else {
        "replaces"
    };
    let heading = format!("\n\nMapping of {owner}, which {relation} Rundeck's default mapping:");
    let entries = mapping.mapping.trim().lines();
    let lines: Vec<_> = [heading].into_iter().chain(entries.map(escaped)).collect();
    lines.join("\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(
        mapping: Option<&str>,
        file: Option<&Path>,
        use_default: Option<bool>,
    ) -> MappingOptions {
        MappingOptions {
            mapping: mapping.map(str::to_owned),
            mapping_file: file.map(Path::to_owned),
            use_default_mapping: use_default,
        }
    }

    #[test]
    fn options_become_a_record_or_parameters() {
        assert_eq!(options(None, None, None).record().unwrap(), None);
        let stored = options(Some("a.selector=vpcId"), None, Some(false));
        assert_eq!(
            stored.record().unwrap(),
            Some(NodeMapping {
                mapping: "a.selector=vpcId".into(),
                use_default_mapping: false
            })
        );
        let parameters = Value::Object(stored.parameters().unwrap());
        let expected = serde_json::json!({
            "mapping": "a.selector=vpcId",
            "use_default_mapping": false
        });
        assert_eq!(parameters, expected);
        let error = options(None, None, Some(true)).record().unwrap_err();
        assert!(error.to_string().contains("without a mapping"), "{error}");
        assert!(options(None, None, None).parameters().unwrap().is_empty());
    }

    #[test]
    fn a_file_of_one_line_keeps_its_escapes() {
        let path = std::env::temp_dir().join(format!("mapping-{}", std::process::id()));
        std::fs::write(&path, b"url.default=https\\://x/\xe4\n").unwrap();
        let text = options(None, Some(&path), None).text().unwrap().unwrap();
        assert_eq!(
            Mapping::parse(&text, check_field).unwrap().to_string(),
            "\nurl.default=https://x/ä"
        );
        std::fs::write(&path, "a.selector=vpcId\nb.selector=imageID\n").unwrap();
        let error = options(None, Some(&path), None).text().unwrap_err();
        std::fs::remove_file(&path).unwrap();
        let message = error.to_string();
        assert!(
            message.starts_with("--mapping-file /") && message.contains("line 2, column 12"),
            "{message}"
        );
        assert_eq!(error.code(), crate::error::NOT_STARTED);
        let error = options(Some("nonsense"), None, None).text().unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("--mapping: mapping, column 1: expected"),
            "{error}"
        );
    }

    #[test]
    fn a_mapping_is_printed_with_its_relation_to_the_default() {
        let mapping = NodeMapping {
            mapping: "\na.selector=vpcId\nb.default=x\u{1b}\n".into(),
            use_default_mapping: false,
        };
        let text = mapping_text("account prod", Some(&mapping));
        assert!(
            text.starts_with("\n\nMapping of account prod, which replaces Rundeck's")
                && text.contains("\n  a.selector=vpcId\n  b.default=x")
                && !text.contains('\u{1b}'),
            "{text}"
        );
        assert_eq!(mapping_text("account prod", None), "");
    }
}

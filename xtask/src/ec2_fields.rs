//! Generates the fields of EC2 instances that a mapping can select, from the source of the AWS SDK.
//!
//! The SDK's types have the fields in Rust's spelling. Its parsers of responses have, in comments,
//! the names from AWS's model, which Rundeck's mappings use with a lower-case first letter.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use stepward_testkit::build::{GENERATE, root};

/// The file with the names of the fields.
const NAMES: &str = "shared/src/node/mapping/ec2_fields.rs";
/// The file with the functions that read the fields.
const GETTERS: &str = "functions/ec2/src/instance_fields.rs";
/// The type whose fields are generated.
const INSTANCE: &str = "Instance";
/// The field that a mapping selects as `tags/NAME` instead.
const TAGS: &str = "tags";

/// Returns the two generated files, by their path from the root.
///
/// # Errors
/// If the SDK's source is not found, or has a form that this module does not know.
pub(crate) fn generated_files() -> Result<BTreeMap<String, String>, String> {
    let sdk = Sdk::open(&sdk_folder()?)?;
    let mut fields = BTreeMap::new();
    sdk.add_fields(&[], INSTANCE, &mut fields)?;
    Ok(BTreeMap::from([
        (NAMES.to_owned(), names_source(&fields)),
        (GETTERS.to_owned(), getters_source(&fields)),
    ]))
}

/// The fields with their paths, by name.
type FoundFields = BTreeMap<String, Field>;

/// A field that has a text as its value: the members on the way to it, and itself.
struct Field {
    path: Vec<Member>,
    kind: ValueKind,
}

/// A member of a structure.
#[derive(Clone)]
struct Member {
    /// The name in a mapping, for example `vpcId`.
    name: String,
    /// The name of the SDK's method, for example `vpc_id`.
    method: String,
    is_list: bool,
}

/// The function in `functions/ec2/src/field_values.rs` that makes a text from a value.
#[derive(Clone, Copy)]
enum ValueKind {
    Text,
    Displayed,
    Timestamp,
}

/// The source of the SDK's crate.
struct Sdk {
    source: PathBuf,
    /// The modules of the types, such as `_cpu_options`, by type.
    modules: BTreeMap<String, String>,
}

impl Sdk {
    fn open(folder: &Path) -> Result<Self, String> {
        let mut sdk = Self {
            source: folder.join("src"),
            modules: BTreeMap::new(),
        };
        let exports = sdk.read("types.rs")?;
        let exports = exports.lines().filter_map(|line| {
            line.strip_prefix("pub use crate::types::")?
                .strip_suffix(';')
        });
        let modules = exports.filter_map(|path| path.split_once("::"));
        sdk.modules = modules
            .map(|(module, type_name)| (type_name.to_owned(), module.to_owned()))
            .collect();
        Ok(sdk)
    }

    /// Adds the fields of a structure and of all structures in it.
    fn add_fields(
        &self,
        parents: &[Member],
        type_name: &str,
        fields: &mut FoundFields,
    ) -> Result<(), String> {
        for (member, type_name) in self.members(type_name)? {
            if parents.is_empty() && member.name == TAGS {
                continue;
            }
            let path = [parents, &[member]].concat();
            let kind = match type_name.as_str() {
                "::std::string::String" => ValueKind::Text,
                "bool" | "i32" | "i64" | "f32" | "f64" => ValueKind::Displayed,
                "::aws_smithy_types::DateTime" => ValueKind::Timestamp,
                other => {
                    let name = other
                        .strip_prefix("crate::types::")
                        .ok_or_else(|| format!("{other}: a type that this module does not know"))?;
                    if self.is_structure(name)? {
                        self.add_fields(&path, name, fields)?;
                        continue;
                    }
                    ValueKind::Text
                }
            };
            let names: Vec<_> = path.iter().map(|member| member.name.as_str()).collect();
            fields.insert(names.join("."), Field { path, kind });
        }
        Ok(())
    }

    /// The members of a structure, each with its type.
    fn members(&self, type_name: &str) -> Result<Vec<(Member, String)>, String> {
        let module = self.module(type_name)?;
        let names = model_names(&self.read(&format!("protocol_serde/shape{module}.rs"))?);
        let declaration = self.read(&format!("types/{module}.rs"))?;
        let structure = declaration
            .split_once("pub struct ")
            .and_then(|(_, rest)| rest.split_once("\n}"))
            .ok_or_else(|| format!("{type_name}: the structure is missing"))?
            .0;
        let lines = structure.lines().map(str::trim);
        let members = lines.filter_map(|line| line.strip_prefix("pub ")?.split_once(": "));
        members
            .map(|(method, member_type)| {
                let model_name = names
                    .get(method)
                    .ok_or_else(|| format!("{type_name}.{method}: the model's name is missing"))?;
                let value = inner_type(member_type.trim_end_matches(','), "option::Option")
                    .ok_or_else(|| format!("{type_name}.{method}: expected an `Option`"))?;
                let item = inner_type(value, "vec::Vec");
                let member = Member {
                    name: with_lower_case_first(model_name),
                    method: method.to_owned(),
                    is_list: item.is_some(),
                };
                Ok((member, item.unwrap_or(value).to_owned()))
            })
            .collect()
    }

    fn is_structure(&self, type_name: &str) -> Result<bool, String> {
        let module = self.module(type_name)?;
        let declaration = self.read(&format!("types/{module}.rs"))?;
        Ok(declaration.contains(&format!("pub struct {type_name} {{")))
    }

    fn module(&self, type_name: &str) -> Result<&str, String> {
        let module = self.modules.get(type_name).map(String::as_str);
        module.ok_or_else(|| format!("{type_name}: the SDK has no such type"))
    }

    fn read(&self, file: &str) -> Result<String, String> {
        let path = self.source.join(file);
        std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// The names of a structure's members in AWS's model, by their names in Rust. In the parser, each
/// member has a comment such as `/* VpcId com.amazonaws.ec2#Instance$VpcId */` before the call of
/// the builder's method `set_vpc_id`.
fn model_names(parser: &str) -> BTreeMap<String, String> {
    let mut names = BTreeMap::new();
    for arm in parser.split("/* ").skip(1) {
        let model_name = arm.split(' ').next().unwrap_or_default();
        let method = arm
            .split_once("builder = builder.set_")
            .and_then(|(_, rest)| rest.split_once('('));
        if let Some((method, _)) = method {
            names.insert(method.to_owned(), model_name.to_owned());
        }
    }
    names
}

/// The type in a generic type of the standard library.
fn inner_type<'t>(text: &'t str, generic: &str) -> Option<&'t str> {
    text.strip_prefix("::std::")?
        .strip_prefix(generic)?
        .strip_prefix('<')?
        .strip_suffix('>')
}

fn with_lower_case_first(name: &str) -> String {
    let mut letters = name.chars();
    let first = letters.next().map(|letter| letter.to_ascii_lowercase());
    first.into_iter().chain(letters).collect()
}

/// Returns the folder of the SDK's crate. Cargo knows it, because this workspace uses the crate.
fn sdk_folder() -> Result<PathBuf, String> {
    let version = command_output("rustc", &["-vV"])?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .ok_or("rustc -vV: the host is missing")?;
    // For this platform only, so that Cargo downloads nothing that a build does not need.
    let arguments = [
        "metadata",
        "--format-version",
        "1",
        "--filter-platform",
        host,
    ];
    let metadata: Value = serde_json::from_str(&command_output("cargo", &arguments)?)
        .map_err(|error| format!("cargo metadata: {error}"))?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages
        .filter(|package| package["name"] == "aws-sdk-ec2")
        .find_map(|package| Path::new(package["manifest_path"].as_str()?).parent())
        .map(Path::to_owned)
        .ok_or_else(|| "cargo metadata: the package aws-sdk-ec2 is missing".to_owned())
}

fn command_output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "{program} {}: {}",
            arguments.join(" "),
            reason.trim()
        ));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{program}: {error}"))
}

fn names_source(fields: &FoundFields) -> String {
    let name = |field: &Field| {
        let segment = |member: &Member| {
            let suffix = if member.is_list { "[]" } else { "" };
            format!("{}{suffix}", member.name)
        };
        let segments: Vec<_> = field.path.iter().map(segment).collect();
        format!("    \"{}\",\n", segments.join("."))
    };
    let names: String = fields.values().map(name).collect();
    format!(
        "//! The fields of an EC2 instance. Written by `{GENERATE}` from the source of the AWS SDK.\n\n\
         /// The names in EC2's API, with `[]` after the name of a list.\n\
         pub(super) const INSTANCE_FIELDS: [&str; {}] = [\n{names}];\n",
        fields.len()
    )
}

fn getters_source(fields: &FoundFields) -> String {
    let entry = |(name, field): (&String, &Field)| {
        let parameter = if field.path.iter().any(|member| member.is_list) {
            "path"
        } else {
            "_"
        };
        format!("    (\"{name}\", |i, {parameter}| {}),\n", getter(field))
    };
    let entries: String = fields.iter().map(entry).collect();
    format!(
        "//! Reads the fields of an EC2 instance. Written by `{GENERATE}` from the source of the AWS \
         SDK.\n\n\
         use crate::field_values::{{Getter, displayed, joined, text, timestamp}};\n\n\
         /// The functions that read the fields, sorted by name.\n\
         #[rustfmt::skip]\n\
         pub(crate) const GETTERS: [(&str, Getter); {}] = [\n{entries}];\n",
        fields.len()
    )
}

/// The expression that reads a field of the instance `i`.
fn getter(field: &Field) -> String {
    let function = match field.kind {
        ValueKind::Text => "text",
        ValueKind::Displayed => "displayed",
        ValueKind::Timestamp => "timestamp",
    };
    // Methods of structures are called directly. After a list, they are called on each of its items.
    let mut value = "i".to_owned();
    let mut items = String::new();
    for (segment, member) in field.path.iter().enumerate() {
        let is_last = segment + 1 == field.path.len();
        let method = format!("{value}.{}()", member.method);
        if member.is_list {
            let chosen = format!("path.items({segment}, {method})");
            items = if items.is_empty() {
                chosen
            } else {
                format!("{items}.flat_map(move |v| {chosen})")
            };
            "v".clone_into(&mut value);
            if is_last {
                items = format!("{items}.filter_map(|v| {function}(Some(v)))");
            }
            continue;
        }
        let call = if is_last {
            format!("{function}({method})")
        } else {
            method
        };
        if !items.is_empty() {
            items = format!("{items}.filter_map(|v| {call})");
        } else if is_last {
            value = call;
        } else {
            value = format!("{call}?");
        }
    }
    if items.is_empty() {
        value
    } else {
        format!("joined({items})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(path: &[(&str, &str, bool)], kind: ValueKind) -> Field {
        let member = |&(name, method, is_list): &(&str, &str, bool)| Member {
            name: name.to_owned(),
            method: method.to_owned(),
            is_list,
        };
        Field {
            path: path.iter().map(member).collect(),
            kind,
        }
    }

    #[test]
    fn a_getter_reads_structures_and_items_of_lists() {
        let cores = [
            ("cpuOptions", "cpu_options", false),
            ("coreCount", "core_count", false),
        ];
        assert_eq!(
            getter(&field(&cores, ValueKind::Displayed)),
            "displayed(i.cpu_options()?.core_count())"
        );
        let groups = [
            ("networkInterfaces", "network_interfaces", true),
            ("attachment", "attachment", false),
            ("groups", "groups", true),
            ("groupId", "group_id", false),
        ];
        assert_eq!(
            getter(&field(&groups, ValueKind::Text)),
            "joined(path.items(0, i.network_interfaces()).filter_map(|v| v.attachment())\
             .flat_map(move |v| path.items(2, v.groups())).filter_map(|v| text(v.group_id())))"
        );
        let names = [("names", "names", true)];
        assert_eq!(
            getter(&field(&names, ValueKind::Text)),
            "joined(path.items(0, i.names()).filter_map(|v| text(Some(v))))"
        );
    }

    #[test]
    fn names_are_those_of_the_model() {
        let parser = "s if s.matches(\"dnsAAAA\") /* DnsAAAARecord com.amazonaws.ec2#X$Dns */ => {\
            let var_1 = 1; builder = builder.set_dns_aaaa_record(var_1); }";
        let names = model_names(parser);
        assert_eq!(names["dns_aaaa_record"], "DnsAAAARecord");
        assert_eq!(
            with_lower_case_first(&names["dns_aaaa_record"]),
            "dnsAAAARecord"
        );
        assert_eq!(
            inner_type("::std::vec::Vec<bool>", "vec::Vec"),
            Some("bool")
        );
    }
}

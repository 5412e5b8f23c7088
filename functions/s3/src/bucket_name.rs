//! What a URI can name instead of a bucket: access points, by alias or ARN, and the kinds of names
//! that the steps refuse.

use stepward::model::bucket::{ALIAS_SUFFIX, is_bucket_name, reserved_kind};
use stepward::model::permissions::{literal, s3_arn};

/// The length of the random part of an alias, which is between the access point's name and the
/// suffix.
const ALIAS_RANDOM_CHARS: usize = 34;

/// An access point in the form of an ARN: `arn:partition:s3:region:account:accesspoint/name`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct AccessPointArn<'a> {
    region: &'a str,
    account: &'a str,
    name: &'a str,
}

/// Splits the part of a URI after `s3://` into the name of a bucket or access point and the key.
/// `None` if it does not begin with such a name.
pub(crate) fn split_path(path: &str) -> Option<(&str, &str)> {
    let Some(resource) = arn_resource(path) else {
        let (name, key) = path.split_once('/').unwrap_or((path, ""));
        return is_bucket_name(name).then_some((name, key));
    };
    // The slash in `accesspoint/name` is not the end of the ARN.
    let (resource_type, rest) = resource.split_once(['/', ':']).unwrap_or((resource, ""));
    let name_end = rest.find('/').unwrap_or(rest.len());
    let arn_length = if resource_type == "accesspoint" {
        path.len() - rest.len() + name_end
    } else {
        path.len() - resource.len() + resource_type.len()
    };
    let (arn, rest) = path.split_at(arn_length);
    Some((arn, rest.strip_prefix('/').unwrap_or(rest)))
}

/// What the name stands for, if the steps support neither it nor a bucket behind it.
pub(crate) fn unsupported_kind(name: &str) -> Option<&'static str> {
    if arn_resource(name).is_none() {
        return reserved_kind(name);
    }
    if parse_access_point(name).is_some() {
        return None;
    }
    let mut parts = name.split(':').skip(2);
    Some(match (parts.next(), parts.next()) {
        (Some("s3-object-lambda"), _) => "an S3 Object Lambda access point",
        (Some("s3-outposts"), _) => "a resource of S3 on Outposts",
        (Some("s3express"), _) => "a directory bucket or an access point of one",
        (Some("s3"), Some("")) if name.contains(":accesspoint") => "a Multi-Region Access Point",
        _ => "an ARN of something else than an access point",
    })
}

/// Whether the name is an access point, which does not tell which bucket it belongs to.
pub(crate) fn is_access_point(name: &str) -> bool {
    name.ends_with(ALIAS_SUFFIX) || parse_access_point(name).is_some()
}

/// Whether two names may mean the same bucket. Only the names of two buckets prove that they do
/// not.
pub(crate) fn may_be_same_bucket(first: &str, second: &str) -> bool {
    first == second || is_access_point(first) || is_access_point(second)
}

/// The ARNs of a bucket or access point in policies.
pub(crate) fn bucket_arns(name: &str) -> Vec<String> {
    match access_point_arn(name) {
        // The local cloud compares the ARN of a bucket with the alias as its name. On AWS no bucket
        // can have such a name.
        Some(arn) if name.ends_with(ALIAS_SUFFIX) => vec![s3_arn(&literal(name)), arn],
        Some(arn) => vec![arn],
        None => vec![s3_arn(&literal(name))],
    }
}

/// The ARNs in policies of the objects that a key or a pattern for keys matches.
pub(crate) fn object_arns(name: &str, key: &str) -> Vec<String> {
    let in_bucket = s3_arn(&format!("{}/{key}", literal(name)));
    match access_point_arn(name) {
        Some(arn) if name.ends_with(ALIAS_SUFFIX) => {
            vec![in_bucket, format!("{arn}/object/{key}")]
        }
        Some(arn) => vec![format!("{arn}/object/{key}")],
        None => vec![in_bucket],
    }
}

/// The object as the header `x-amz-copy-source` names it, not yet percent-encoded:
/// <https://docs.aws.amazon.com/AmazonS3/latest/API/API_CopyObject.html>
pub(crate) fn copy_source(name: &str, key: &str) -> String {
    if parse_access_point(name).is_some() {
        format!("{name}/object/{key}")
    } else {
        format!("{name}/{key}")
    }
}

/// The ARN of an access point in policies. A policy cannot contain an alias, and an alias contains
/// the beginning of the access point's name, but neither its Region nor its account.
fn access_point_arn(name: &str) -> Option<String> {
    if let Some(AccessPointArn {
        region,
        account,
        name,
    }) = parse_access_point(name)
    {
        return Some(format!(
            "arn:$partition:s3:{}:{}:accesspoint/{}",
            literal(region),
            literal(account),
            literal(name)
        ));
    }
    let alias = name.strip_suffix(ALIAS_SUFFIX)?;
    let beginning = alias
        .len()
        .checked_sub(ALIAS_RANDOM_CHARS)
        .and_then(|end| alias.get(..end))
        .map_or("", |beginning| beginning.trim_end_matches('-'));
    Some(format!(
        "arn:$partition:s3:*:*:accesspoint/{}*",
        literal(beginning)
    ))
}

fn parse_access_point(name: &str) -> Option<AccessPointArn<'_>> {
    let resource = arn_resource(name)?;
    let point = resource
        .strip_prefix("accesspoint")?
        .strip_prefix(['/', ':'])?;
    let mut parts = name.split(':').skip(2);
    let (service, region, account) = (parts.next()?, parts.next()?, parts.next()?);
    let is_valid = service == "s3"
        && !region.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && is_bucket_name(point)
        && !point.contains('.');
    is_valid.then_some(AccessPointArn {
        region,
        account,
        name: point,
    })
}

/// The part of an ARN after partition, service, Region and account.
fn arn_resource(text: &str) -> Option<&str> {
    text.starts_with("arn:")
        .then(|| text.splitn(6, ':').nth(5))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIAS: &str = "my-access-point-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias";
    const ARN: &str = "arn:aws:s3:eu-west-1:222222222222:accesspoint/points";

    #[test]
    fn a_path_begins_with_a_bucket_alias_or_arn() {
        for (path, parts) in [
            ("data/a/b", Some(("data", "a/b"))),
            ("data", Some(("data", ""))),
            (&format!("{ALIAS}/a"), Some((ALIAS, "a"))),
            (ARN, Some((ARN, ""))),
            (&format!("{ARN}/"), Some((ARN, ""))),
            (&format!("{ARN}/a/b:c"), Some((ARN, "a/b:c"))),
            (&format!("{ARN}//a"), Some((ARN, "/a"))),
            (
                "arn:aws:s3:eu-west-1:222222222222:accesspoint:points/a",
                Some(("arn:aws:s3:eu-west-1:222222222222:accesspoint:points", "a")),
            ),
            ("arn:aws:s3", None),
            ("Data/a", None),
            ("", None),
        ] {
            assert_eq!(split_path(path), parts, "{path}");
        }
    }

    #[test]
    fn names_that_are_no_buckets_are_unsupported() {
        for (name, kind) in [
            ("data", None),
            ("data-s3", None),
            (ALIAS, None),
            (ARN, None),
            ("x--ol-s3", Some("an S3 Object Lambda access point")),
            ("x--op-s3", Some("an access point of S3 on Outposts")),
            ("x--euw1-az1--x-s3", Some("a directory bucket")),
            (
                "x--euw1-az1--xa-s3",
                Some("an access point of a directory bucket"),
            ),
            ("x--table-s3", Some("a table bucket")),
            ("m123.mrap", Some("a Multi-Region Access Point")),
            (
                "arn:aws:s3::222222222222:accesspoint/m123.mrap",
                Some("a Multi-Region Access Point"),
            ),
            (
                "arn:aws:s3-object-lambda:eu-west-1:222222222222:accesspoint/x",
                Some("an S3 Object Lambda access point"),
            ),
            (
                "arn:aws:s3-outposts:eu-west-1:222222222222:outpost",
                Some("a resource of S3 on Outposts"),
            ),
            (
                "arn:aws:s3express:eu-west-1:222222222222:accesspoint/x",
                Some("a directory bucket or an access point of one"),
            ),
            (
                "arn:aws:s3:::data",
                Some("an ARN of something else than an access point"),
            ),
        ] {
            assert_eq!(unsupported_kind(name), kind, "{name}");
        }
    }

    #[test]
    fn only_the_names_of_two_buckets_prove_a_difference() {
        for (first, second, may_be_same) in [
            ("data", "data", true),
            ("data", "other", false),
            ("data", ALIAS, true),
            (ALIAS, "data", true),
            (ARN, "data", true),
            (ARN, ALIAS, true),
        ] {
            assert_eq!(
                may_be_same_bucket(first, second),
                may_be_same,
                "{first} {second}"
            );
        }
    }

    #[test]
    fn policies_name_the_access_point_and_not_its_alias() {
        assert_eq!(bucket_arns("data"), [s3_arn(&literal("data"))]);
        assert_eq!(
            object_arns("data", "a*"),
            [s3_arn(&format!("{}/a*", literal("data")))]
        );
        let beginning = literal("my-access-point");
        let by_alias = format!("arn:$partition:s3:*:*:accesspoint/{beginning}*");
        assert_eq!(bucket_arns(ALIAS)[1..], *std::slice::from_ref(&by_alias));
        assert_eq!(
            object_arns(ALIAS, "a*")[1..],
            [format!("{by_alias}/object/a*")]
        );
        let [region, account, name] = ["eu-west-1", "222222222222", "points"].map(literal);
        let by_arn = format!("arn:$partition:s3:{region}:{account}:accesspoint/{name}");
        assert_eq!(bucket_arns(ARN), std::slice::from_ref(&by_arn));
        assert_eq!(object_arns(ARN, "a*"), [format!("{by_arn}/object/a*")]);
    }

    #[test]
    fn a_copy_source_names_the_object_of_an_access_point() {
        assert_eq!(copy_source("data", "a"), "data/a");
        assert_eq!(copy_source(ALIAS, "a"), format!("{ALIAS}/a"));
        assert_eq!(copy_source(ARN, "a"), format!("{ARN}/object/a"));
    }
}

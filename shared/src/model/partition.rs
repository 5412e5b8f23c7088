//! AWS's partitions: which Regions each has, and its domains.

/// A partition.
/// <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html>
#[derive(Debug, Eq, PartialEq)]
pub struct Partition {
    /// Its name in ARNs.
    pub name: &'static str,
    /// The prefix of its Regions; empty for the partition that has all others.
    region_prefix: &'static str,
    /// The domain of its console. A Region's console is a subdomain.
    pub console: &'static str,
    /// The domain of its services' endpoints.
    pub dns_suffix: &'static str,
}

const PARTITIONS: [Partition; 3] = [
    Partition {
        name: "aws-cn",
        region_prefix: "cn-",
        console: "console.amazonaws.cn",
        dns_suffix: "amazonaws.com.cn",
    },
    Partition {
        name: "aws-us-gov",
        region_prefix: "us-gov-",
        console: "console.amazonaws-us-gov.com",
        dns_suffix: "amazonaws.com",
    },
    STANDARD,
];

/// The partition with the commercial Regions.
const STANDARD: Partition = Partition {
    name: "aws",
    region_prefix: "",
    console: "console.aws.amazon.com",
    dns_suffix: "amazonaws.com",
};

impl Partition {
    /// The partition of this name; `None` for one that Stepward does not know.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        const { &PARTITIONS }
            .iter()
            .find(|partition| partition.name == name)
    }

    /// The partition of this name, or the standard one.
    #[must_use]
    pub fn named_or_standard(name: &str) -> &'static Self {
        Self::named(name).unwrap_or(const { &STANDARD })
    }

    /// The partition that a Region belongs to.
    #[must_use]
    pub fn of_region(region: &str) -> &'static Self {
        let found = const { &PARTITIONS }
            .iter()
            .find(|partition| region.starts_with(partition.region_prefix));
        found.unwrap_or(const { &STANDARD })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_tells_its_partition() {
        for (region, name) in [
            ("eu-west-1", "aws"),
            ("us-gov-west-1", "aws-us-gov"),
            ("cn-north-1", "aws-cn"),
            ("us-east-1", "aws"),
        ] {
            let partition = Partition::of_region(region);
            assert_eq!(
                (partition.name, Partition::named(name)),
                (name, Some(partition)),
                "{region}"
            );
        }
    }

    #[test]
    fn an_unknown_partition_is_taken_for_the_standard_one() {
        assert_eq!(Partition::named("aws-iso"), None);
        assert_eq!(
            Partition::named_or_standard("aws-iso").console,
            "console.aws.amazon.com"
        );
        assert_eq!(
            Partition::named_or_standard("aws-cn").console,
            "console.amazonaws.cn"
        );
    }
}

//! AWS's partitions, with their Regions and domains.

/// An AWS partition.
/// <https://docs.aws.amazon.com/whitepapers/latest/aws-fault-isolation-boundaries/partitions.html>
#[derive(Debug, Eq, PartialEq)]
pub struct Partition {
    /// The partition's name in ARNs.
    pub name: &'static str,
    /// The prefix of the partition's Region codes. It is empty for the standard partition, which
    /// has all other Regions.
    region_prefix: &'static str,
    /// The domain of the partition's console. The console of a Region is a subdomain of it.
    pub console: &'static str,
    /// The domain of the endpoints of its services.
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

/// The partition of the commercial Regions.
const STANDARD: Partition = Partition {
    name: "aws",
    region_prefix: "",
    console: "console.aws.amazon.com",
    dns_suffix: "amazonaws.com",
};

impl Partition {
    /// The partition with this name, or `None` if Stepward does not know it.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        const { &PARTITIONS }
            .iter()
            .find(|partition| partition.name == name)
    }

    /// The partition with this name, or the standard partition if Stepward does not know it.
    #[must_use]
    pub fn find_or_standard(name: &str) -> &'static Self {
        Self::find(name).unwrap_or(const { &STANDARD })
    }

    /// The partition that a Region belongs to.
    #[must_use]
    pub fn for_region(region: &str) -> &'static Self {
        const { &PARTITIONS }
            .iter()
            .find(|partition| region.starts_with(partition.region_prefix))
            .unwrap_or(const { &STANDARD })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_belongs_to_one_partition() {
        for (region, name) in [
            ("eu-west-1", "aws"),
            ("us-gov-west-1", "aws-us-gov"),
            ("cn-north-1", "aws-cn"),
            ("us-east-1", "aws"),
        ] {
            let partition = Partition::for_region(region);
            assert_eq!(
                (partition.name, Partition::find(name)),
                (name, Some(partition)),
                "{region}"
            );
        }
    }

    #[test]
    fn an_unknown_partition_falls_back_to_the_standard_one() {
        assert_eq!(Partition::find("aws-iso"), None);
        assert_eq!(
            Partition::find_or_standard("aws-iso").console,
            "console.aws.amazon.com"
        );
        assert_eq!(
            Partition::find_or_standard("aws-cn").console,
            "console.amazonaws.cn"
        );
    }
}

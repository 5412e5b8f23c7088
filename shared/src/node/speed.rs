//! Measures how long it takes to map, filter and sort many nodes.

use std::borrow::Cow;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::filter::Filter;
use super::mapping::{Fields, Mapping, ec2};
use super::{Node, order};

const NODES: usize = 10_000;
/// The limit for optimized code, in processor time. The measured time was 79 ms.
const OPTIMIZED_LIMIT: Duration = Duration::from_millis(200);
/// The limit for the test profile, which does not optimize. The measured time was 260 ms.
const UNOPTIMIZED_LIMIT: Duration = Duration::from_secs(2);

/// An EC2 instance with the fields that the default mapping uses, and ten tags.
struct Instance {
    id: String,
    ip: String,
    tags: Vec<(String, String)>,
}

impl Instance {
    fn new(number: usize) -> Self {
        let tag = |key: &str, value: String| (key.to_owned(), value);
        let mut tags: Vec<_> = (0..7)
            .map(|n| tag(&format!("company:cost-center-{n}"), format!("{number}-{n}")))
            .collect();
        tags.push(tag(
            "Name",
            format!("web-{number:05}.eu-west-1.example.com"),
        ));
        tags.push(tag(
            "Rundeck-Tags",
            format!("web, prod, shard-{}", number % 10),
        ));
        tags.push(tag("Rundeck-User", "admin".into()));
        let ip = format!("10.{}.{}.{}", number >> 16, number >> 8 & 255, number & 255);
        Self {
            id: format!("i-{number:017x}"),
            ip,
            tags,
        }
    }
}

impl Fields for Instance {
    fn id(&self) -> &str {
        &self.id
    }

    fn field(&self, name: &str) -> Option<Cow<'_, str>> {
        Some(Cow::Borrowed(match name {
            "instanceId" => &self.id,
            "privateIpAddress" => &self.ip,
            "privateDnsName" => "ip-10-0-0-1.eu-west-1.compute.internal",
            "architecture" => "x86_64",
            "state.name" => "running",
            _ => return None,
        }))
    }

    fn tags(&self) -> impl Iterator<Item = (&str, &str)> {
        self.tags
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// The processor time that this thread has used. Wall-clock time would include other work of the
/// machine.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}

#[test]
fn ten_thousand_instances_are_processed_within_the_time_limit() {
    let instances: Vec<_> = (0..NODES).map(Instance::new).collect();
    let begin = processor_time();
    let mapping = Mapping::parse(ec2::DEFAULT, ec2::check_field).unwrap();
    let filter: Filter = "name: web-0[0-4].*|web-1.* tags: running+shard-[1-3],none \
         hostname: 10\\..* !osFamily: windows"
        .parse()
        .unwrap();
    let mut nodes: Vec<Node> = instances
        .iter()
        .map(|instance| mapping.node(instance))
        .collect();
    nodes.retain(|node| filter.matches(node));
    order::sort_nodes(&mut nodes, Some("hostname"), true);
    let elapsed = processor_time().checked_sub(begin).unwrap();
    println!("{NODES} nodes were mapped, filtered and sorted in {elapsed:?}");
    assert_eq!(nodes.len(), 1500);
    let limit = if cfg!(debug_assertions) {
        UNOPTIMIZED_LIMIT
    } else {
        OPTIMIZED_LIMIT
    };
    assert!(elapsed < limit, "{elapsed:?} is longer than {limit:?}");
}

//! The faults that a test can set: in the agent and in the network.

use std::time::Duration;

/// A fault of the agent, the container or the service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum AgentFault {
    /// No fault.
    #[default]
    None,
    /// The service refuses the upgrade to a WebSocket with this status.
    UpgradeRefused(u16),
    /// The channel opens, but the agent sends nothing.
    Silent,
    /// The agent cannot start the command, as with an image without a shell.
    CannotStart,
    /// The container stops after this time. The channel stays open, and the service sends a message
    /// that the agent is gone.
    ContainerStops(Duration),
    /// The container stops after this time. The channel stays open, and the service sends no
    /// message.
    ContainerVanishes(Duration),
    /// The connection breaks after this time.
    Cut(Duration),
    /// The service closes the channel after this time, with this message.
    Closed(Duration, &'static str),
    /// The command runs for a second without output. Then the service closes the channel with this
    /// message.
    ClosedWithoutOutput(&'static str),
    /// The service refuses to terminate the session.
    CannotTerminate,
    /// Between valid messages, the agent sends invalid data and messages with a wrong digest.
    InvalidFrames,
}

/// The percentages of frames that the network loses, duplicates and delays.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct NetworkFaults {
    /// The seed of the random numbers that choose the frames.
    pub seed: u64,
    /// The percentage of frames that are lost, in either direction.
    pub lost_percent: u64,
    /// The percentage of frames that the client receives twice.
    pub duplicated_percent: u64,
    /// The percentage of frames that the client receives after later ones.
    pub delayed_percent: u64,
}

//! What can happen to a session.

use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Mishap {
    /// Nothing.
    #[default]
    None,
    /// The upgrade is refused with this status.
    Refused(u16),
    /// The channel opens, and nothing ever comes.
    Silent,
    /// The command cannot be started, as with an image without a shell.
    Unstartable,
    /// The container stops after this time: the channel stays open, and the service says that the
    /// agent is away.
    ContainerStops(Duration),
    /// The same, without a word on the channel.
    ContainerVanishes(Duration),
    /// The connection is cut after this time.
    Cut(Duration),
    /// The service closes the channel after this time, with these words.
    Closed(Duration, &'static str),
    /// The command runs for a second; then the service closes the channel with these words, and no
    /// output came before.
    Mute(&'static str),
    /// Nobody may end the session.
    Unendable,
    /// The agent sends what is no message, and messages of the wrong digest, between the right
    /// ones.
    Rubbish,
}

/// What the network does to each frame, in percent, by a seed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Weather {
    /// Where the dice begin.
    pub seed: u64,
    /// Frames that are lost, in either direction.
    pub lost: u64,
    /// Frames that come twice.
    pub doubled: u64,
    /// Frames that come after ones that were sent later.
    pub late: u64,
}

/// Dice that fall the same for the same seed.
#[derive(Clone, Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// Whether something of this percentage happens (xorshift).
    pub(super) fn fall(&mut self, percent: u64) -> bool {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % 100 < percent
    }
}

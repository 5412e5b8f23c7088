//! What is run on the nodes.

use std::future::Future;

use stepward::{Context, StepError};

use crate::state::Digest;

/// What is run on the nodes, as text for the plan's shell.
pub trait Payload: Send + Sync {
    /// The text, made right before it is sent: it may hold what lives for a short time. Called again for a repeated call. What
    /// a file must be is kept in `digest` once it is known.
    fn text(
        &self,
        ctx: &Context,
        digest: &mut Option<Digest>,
    ) -> impl Future<Output = Result<String, StepError>> + Send;

    /// Takes away what [`text`](Self::text) has put somewhere. Called when the run is over, has failed or is stopped, also when
    /// there is nothing to take away.
    fn clean(&self, ctx: &Context) -> impl Future<Output = Result<(), StepError>> + Send;
}

/// A command of the operator's: nothing to fetch and nothing to take away.
#[derive(Clone, Debug)]
pub struct Command(pub String);

impl Payload for Command {
    async fn text(&self, _: &Context, _: &mut Option<Digest>) -> Result<String, StepError> {
        Ok(self.0.clone())
    }

    async fn clean(&self, _: &Context) -> Result<(), StepError> {
        Ok(())
    }
}

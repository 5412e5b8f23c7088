//! What unit tests of steps need: a context for a made-up account whose clients a test provides.

use std::sync::Arc;

use aws_config::SdkConfig;
use secrecy::SecretString;

use crate::context::Context;
use crate::envelope::Execution;
use crate::permissions::Place;
use crate::session::Session;

/// A context for account `prod` (222222222222) of `acme` in `eu-west-1` whose client is the given one, usually made by
/// `aws_smithy_mocks::mock_client!`.
pub fn context<C: Clone + Send + Sync + 'static>(client: C) -> Context {
    let session = Session::new(SdkConfig::builder().build(), Vec::new());
    session.client(|_| client);
    with_session(session)
}

/// A context that knows these secrets, to test that they are masked.
#[must_use]
pub fn context_with_secrets(secrets: &[&str]) -> Context {
    let secrets = secrets.iter().map(|secret| SecretString::from(*secret)).collect();
    with_session(Session::new(SdkConfig::builder().build(), secrets))
}

/// What the step has said so far.
#[must_use]
pub fn log(ctx: &Context) -> Vec<String> {
    ctx.take_log()
}

fn with_session(session: Session) -> Context {
    let place = Place { partition: "aws".into(), region: "eu-west-1".into(), account_id: "222222222222".into() };
    let execution = Execution {
        id: "execution-1".into(),
        job: "fleet/morning-check".into(),
        step: "step-1".into(),
        item: None,
        started_by: "ann".into(),
    };
    Context::new(("acme", "prod"), place, execution, Arc::new(session), None)
}

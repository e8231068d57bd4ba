use std::ops::Deref;
use std::sync::Arc;

use syntha_mesh::{AgentName, Revoker};
use syntha_store::{Action, Event};

use crate::context_mesh::ContextMesh;
use crate::deployment::Deployment;

/// An authenticated user's capability: the user's mesh, until the session ends. Derefs to [`ContextMesh`].
///
/// Handles that are cloned out of it end with it.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) mesh: ContextMesh,
    pub(crate) revoker: Revoker,
    pub(crate) deployment: Arc<Deployment>,
    /// The one agent that it is for.
    pub(crate) agent: Option<AgentName>,
}

impl Session {
    /// The one agent that may do anything in this session, where its token or id is bound to one; the host's own calls are refused then.
    #[must_use]
    pub const fn bound_to(&self) -> Option<&AgentName> {
        self.agent.as_ref()
    }

    /// Ends this handle's session: every call of it, and of every handle that came from it, fails from now on. The id or token that it was opened
    /// with opens another: [`UserManager::logout`](crate::UserManager::logout) ends that.
    pub fn end(&self) {
        let mesh = self.mesh.0.clone();
        self.revoker.revoke();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let event = Event::new(self.deployment.now(), Action::EndSession);
            // It waits with what else the trail is to be told, and there is nobody here to be told of a failure.
            runtime.spawn(async move { mesh.note_event(event).await });
        }
    }
}

impl Deref for Session {
    type Target = ContextMesh;

    fn deref(&self) -> &ContextMesh {
        &self.mesh
    }
}

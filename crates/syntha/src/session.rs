use std::ops::Deref;
use std::sync::Arc;

use syntha_mesh::Revoker;
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
}

impl Session {
    /// Ends the session: every call of it, and of every handle that came from it, fails from now on.
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

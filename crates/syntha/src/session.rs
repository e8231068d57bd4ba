use std::ops::Deref;

use syntha_mesh::Revoker;

use crate::context_mesh::ContextMesh;

/// An authenticated user's capability: the user's mesh, until the session ends. Derefs to [`ContextMesh`].
///
/// Handles that are cloned out of it end with it.
#[derive(Clone, Debug)]
pub struct Session {
    pub(crate) mesh: ContextMesh,
    pub(crate) revoker: Revoker,
}

impl Session {
    /// Ends the session: every call of it, and of every handle that came from it, fails from now on.
    pub fn end(&self) {
        self.revoker.revoke();
    }
}

impl Deref for Session {
    type Target = ContextMesh;

    fn deref(&self) -> &ContextMesh {
        &self.mesh
    }
}

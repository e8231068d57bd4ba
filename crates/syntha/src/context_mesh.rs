use std::ops::Deref;

use syntha_mesh::Mesh;

/// One user's mesh. Cheap to clone; derefs to [`Mesh`], where its calls are. No call names a user.
#[derive(Clone, Debug)]
pub struct ContextMesh(pub(crate) Mesh);

impl ContextMesh {
    /// Opens the mesh of a user on SQLite files in a folder, and makes folder and user if they are new.
    ///
    /// For a trusted process that serves one user or few. A service with many users has a
    /// [`UserManager`](crate::UserManager); while one owns the folder, this is refused. The folder stays open as long as a
    /// handle of it is.
    ///
    /// # Errors
    ///
    /// `Invalid` for a text that is no user id; `Erased` for a user who was erased; `Locked` if another process or a manager
    /// has the folder; `Denied` for a folder that others may enter; `Corrupt`, `Storage`.
    #[cfg(feature = "sqlite")]
    pub async fn open<U>(folder: impl AsRef<std::path::Path> + Send, user: U) -> crate::Result<Self>
    where
        U: TryInto<syntha_store::UserId>,
        crate::Error: From<U::Error>,
    {
        use crate::deployment::registry;
        use crate::error::{Error, ErrorKind};

        let user = user.try_into()?;
        let config = syntha_sqlite::SqliteConfig::new(folder.as_ref());
        let deployment = registry::open(config, syntha_mesh::MeshConfig::default()).await?;
        if deployment.is_managed() {
            return Err(Error::new(
                ErrorKind::Locked,
                "a user manager owns the data folder, ask it for a session",
            ));
        }
        let mesh = deployment.mesh(&user, true).await?;
        let (guard, _) = syntha_mesh::Guard::new();
        Ok(Self(mesh.guarded(guard.keeping(deployment))))
    }
}

impl Deref for ContextMesh {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.0
    }
}

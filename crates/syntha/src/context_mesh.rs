use std::ops::Deref;

use syntha_mesh::Mesh;

/// One user's mesh. Cheap to clone; derefs to [`Mesh`], where its calls are. No call names a user.
#[derive(Clone, Debug)]
pub struct ContextMesh(pub(crate) Mesh);

impl ContextMesh {
    /// Opens the mesh of a user on SQLite files in a folder, and makes folder and user if they are new. A new folder is sealed with a key
    /// that is made beside it, with `.key` after the folder's name: keep a copy of that file and of the folder `.keys`, without which
    /// nothing opens. It has an audit trail as well, whose signing key is made beside it, with `.audit.key` after its name: data does not open
    /// without that file either, until it is [replaced](crate::Audit::replace_lost_key).
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
        let config = syntha_sqlite::SqliteConfig::new(folder.as_ref());
        Self::open_with(config, user.try_into()?, crate::layers::Layers::default()).await
    }

    /// Opens the mesh of a user on a folder that other processes open so as well: for programs that start a process for each
    /// client. Every read looks first whether another process has written.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `Locked` if a process has the folder for itself, or this one has it open in another mode.
    #[cfg(feature = "sqlite")]
    pub async fn open_shared<U>(folder: impl AsRef<std::path::Path> + Send, user: U) -> crate::Result<Self>
    where
        U: TryInto<syntha_store::UserId>,
        crate::Error: From<U::Error>,
    {
        let config = syntha_sqlite::SqliteConfig::new(folder.as_ref());
        let config = config.mode(syntha_sqlite::Mode::Shared);
        Self::open_with(config, user.try_into()?, crate::layers::Layers::default()).await
    }

    /// Opens the mesh of a user on a folder that is sealed with a key of the caller's, and makes folder and user if they are new:
    /// `open_sealed("data", "alice", Kek::file(path))`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open); `Denied` for another key than the folder's, and for a folder that is not sealed.
    #[cfg(all(feature = "sqlite", feature = "encryption"))]
    pub async fn open_sealed<U>(
        folder: impl AsRef<std::path::Path> + Send,
        user: U,
        encryption: impl Into<crate::Encryption> + Send,
    ) -> crate::Result<Self>
    where
        U: TryInto<syntha_store::UserId> + Send,
        crate::Error: From<U::Error>,
    {
        let config = syntha_sqlite::SqliteConfig::new(folder.as_ref());
        Self::open_with(config, user.try_into()?, crate::layers::Layers::sealed(encryption.into())).await
    }

    #[cfg(feature = "sqlite")]
    async fn open_with(
        config: syntha_sqlite::SqliteConfig,
        user: syntha_store::UserId,
        layers: crate::layers::Layers,
    ) -> crate::Result<Self> {
        use syntha_store::{Action, Event};

        use crate::error::{Error, ErrorKind};

        let running = crate::fairness::Running::default();
        let mesh = syntha_mesh::MeshConfig::default();
        let deployment = crate::registry::folders::open(config, mesh, layers, running).await?;
        if deployment.is_managed() {
            return Err(Error::new(
                ErrorKind::Locked,
                "a user manager owns the data folder, ask it for a session",
            ));
        }
        let mesh = deployment.mesh(&user, true).await?;
        let (guard, _) = syntha_mesh::Guard::new();
        let guard = guard.seated(mesh.seat()?);
        let (at, kept) = (deployment.now(), deployment);
        let mesh = mesh.guarded(guard.keeping(kept));
        mesh.note_event(Event::new(at, Action::OpenSession)).await?;
        Ok(Self(mesh))
    }
}

impl Deref for ContextMesh {
    type Target = Mesh;

    fn deref(&self) -> &Mesh {
        &self.0
    }
}

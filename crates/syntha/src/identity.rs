//! Where a deployment keeps its accounts, and how sessions hang on what was logged in with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use syntha_identity::{
    Identity, IdentityAction, IdentityConfig, IdentityEvent, Lease, Reason, Scopes, SecretKind,
};
use syntha_mesh::{AgentName, Guard, Lapsed, SessionGrants, Standing as InForce};
use syntha_store::{
    Action, ErrorKind as StoreErrorKind, Event, Keyspace, Scan, Stamp, UserId, UserStore, Verdict,
};
use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::context_mesh::ContextMesh;
use crate::deployment::Deployment;
use crate::directory::Standing;
use crate::error::{Error, ErrorKind, Result};
use crate::session::Session;

pub(crate) type Configure =
    Arc<dyn Fn(IdentityConfig) -> syntha_identity::Result<IdentityConfig> + Send + Sync>;

/// The accounts of a deployment, opened when somebody first asks for them.
#[derive(Default)]
pub(crate) struct Accounted {
    configure: Mutex<Option<Configure>>,
    opened: OnceCell<Opened>,
    /// The host takes accounts that were put back to an older state.
    pub(crate) accepts: AtomicBool,
}

pub(crate) struct Opened {
    pub(crate) identity: Identity,
    spaces: Vec<Arc<dyn UserStore>>,
    /// What asks twice a second whether leases still hold.
    fresh: Mutex<JoinHandle<()>>,
}

impl Accounted {
    /// How they are to work, for whoever opens them first.
    pub(crate) fn configure(&self, configure: Option<Configure>) {
        *self.configure.lock() = configure;
    }
}

impl fmt::Debug for Accounted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Accounted").field("opened", &self.opened.initialized()).finish_non_exhaustive()
    }
}

impl Opened {
    /// How far the space of a user is, or all of them.
    async fn stamps(&self, user: Option<&UserId>) -> Result<Vec<(usize, Stamp)>> {
        let of = user.map(|user| self.identity.space_of(user));
        let mut stamps = Vec::new();
        for (number, space) in self.spaces.iter().enumerate() {
            if of.is_none_or(|of| of == number) {
                stamps.push((number, space.state().await?.stamp));
            }
        }
        Ok(stamps)
    }

    /// Sees to it that leases are confirmed: the runtime that did it may have ended.
    fn keep_fresh(&self) {
        let mut fresh = self.fresh.lock();
        if fresh.is_finished() {
            *fresh = tokio::spawn(self.identity.keep_fresh());
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.fresh.lock().abort();
    }
}

impl Deployment {
    /// The accounts, whose spaces are made if there are none.
    pub(crate) async fn identity(self: &Arc<Self>) -> Result<&Opened> {
        let opened = self.accounts.opened.get_or_try_init(|| self.open_accounts()).await?;
        opened.keep_fresh();
        Ok(opened)
    }

    /// Whether there are accounts.
    pub(crate) async fn has_accounts(&self) -> Result<bool> {
        let Some((_, tag)) = crate::reserved::accounts(self.deployment_key()).next() else {
            return Ok(false);
        };
        Ok(self.directory.standing(tag).await? == Standing::There)
    }

    async fn open_accounts(self: &Arc<Self>) -> Result<Opened> {
        // INVARIANT: one process at a time: what one has made and not yet noted is a restored one's to another.
        let _turn = self.turn().await?;
        let accepts = self.accounts.accepts.load(Ordering::Acquire);
        let (mut spaces, mut restored, mut fresh): (Vec<Arc<dyn UserStore>>, _, _) =
            (Vec::new(), accepts, false);
        for (number, (name, tag)) in crate::reserved::accounts(self.deployment_key()).enumerate() {
            let space = self.own_space(&name, tag).await?;
            // INVARIANT: rights that were taken away come back with nobody's copy of a file: what was administered last is known from the
            // deployment's own space.
            // The anchor first: what another process notes meanwhile it has done before.
            let anchor = self.directory.anchor(number).await?;
            let (stamp, unused) = (space.state().await?.stamp, is_unused(&*space).await?);
            match anchor {
                None if unused => fresh = true,
                // A backup's archives come without what the deployment's own space said of them.
                None => restored = true,
                Some(anchor) if anchor.incarnation == stamp.incarnation => {
                    if stamp.epoch < anchor.epoch && !accepts {
                        return Err(put_back());
                    }
                }
                Some(_) if unused && !accepts => return Err(put_back()),
                Some(_) => restored = true,
            }
            spaces.push(space);
        }
        let mut config = IdentityConfig::new(self.deployment_key()).clock(self.clock());
        let configure = self.accounts.configure.lock().clone();
        if let Some(configure) = configure {
            config = configure(config)?;
        }
        let weak = Arc::downgrade(self);
        let config = config.listener(move |event| {
            if let Some(deployment) = weak.upgrade() {
                deployment.heard(event);
            }
        });
        let identity = Identity::open(spaces.clone(), config).await?;
        let keeper = Mutex::new(tokio::spawn(identity.keep_fresh()));
        let opened = Opened { identity, spaces, fresh: keeper };
        if restored {
            self.revoke_restored(&opened).await?;
        } else if fresh {
            self.directory.set_anchors(opened.stamps(None).await?, Vec::new(), self.now()).await?;
        }
        Ok(opened)
    }

    /// What an archive brings back of tokens and sessions may have been revoked since it was made.
    async fn revoke_restored(&self, opened: &Opened) -> Result<()> {
        self.note(Action::RevokeAll, None, Verdict::Begun).await?;
        opened.identity.revoke_everything().await?;
        self.anchor(opened, None, Event::new(self.now(), Action::RevokeAll)).await
    }

    /// Does what changes an account. The trail is told before that it begins, and how it ended, in one commit with how far the space is then.
    pub(crate) async fn administer<T>(
        self: &Arc<Self>,
        action: Action,
        user: Option<&UserId>,
        work: impl AsyncFnOnce(&Identity) -> Result<T>,
    ) -> Result<T> {
        let opened = self.identity().await?;
        let target: Option<Arc<str>> = user.map(|user| user.as_str().into());
        self.note(action, target.clone(), Verdict::Begun).await?;
        let done = work(&opened.identity).await;
        if done.is_err() {
            self.note(action, target, Verdict::Failed).await?;
            return done;
        }
        let event = Event::new(self.now(), action);
        let event = match target {
            Some(target) => event.on(target),
            None => event,
        };
        self.anchor(opened, user, event).await?;
        done
    }

    /// Writes down what was done to an account, or to all, and how far the spaces are then.
    pub(crate) async fn anchor(&self, opened: &Opened, user: Option<&UserId>, event: Event) -> Result<()> {
        self.directory.set_anchors(opened.stamps(user).await?, vec![event], self.now()).await
    }

    /// A session that holds as long as a lease does.
    pub(crate) async fn leased(self: &Arc<Self>, lease: Lease, action: Action) -> Result<Session> {
        let user = lease.user().clone();
        let mesh = match self.mesh(&user, false).await {
            // INVARIANT: whoever may not get in learns nothing of who there is.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Erased) => {
                self.refused(&user, &error);
                return Err(Error::new(ErrorKind::Denied, "the session does not hold, sign in again"));
            }
            opened => opened.inspect_err(|error| self.refused(&user, error))?,
        };
        let seat = mesh.seat().map_err(Error::from).inspect_err(|error| self.refused(&user, error))?;
        let (guard, revoker) = Guard::new();
        let mut guard = guard.seated(seat).while_standing(Arc::new(Leased(lease.clone())));
        let agent = lease.agent().map(AgentName::try_from).transpose()?;
        if let Some(agent) = &agent {
            guard = guard.only(agent.clone());
        }
        let kept = Arc::clone(self);
        let mesh = mesh.guarded(guard.keeping(kept));
        let end = revoker.clone();
        lease.on_end(move || end.revoke());
        let kind = match lease.kind() {
            SecretKind::Token => "token",
            _ => "session",
        };
        let event = Event::new(self.now(), action).on(format!("{kind} {}", lease.id()).into());
        mesh.note_event(event).await?;
        Ok(Session { mesh: ContextMesh(mesh), revoker, deployment: Arc::clone(self), agent })
    }

    /// Takes down what was refused before anybody has shown who they are.
    ///
    /// INVARIANT: it costs the same whoever there is, and says nothing of why.
    fn heard(self: &Arc<Self>, event: &IdentityEvent) {
        let Some(reason) = event.reason else { return };
        let action = match event.action {
            IdentityAction::Login => Action::Login,
            _ => Action::Authenticate,
        };
        let verdict = if reason == Reason::Busy { Verdict::Failed } else { Verdict::Denied };
        let told = Event::new(event.at, action).ended(verdict, None);
        // Of a secret that is refused nobody knows whose it is meant to be.
        let told = match event.user.as_ref().filter(|_| action == Action::Login) {
            Some(user) => told.on(user.as_str().into()),
            None => told,
        };
        self.later(told);
    }

    /// A space of the deployment's own, made if it is not there.
    async fn own_space(&self, name: &UserId, tag: syntha_store::UserTag) -> Result<Arc<dyn UserStore>> {
        match self.directory.standing(tag).await? {
            Standing::There => {}
            Standing::Erased => return Err(put_back()),
            Standing::Absent => match self.directory.admit(name, tag, false, self.now()).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                admitted => admitted?,
            },
        }
        self.made(tag).await?;
        match self.store.open(tag).await {
            Err(error) if error.kind() == StoreErrorKind::NotFound => Err(put_back()),
            opened => Ok(opened?),
        }
    }
}

/// Whether nothing was ever kept in a space.
async fn is_unused(space: &dyn UserStore) -> Result<bool> {
    Ok(space.scan(Scan::heads(Keyspace::Meta, 1)).await?.value.records.is_empty())
}

/// What a lease says to the mesh.
struct Leased(Lease);

impl InForce for Leased {
    fn ask(&self) -> Result<SessionGrants, Lapsed> {
        match self.0.check() {
            Ok(()) => Ok(grants(self.0.scopes())),
            Err(error) if error.kind() == syntha_identity::ErrorKind::Stale => Err(Lapsed::Unconfirmed),
            Err(_) => Err(Lapsed::Ended),
        }
    }
}

/// What scopes are to a mesh.
fn grants(scopes: Scopes) -> SessionGrants {
    let pairs = [
        (Scopes::READ, SessionGrants::READ),
        (Scopes::WRITE, SessionGrants::WRITE),
        (Scopes::CREATE_AGENTS, SessionGrants::CREATE_AGENTS),
        (Scopes::EXPORT, SessionGrants::EXPORT),
        (Scopes::DELETE, SessionGrants::DELETE),
    ];
    let held = pairs.into_iter().filter(|(scope, _)| scopes.contains(*scope));
    held.fold(SessionGrants::NONE, |all, (_, grant)| all | grant)
}

const fn put_back() -> Error {
    Error::new(
        ErrorKind::Tampered,
        "the accounts are older than what was last done to them: put the right files back, or accept them as they are, which ends all tokens and sessions",
    )
}

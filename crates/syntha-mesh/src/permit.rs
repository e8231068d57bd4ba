//! What the host makes of its agents: roles, grants, denials, trust; and what a decision would be.

use std::sync::Arc;

use syntha_store::Action as Told;

use crate::agent::Agent;
use crate::change::Change;
use crate::decision::{Act, Decision, Known, On, Principal, Resource, decide};
use crate::error::{Error, ErrorKind, Result};
use crate::grant::Grant;
use crate::history;
use crate::life::Life;
use crate::mesh::Mesh;
use crate::names::AgentName;
use crate::role::AgentRole;
use crate::standing::Permit;

/// What an agent was given and denied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AgentPermissions {
    /// Its role.
    pub role: AgentRole,
    /// What is granted to it besides, with what has expired since the last change.
    pub grants: Vec<Grant>,
    /// What is denied to it.
    pub denials: Vec<Grant>,
    /// The topics that it may post to; `None` for any.
    pub post: Option<Vec<Arc<str>>>,
    /// The topics that it may subscribe to and hear; `None` for any.
    pub read: Option<Vec<Arc<str>>>,
    /// Whether what it writes is marked as trusted.
    pub trusted: bool,
    /// Whether it reads nothing that an agent wrote which was not trusted then.
    pub only_trusted: bool,
}

impl Mesh {
    /// Gives an agent a role, in the place of the one it has. An agent that was given none is a [`Role::Contributor`](crate::Role::Contributor).
    /// Grants and denials stay.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn set_role<N>(&self, name: N, role: impl Into<AgentRole> + Send) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::Role(Some(role.into()))).await
    }

    /// Grants something to an agent, besides what its role has. Granted again, it holds up to the new moment. At most 64 grants, of
    /// which those that expired no longer count.
    ///
    /// # Errors
    ///
    /// As every write; `Invalid` for a grant of nothing, `LimitExceeded` for too many.
    pub async fn grant<N>(&self, name: N, grant: Grant) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::Grant(grant)).await
    }

    /// Takes granted effects away, from grants on exactly this topic, this prefix or threads. What its role has, it keeps. It holds from
    /// the next call in this process; in a folder that processes share, from the next call after the commit in each of them.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn revoke<N>(&self, name: N, grant: Grant) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::Revoke(grant)).await
    }

    /// Denies something to an agent, whatever its role and grants. A denial has no end but [`lift`](Self::lift). At most 64 denials.
    ///
    /// # Errors
    ///
    /// As every write; `Invalid` for a denial of nothing, `LimitExceeded` for too many.
    pub async fn deny<N>(&self, name: N, denial: Grant) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::Deny(denial)).await
    }

    /// Takes effects out of denials on exactly this topic, this prefix or threads.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn lift<N>(&self, name: N, denial: Grant) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::Lift(denial)).await
    }

    /// Says whether what an agent writes from now on is marked as trusted. An agent is not until the host says so.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn set_trusted<N>(&self, name: N, trusted: bool) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::Trusted(trusted)).await
    }

    /// Says whether an agent sees no entry that an agent wrote which was not trusted then, whomever it is for. Entries of the host it sees;
    /// messages of threads are not looked at. Default no.
    ///
    /// # Errors
    ///
    /// As every write.
    pub async fn set_only_trusted<N>(&self, name: N, only: bool) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        self.permit(name, Permit::OnlyTrusted(only)).await
    }

    async fn permit<N>(&self, name: N, permit: Permit) -> Result<()>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        self.write(Change::Permit { agent, permit }).await.map(drop)
    }

    /// What an agent was given and denied; `None` for one that is not registered, which has the default role and nothing else.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`; `Denied` for a session without the grant to read.
    pub async fn permissions_of<N>(&self, name: N) -> Result<Option<AgentPermissions>>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let agent = name.try_into()?;
        let reading = self.reading(None, Told::List).of(agent.shared());
        reading.admit(self.fresh().await).await?;
        let found = self.core.index.read().roster.get(agent.as_str()).map(|state| {
            let standing = state.standing.as_deref().cloned().unwrap_or_default();
            AgentPermissions {
                role: standing.role.unwrap_or_default(),
                grants: standing.grants,
                denials: standing.denials,
                post: state.post.clone(),
                read: state.read.clone(),
                trusted: standing.trusted,
                only_trusted: standing.only_trusted,
            }
        });
        reading.saw(usize::from(found.is_some()), 0).await?;
        Ok(found)
    }

    /// Whether an agent of this name may do something now, and which rule says so: what a call of a handle would be answered that
    /// was not narrowed and is of this session. Nothing is done. How much the agent deleted lately and what a
    /// [`Confirmation`](crate::Confirmation) would say is left out.
    ///
    /// # Errors
    ///
    /// `Gone`, `SessionEnded`, `Storage`; `Denied` for a session without the grant to read.
    pub async fn explain<N>(&self, name: N, act: Act, on: &Resource) -> Result<Decision>
    where
        N: TryInto<AgentName>,
        Error: From<N::Error>,
    {
        let (name, life) = (name.try_into()?, Life::default());
        let agent = Some(name.as_str());
        let principal = Principal { agent, grants: self.guard.grants_for(agent), narrowed: None };
        self.explain_to(&name, &life, &principal, act, on).await
    }

    /// As [`explain`](Self::explain), for a handle: with what it was narrowed to, and in its session. Not for the agent itself, which
    /// would learn of entries that it can't see.
    ///
    /// # Errors
    ///
    /// As [`explain`](Self::explain); `Invalid` for a handle of another mesh, `Gone` for one whose agent was unregistered.
    pub async fn explain_handle(&self, agent: &Agent, act: Act, on: &Resource) -> Result<Decision> {
        if !Arc::ptr_eq(&self.core, &agent.mesh.core) {
            return Err(Error::new(ErrorKind::Invalid, "the handle is of another mesh"));
        }
        self.explain_to(&agent.name, &agent.life, &agent.principal(), act, on).await
    }

    async fn explain_to(
        &self,
        name: &AgentName,
        life: &Life,
        principal: &Principal<'_>,
        act: Act,
        on: &Resource,
    ) -> Result<Decision> {
        let reading = self.reading(None, Told::List).of(name.shared());
        reading.admit(self.fresh().await).await?;
        let thread = match on {
            Resource::Thread(thread) => reading.admit(history::state(&self.core, thread).await).await?,
            _ => None,
        };
        let decision = {
            let index = self.core.index.read();
            let own = life.bearer(name.as_str(), &index.roster)?;
            let known = Known {
                own,
                now: &|| self.core.now(&index),
                spent: false,
                confirmed: true,
                config: &self.core.config,
            };
            let on = match on {
                Resource::Mesh => On::Mesh,
                Resource::Key(key) => {
                    let entry = index.get(key.as_str()).filter(|entry| self.core.lives(entry, &index));
                    entry.map_or(On::Key(key.as_str()), |entry| On::Entry(entry))
                }
                Resource::Topic(topic) => On::Topic(topic.as_str()),
                Resource::Thread(id) => On::Thread(id.as_str(), thread.as_ref()),
            };
            decide(principal, act, on, &known)
        };
        reading.saw(1, 0).await?;
        Ok(decision)
    }
}

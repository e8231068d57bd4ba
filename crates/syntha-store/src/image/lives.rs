//! What the contract says about users that come and go, as steps from what is kept to what is to be kept.

use super::{Image, gone};
use crate::batch::Batch;
use crate::error::{Error, ErrorKind, Result};
use crate::record::StoredRecord;
use crate::state::{ChainHead, Epoch, Fence, Incarnation, Stamp, UserState};
use crate::store::{Commit, CreateMode, EPOCH_JUMP, Erased, ImportMode};

/// What is to be kept from now on (`None`: what was kept before), and the caller's answer once it is kept.
pub type Step<T> = Result<(Option<Image>, T)>;

/// The life that an erased user's image names. No life is given it: it is what is left of one.
const NO_LIFE: Incarnation = Incarnation(0);

/// Steps of one user. `now` is what is kept of the user; `None` if nothing is and nothing was. A backend takes one step of a user
/// at a time, keeps what it gives, and only then answers.
impl Image {
    /// The step of [`Store::create`](crate::Store::create).
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn created(now: Option<&Self>, first: Batch, mode: CreateMode) -> Step<Commit> {
        match now.map(Self::fence) {
            Some(fence) if fence != Some(Fence::Erased) => Err(present()),
            Some(_) if mode == CreateMode::New => Err(erased()),
            _ => {
                let mut image = Self::new(first.life.map_or_else(Incarnation::random, Ok)?, false);
                let commit = image.commit_first(first)?;
                Ok((Some(image), commit))
            }
        }
    }

    /// The step of [`Store::open`](crate::Store::open), and the life to bind the handle to.
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn opened(now: Option<&Self>) -> Step<Incarnation> {
        let image = now.ok_or_else(not_found)?;
        match image.fence() {
            None => Ok((None, image.stamp().incarnation)),
            Some(Fence::Erased) => Err(erased()),
            Some(_) => Err(gone()),
        }
    }

    /// The step of [`Store::deployment`](crate::Store::deployment), and the life to bind the handle to.
    ///
    /// # Errors
    ///
    /// `Unavailable` if the system has no random source.
    pub fn opened_deployment(now: Option<&Self>) -> Step<Incarnation> {
        if let Some(image) = now {
            return Ok((None, image.stamp().incarnation));
        }
        let life = Incarnation::random()?;
        Ok((Some(Self::new(life, true)), life))
    }

    /// The step of [`Store::fence`](crate::Store::fence).
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn fenced(now: Option<&Self>, at: Option<Stamp>, fence: Fence) -> Step<Stamp> {
        let now = now.filter(|now| !now.is_erased()).ok_or_else(not_found)?;
        if at.is_some_and(|at| at != now.stamp()) {
            return Err(Error::new(ErrorKind::Conflict, "the user's data moved on, reload and try again"));
        }
        let mut image = now.clone();
        image.set_fence(fence);
        Ok((Some(image), now.stamp()))
    }

    /// The step of [`Store::erase`](crate::Store::erase). What is to be kept says "erased" and nothing else of the user; the backend
    /// removes what it held before.
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn erased(now: Option<&Self>) -> Step<Erased> {
        if now.ok_or_else(not_found)?.is_erased() {
            return Ok((None, Erased::new(false, 0)));
        }
        let mut image = Self::new(NO_LIFE, false);
        image.set_fence(Fence::Erased);
        Ok((Some(image), Erased::new(true, 1)))
    }

    /// The step of [`Store::import`](crate::Store::import): a new life that holds a snapshot's records, [`EPOCH_JUMP`] over the
    /// snapshot and over what it replaces. The backend has checked whose snapshot it is.
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn imported(
        now: Option<&Self>,
        mut state: UserState,
        life: Option<Incarnation>,
        follows: Option<ChainHead>,
        records: Vec<StoredRecord>,
        mode: ImportMode,
    ) -> Step<Stamp> {
        match now.map(Self::fence) {
            Some(Some(Fence::Erased)) => return Err(erased()),
            Some(_) if mode == ImportMode::New => return Err(present()),
            _ => {}
        }
        let chain = now.map_or_else(ChainHead::default, |now| now.state().chain);
        if follows.is_some_and(|follows| follows != chain) {
            return Err(Error::new(ErrorKind::Conflict, "the audit chain moved on, import again"));
        }
        let epoch = now.map_or(Epoch(0), |now| now.stamp().epoch).max(state.stamp.epoch);
        let epoch = Epoch(epoch.0.saturating_add(EPOCH_JUMP));
        state.stamp = Stamp { incarnation: life.map_or_else(Incarnation::random, Ok)?, epoch };
        let count = records.len();
        let image = Self::restored(state, false, None, None, records);
        if image.records.len() != count {
            return Err(Error::new(ErrorKind::Corrupt, "a record stands twice in the snapshot"));
        }
        Ok((Some(image), state.stamp))
    }

    /// The step of [`UserStore::commit`](crate::UserStore::commit) by a handle of a life.
    ///
    /// # Errors
    ///
    /// Those of the contract.
    pub fn committed(now: Option<&Self>, life: Incarnation, batch: Batch) -> Step<Commit> {
        let mut image = now.ok_or_else(gone)?.live(life)?.clone();
        let commit = image.commit(batch)?;
        Ok((Some(image), commit))
    }

    /// Whether [`Store::list`](crate::Store::list) gives the user: neither erased nor moved away.
    #[must_use]
    pub const fn is_listed(&self) -> bool {
        !matches!(self.fence(), Some(Fence::Erased | Fence::Moved))
    }

    fn is_erased(&self) -> bool {
        self.stamp().incarnation == NO_LIFE
    }
}

fn erased() -> Error {
    Error::new(
        ErrorKind::Erased,
        "the user was erased, only an explicit recreate makes one of that name again",
    )
}

fn not_found() -> Error {
    Error::new(ErrorKind::NotFound, "there is no such user, create it first")
}

fn present() -> Error {
    Error::new(ErrorKind::AlreadyExists, "the user is there already, open it")
}

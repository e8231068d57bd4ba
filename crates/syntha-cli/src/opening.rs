//! How a command opens the data, and what it says the first time.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use syntha::sqlite::{KeyPlace, key_place};
use syntha::trail::verify::Checkpoint;
use syntha::{
    Audit, AuditPolicy, Builder, Encryption, HostAuthority, Kek, ResourceLimits, SealingMode, UserManager,
    default_audit_key_file, default_key_file, default_keystore,
};

use crate::Result;
use crate::limits::Limits;
use crate::passphrase;
use crate::settings::{Audit as Policy, Settings, Source};

/// Who else may have the data.
#[derive(Clone, Copy)]
pub(crate) enum Access {
    Alone,
    Shared,
    /// Whoever holds it: only reads.
    Beside,
}

/// What the data is opened with. A passphrase was read for it, once.
#[derive(Clone)]
pub(crate) enum Sealing {
    /// As the library does.
    Unsaid,
    Plain,
    Sealed(Kek),
}

/// How the data is opened.
pub(crate) struct Opening {
    pub(crate) settings: Settings,
    pub(crate) sealing: Sealing,
    /// The key that signs the audit log is lost, and a new one takes its place, after what is known.
    replaces: Option<Option<Checkpoint>>,
    /// The data goes with the command, so nobody has to copy keys that are made for it.
    passing: bool,
}

impl Opening {
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let sealing = match &settings.source {
            None => Sealing::Unsaid,
            Some(Source::Plain) => Sealing::Plain,
            Some(source) => Sealing::Sealed(kek(source)?),
        };
        Ok(Self { settings, sealing, replaces: None, passing: false })
    }

    /// The key file, if one is what opens the data.
    pub(crate) fn key_file(&self) -> Option<PathBuf> {
        match &self.settings.source {
            None => Some(default_key_file(&self.settings.data)),
            Some(Source::File(path)) => Some(path.clone()),
            Some(_) => None,
        }
    }

    /// The file of the key that signs the audit log.
    pub(crate) fn audit_key_file(&self) -> PathBuf {
        let named = &self.settings.audit_key_file;
        named.clone().unwrap_or_else(|| default_audit_key_file(&self.settings.data))
    }

    pub(crate) fn keystore(&self) -> PathBuf {
        self.settings.keystore.clone().unwrap_or_else(|| default_keystore(&self.settings.data))
    }

    /// The key, whoever chose it; `None` for data that is not to be sealed.
    pub(crate) fn kek(&self) -> Option<Kek> {
        match &self.sealing {
            Sealing::Unsaid => Some(Kek::file(default_key_file(&self.settings.data))),
            Sealing::Plain => None,
            Sealing::Sealed(kek) => Some(kek.clone()),
        }
    }

    /// With another key in the place of the one that the settings name.
    pub(crate) fn with_kek(mut self, kek: Kek) -> Self {
        self.sealing = Sealing::Sealed(kek);
        self
    }

    /// For data that goes with the command.
    pub(crate) const fn passing(mut self) -> Self {
        self.passing = true;
        self
    }

    /// With a new key for the audit log.
    pub(crate) fn replacing(mut self, known: Option<Checkpoint>) -> Self {
        self.replaces = Some(known);
        self
    }

    pub(crate) fn encryption(&self, kek: Kek) -> Encryption {
        let encryption = Encryption::new(kek);
        let encryption = if self.settings.values { encryption.mode(SealingMode::Values) } else { encryption };
        match &self.settings.keystore {
            Some(folder) => encryption.keystore(folder),
            None => encryption,
        }
    }

    /// The trail that was asked for; `None` for what the library does by itself, and for none.
    fn audit(&self) -> Option<Audit> {
        let audit = match self.settings.audit {
            Some(Policy::Off) => return None,
            Some(Policy::Writes) => Audit::new(AuditPolicy::Writes),
            Some(Policy::Buffered) => Audit::new(AuditPolicy::Buffered),
            Some(Policy::Strict) => Audit::new(AuditPolicy::Strict),
            // Who names the key or the limit asks for a trail.
            None if self.replaces.is_some()
                || self.settings.audit_key_file.is_some()
                || self.settings.audit_limit.is_some() =>
            {
                Audit::default()
            }
            None => return None,
        };
        let audit = match &self.settings.audit_key_file {
            Some(path) => audit.key_file(path),
            None => audit,
        };
        let audit = match self.settings.audit_limit {
            Some(bytes) => audit.trail_limit(bytes),
            None => audit,
        };
        Some(match &self.replaces {
            Some(known) => audit.replace_lost_key(known.clone()),
            None => audit,
        })
    }

    /// With what the data is to be sealed with.
    pub(crate) fn sealed(&self, builder: Builder, is_new: bool) -> Result<Builder> {
        Ok(match &self.sealing {
            Sealing::Plain => builder.plain(),
            Sealing::Sealed(kek) => builder.encryption(self.encryption(kek.clone())),
            Sealing::Unsaid if self.settings.values || self.settings.keystore.is_some() => {
                if is_new {
                    self.make_key_file()?;
                }
                builder.encryption(self.encryption(Kek::file(default_key_file(&self.settings.data))))
            }
            Sealing::Unsaid => builder,
        })
    }

    /// Makes the key file where it is looked for when none is named, unless it is there.
    pub(crate) fn make_key_file(&self) -> Result<()> {
        if self.settings.database.is_some() {
            let state = &self.settings.state;
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
            made.map_err(|error| format!("can't make {}: {error}", state.display()))?;
        }
        syntha::keys::make_key_file(default_key_file(&self.settings.data)).map_err(syntha::Error::from)?;
        Ok(())
    }

    /// What the data is called where people read it.
    pub(crate) fn place(&self) -> String {
        match &self.settings.database {
            Some(_) => format!("PostgreSQL database, state folder {}", self.settings.state.display()),
            None => format!("data folder: {}", self.settings.data.display()),
        }
    }

    pub(crate) async fn open(&self, access: Access) -> Result<(UserManager, HostAuthority)> {
        let data = &self.settings.data;
        // A database is prepared before, and its keys are made then.
        let is_new = self.settings.database.is_none()
            && key_place(data).map_err(syntha::Error::from)? == KeyPlace::Nowhere
            && !matches!(access, Access::Beside);
        let limits = |limits: &Limits| limits.over(ResourceLimits::new());
        let builder = UserManager::builder().limits(limits(&self.settings.limits));
        let plans = self.settings.plans.iter();
        let builder = plans.fold(builder, |builder, (name, plan)| builder.plan(name.as_str(), limits(plan)));
        let builder = match (&self.settings.database, access) {
            // Nobody has one alone, and nobody is in the way.
            (Some(database), _) => builder.postgres_with(database.postgres(&self.settings.state)),
            (None, Access::Alone) => builder.sqlite(data),
            (None, Access::Shared) => builder.sqlite_shared(data),
            (None, Access::Beside) => builder.sqlite_beside(data),
        };
        let key_file = default_key_file(data);
        let unsaid = matches!(self.sealing, Sealing::Unsaid);
        let makes_key = unsaid && is_new && key_file.symlink_metadata().is_err();
        let builder = self.sealed(builder, is_new)?;
        let audit_key = self.audit_key_file();
        let is_told = matches!(access, Access::Beside) || self.replaces.is_some();
        let makes_audit_key = !is_told && audit_key.symlink_metadata().is_err();
        let builder = match self.audit() {
            Some(audit) => builder.audit(audit),
            None if matches!(self.settings.audit, Some(Policy::Off)) => builder.no_audit(),
            None => builder,
        };
        let opened = builder.open().await;
        // Also if it failed: the file is there, and the next time it is nothing new.
        if makes_key && !self.passing && key_file.symlink_metadata().is_ok() {
            eprintln!(
                "syntha: made the key file {} for the keystore {}: copy both to a place apart from the data, nothing opens without them",
                key_file.display(),
                self.keystore().display()
            );
        }
        if makes_audit_key && !self.passing && audit_key.symlink_metadata().is_ok() {
            eprintln!(
                "syntha: made the key file {}, which signs the audit log: copy it to a place apart from the data, which does not open without it",
                audit_key.display()
            );
        }
        let opened = opened?;
        let mode = opened.0.sealing();
        // A host that says so in its environment says it at every start.
        if self.settings.values && mode.is_some_and(|mode| mode != SealingMode::Values) {
            opened.0.shutdown().await?;
            return Err("--values is for a new data folder: what is there stays as it was made".into());
        }
        Ok(opened)
    }
}

fn kek(source: &Source) -> Result<Kek> {
    Ok(match source {
        Source::Plain => return Err("the data is not sealed".into()),
        Source::File(path) => Kek::file(path),
        Source::Variable(name) => Kek::env(name),
        Source::Passphrase(path) => Kek::passphrase(passphrase::read(path)?),
        #[cfg(feature = "vault")]
        Source::Vault { address, key, token_file } => {
            let vault = syntha::keys::VaultTransit::builder(address, key).token_file(token_file);
            Kek::provider(std::sync::Arc::new(vault.build().map_err(syntha::Error::from)?))
        }
    })
}

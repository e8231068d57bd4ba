//! What the host made of an agent: its role, what is granted to it and denied it, and whether it is trusted.

use serde::{Deserialize, Serialize};
use syntha_store::Timestamp;

use crate::error::{Error, ErrorKind, Result};
use crate::grant::{GRANTS, Grant};
use crate::names::{KeyPrefix, RoleName, Topic};
use crate::role::{AgentRole, Role};

/// The part of an agent's record that only version 2 has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Standing {
    /// `None` for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<AgentRole>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) grants: Vec<Grant>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) denials: Vec<Grant>,
    /// Whether what it writes is marked as trusted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) trusted: bool,
    /// Whether it reads nothing that an agent wrote which was not trusted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) only_trusted: bool,
}

/// One change of an agent's standing.
#[derive(Clone, Debug)]
pub(crate) enum Permit {
    Role(Option<AgentRole>),
    Grant(Grant),
    Revoke(Grant),
    Deny(Grant),
    Lift(Grant),
    Trusted(bool),
    OnlyTrusted(bool),
}

impl Standing {
    pub(crate) fn apply(&mut self, permit: &Permit, now: Timestamp) -> Result<()> {
        self.grants.retain(|grant| grant.holds(|| now));
        match permit {
            Permit::Role(role) => {
                self.role = role.clone().filter(|role| *role != AgentRole::Standard(Role::default()));
            }
            Permit::Grant(grant) => add(&mut self.grants, grant)?,
            Permit::Revoke(grant) => take(&mut self.grants, grant),
            Permit::Deny(grant) => add(&mut self.denials, &grant.clone().for_ever())?,
            Permit::Lift(grant) => take(&mut self.denials, grant),
            Permit::Trusted(trusted) => self.trusted = *trusted,
            Permit::OnlyTrusted(only) => self.only_trusted = *only,
        }
        Ok(())
    }

    /// What is left of an archived standing under the present one.
    pub(crate) fn restricted(archived: Option<Self>, present: Option<&Self>) -> Self {
        let (mut archived, none) = (archived.unwrap_or_default(), Self::default());
        let present = present.unwrap_or(&none);
        archived.role = match (&archived.role, &present.role) {
            (Some(AgentRole::Custom(_)), _) | (_, Some(AgentRole::Custom(_))) => present.role.clone(),
            (archived, present) => {
                let role = |role: &Option<AgentRole>| match role {
                    Some(AgentRole::Standard(role)) => *role,
                    _ => Role::default(),
                };
                let least = role(archived).min(role(present));
                (least != Role::default()).then_some(AgentRole::Standard(least))
            }
        };
        let common = |grant: &Grant| present.grants.iter().filter_map(|other| grant.common(other)).collect();
        archived.grants = archived.grants.iter().flat_map::<Vec<_>, _>(common).collect();
        // The union may be over the cap: nothing that is denied is left out for that.
        for denial in &present.denials {
            if !archived.denials.contains(denial) {
                archived.denials.push(denial.clone());
            }
        }
        archived.trusted &= present.trusted;
        archived.only_trusted |= present.only_trusted;
        archived
    }

    /// Refuses what an import must not bring: names that are none, and more than the caps.
    pub(crate) fn check(&self) -> Result<()> {
        let mut grants: Vec<_> = self.grants.iter().chain(&self.denials).collect();
        let mut most = self.grants.len().max(self.denials.len());
        if let Some(AgentRole::Custom(role)) = &self.role {
            RoleName::new(role.name())?;
            most = most.max(role.grants().len());
            grants.extend(role.grants());
        }
        if most > GRANTS {
            return Err(too_many());
        }
        for grant in grants {
            match grant.scope() {
                crate::grant::Scope::Topic(topic) => drop(Topic::new(topic)?),
                crate::grant::Scope::Prefix(prefix) => drop(KeyPrefix::new(prefix)?),
                crate::grant::Scope::Threads => {}
            }
        }
        Ok(())
    }
}

/// What is granted again holds up to the new moment, and no longer up to the old one.
fn add(list: &mut Vec<Grant>, grant: &Grant) -> Result<()> {
    if grant.effects.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, "the grant lets nothing be done, say what"));
    }
    take(list, grant);
    let same = |other: &&mut Grant| other.scope == grant.scope && other.expires() == grant.expires();
    if let Some(same) = list.iter_mut().find(same) {
        same.effects = same.effects.and(grant.effects);
        return Ok(());
    }
    if list.len() >= GRANTS {
        return Err(too_many());
    }
    list.push(grant.clone());
    Ok(())
}

/// Takes effects from exactly this scope.
fn take(list: &mut Vec<Grant>, grant: &Grant) {
    for own in list.iter_mut().filter(|own| own.scope == grant.scope) {
        own.effects = own.effects.without(grant.effects);
    }
    list.retain(|own| !own.effects.is_empty());
}

const fn too_many() -> Error {
    Error::new(ErrorKind::LimitExceeded, "an agent has at most 64 grants and 64 denials, revoke some")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::CustomRole;

    const NOW: Timestamp = Timestamp(1_000);

    fn grant(prefix: &str) -> Grant {
        Grant::prefix(prefix).unwrap().read().write()
    }

    fn given(permits: &[Permit]) -> Standing {
        let mut standing = Standing::default();
        permits.iter().for_each(|permit| standing.apply(permit, NOW).unwrap());
        standing
    }

    #[test]
    fn a_list_has_a_cap_that_what_expired_does_not_use_up() {
        for permit in [Permit::Grant as fn(Grant) -> Permit, Permit::Deny] {
            let mut standing = Standing::default();
            for n in 0..GRANTS {
                standing.apply(&permit(grant(&n.to_string())), NOW).unwrap();
            }
            let error = standing.apply(&permit(grant("more")), NOW).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::LimitExceeded);
            standing.apply(&permit(grant("7").delete()), NOW).unwrap();
        }
        let mut standing = Standing::default();
        for n in 0..GRANTS {
            let until = grant(&n.to_string()).until(Timestamp(1_001));
            standing.apply(&Permit::Grant(until), NOW).unwrap();
        }
        standing.apply(&Permit::Grant(grant("more")), Timestamp(1_001)).unwrap();
        assert_eq!(standing.grants, [grant("more")]);
        let many = (0..=GRANTS).map(|n| grant(&n.to_string()));
        assert_eq!(CustomRole::new("r", many).unwrap_err().kind(), ErrorKind::LimitExceeded);
        assert_eq!(CustomRole::new("admin", []).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn a_grant_again_holds_up_to_the_new_moment() {
        let (early, late) = (grant("a").until(Timestamp(2_000)), grant("a").until(Timestamp(1_500)));
        let standing = given(&[Permit::Grant(early.clone()), Permit::Grant(late.clone())]);
        assert_eq!(standing.grants, std::slice::from_ref(&late));
        let part = Grant::prefix("a").unwrap().write();
        let standing = given(&[Permit::Grant(early), Permit::Revoke(part.clone())]);
        assert_eq!(standing.grants, [Grant::prefix("a").unwrap().read().until(Timestamp(2_000))]);
        let standing = given(&[Permit::Deny(late), Permit::Lift(part)]);
        assert_eq!(standing.denials, [Grant::prefix("a").unwrap().read()], "a denial has no end");
        let nothing = Permit::Grant(Grant::threads());
        assert_eq!(Standing::default().apply(&nothing, NOW).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn an_archive_loosens_nothing() {
        let role = |role: Role| Permit::Role(Some(role.into()));
        let archived = given(&[
            role(Role::Admin),
            Permit::Grant(grant("a").delete()),
            Permit::Grant(grant("b")),
            Permit::Trusted(true),
        ]);
        let present = given(&[
            role(Role::Readonly),
            Permit::Grant(grant("a").until(Timestamp(9))),
            Permit::Deny(grant("c")),
            Permit::OnlyTrusted(true),
        ]);
        // It expired in the present, and an archive does not bring it back.
        let present = Standing { grants: vec![grant("a").until(Timestamp(9))], ..present };
        let restored = Standing::restricted(Some(archived.clone()), Some(&present));
        let expected = Standing {
            role: Some(Role::Readonly.into()),
            grants: vec![grant("a").until(Timestamp(9))],
            denials: vec![grant("c")],
            trusted: false,
            only_trusted: true,
        };
        assert_eq!(restored, expected);
        // Nothing was given to the agent that is there.
        assert_eq!(Standing::restricted(Some(archived), None), Standing::default());
        let custom = given(&[Permit::Role(Some(CustomRole::new("own", [grant("a")]).unwrap().into()))]);
        assert_eq!(Standing::restricted(Some(custom.clone()), None), Standing::default());
        assert_eq!(Standing::restricted(None, Some(&custom)).role, custom.role);
    }
}

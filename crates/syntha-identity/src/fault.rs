//! Planted faults. Without the feature `faults` there is no way to set one, and the places that ask are compiled away.

/// A fault that the tests must find. For tests alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "faults"), allow(unreachable_pub, reason = "it is public with the feature alone"))]
#[non_exhaustive]
pub enum Fault {
    /// For a user who is not there nothing is hashed.
    DummyMissing,
    /// Whether the account is suspended is answered before the password is looked at.
    SuspendedFirst,
    /// A session goes on after it was revoked.
    RevokeIgnored,
    /// A revocation reaches no lease of its own process before the next refresh.
    RevokeLate,
    /// Which generation of the account a session was made in is not compared.
    GenerationIgnored,
    /// The permit of a hash that runs comes back when its caller gives up.
    PermitFreed,
    /// Passwords are looked at in the order that they come in, wherever they come from.
    LoginsFirstCome,
    /// Attempts are counted after the password was looked at.
    ThrottleLate,
    /// Each process counts attempts by itself.
    ThrottleApart,
    /// A token is compared by the first bytes of its hash.
    PrefixCompared,
    /// A token holds after its expiry.
    ExpiryIgnored,
    /// The note of a last use brings back a record that was deleted.
    TouchRevives,
    /// A token is worth its own scopes, whatever the account may do.
    RightsIgnored,
    /// The highest time that was seen is no floor for the clock.
    ClockFloorIgnored,
}

impl crate::IdentityConfig {
    /// Plants a fault.
    #[cfg(feature = "faults")]
    pub const fn fault(mut self, fault: Fault) -> Self {
        self.fault = Some(fault);
        self
    }

    #[cfg(feature = "faults")]
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.fault == Some(fault)
    }

    #[cfg(not(feature = "faults"))]
    #[allow(clippy::unused_self, reason = "the form with the feature needs it")]
    pub(crate) const fn has(&self, _: Fault) -> bool {
        false
    }
}

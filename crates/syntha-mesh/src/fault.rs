/// A fault that the conformance suite must find. For tests of the suite only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Expired entries are shown until they are swept.
    ExpiredShown,
    /// The audience is not asked.
    AudienceIgnored,
    /// Topics are resolved when an entry is pushed and never again.
    VersionIgnored,
    /// A session that ended goes on.
    GuardIgnored,
    /// A name that is registered again inherits what the earlier one had.
    IncarnationIgnored,
    /// A failed operation spoils the batch of its neighbours half-way.
    BatchTorn,
}

/// A fault that the conformance suite plants, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// What is sealed is not bound to its user.
    UserUnbound,
    /// What is sealed is not bound to its version.
    VersionUnbound,
    /// What is sealed is not bound to its expiry.
    ExpiryUnbound,
    /// Every seal has the same salt.
    SaltFixed,
    /// What is no envelope is taken as it is.
    PlaintextAccepted,
    /// All users have the keys of one.
    KeyShared,
    /// Names are stored as they are.
    NamesInClear,
    /// Sizes are stored as they are.
    SizesShown,
    /// Another head's body is taken.
    BodySpliced,
    /// The roster is not compared.
    RosterIgnored,
    /// A note of an earlier commit is taken.
    NoteStale,
    /// What another handle seals meanwhile is not looked at: it goes on under the key that it knows.
    EpochStale,
    /// An erase keeps the user's keys.
    KeysKept,
    /// A rotation ends before everything is sealed again.
    RotationHasty,
}

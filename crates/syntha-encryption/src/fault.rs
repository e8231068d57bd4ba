/// A fault that the conformance suite plants, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// What is sealed is not bound to its user.
    UserUnbound,
    /// What is sealed is not bound to its deployment.
    DeploymentUnbound,
    /// What is sealed is not bound to its keyspace.
    SpaceUnbound,
    /// What is sealed is not bound to the name that it is stored under.
    NameUnbound,
    /// What is sealed is not bound to its sequence number.
    SeqUnbound,
    /// What is sealed is not bound to its version.
    VersionUnbound,
    /// What is sealed is not bound to its expiry.
    ExpiryUnbound,
    /// A body is sealed as a head is.
    PartUnbound,
    /// Where heads are readable, they are not bound to their seal.
    HeadUnbound,
    /// A blob is opened by the algorithm that it names.
    AlgorithmTrusted,
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
    /// Expiries are stored as they are.
    ExpiryShown,
    /// A body that was stripped is taken for an empty one.
    StrippedAccepted,
    /// A record of a later commit than where the data stands is taken.
    LaterAccepted,
    /// Another head's body is taken.
    BodySpliced,
    /// The roster is not compared.
    RosterIgnored,
    /// The roster of a snapshot is not compared.
    SnapshotIgnored,
    /// What is deleted stays in the roster.
    RosterKeepsDeleted,
    /// A note of an earlier commit is taken.
    NoteStale,
    /// What another handle seals meanwhile is not looked at: it goes on under the key that it knows.
    EpochStale,
    /// An erase keeps the user's keys.
    KeysKept,
    /// An import keeps the keys of the lives before.
    FormerKeysKept,
    /// A wrapped key is not bound to its user.
    WrapUnbound,
    /// A rotation ends before everything is sealed again.
    RotationHasty,
    /// What an audit trail says in full is stored as it is.
    DetailsInClear,
    /// What an audit trail says in full is sealed under the data key, which a rotation or a restore destroys.
    DetailsUnderDataKey,
}

/// A fault that the conformance suite plants, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A change is committed without its link.
    LinkMissing,
    /// A link is committed before its change, and stays where the change fails.
    LinkApart,
    /// A restore begins a new chain.
    ChainRestarted,
    /// A user is opened whatever the chain ends in.
    TailIgnored,
    /// The last change of a batch is not in its link.
    TraceOmitted,
    /// Details are not covered by what the link says of them.
    DetailsUncovered,
    /// A link is written whatever the chain ends in, over that of another handle.
    ForkAllowed,
    /// What was only read or refused is not in the trail.
    EventsDropped,
    /// Names in details that nobody seals are as they are.
    NamesShown,
    /// A layer above may write the trail.
    KeyspaceOpen,
    /// Two leaves of a checkpoint hold each other's heads.
    HeadsSwapped,
    /// What a sink took is remembered before it has taken it.
    CursorFirst,
    /// The log is not compared with what was signed last.
    LastSizeIgnored,
    /// The last link of several that a leaf names is not delivered.
    TailDropped,
    /// One user may fill the whole backlog.
    FlooderTaken,
    /// What the leaves say of owners is not known when the log is opened.
    LeavesForgotten,
    /// Where a pruned chain begins is believed without a leaf that says it.
    FloorBelieved,
    /// A move is logged whatever life it is of.
    LifeIgnored,
    /// How far a sink was told is believed whoever wrote it.
    CursorBelieved,
    /// An index of the log that lies in the data is believed whoever wrote it.
    IndexBelieved,
    /// Every refused name has an entry of its own in the deployment's trail.
    RefusalsNamed,
    /// A user's trail grows past its limit.
    LimitIgnored,
    /// A handle counts a trail's bytes from where it was opened.
    BytesForgotten,
}

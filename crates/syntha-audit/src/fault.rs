/// A fault that the conformance suite plants, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A change is committed without its link.
    LinkMissing,
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
}

/// A fault that the conformance suite plants, to see that it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// A change is committed without its link.
    LinkMissing,
}

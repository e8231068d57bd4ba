//! What a process can do for the secrets in its memory.

use rustix::process::{Resource, Rlimit, setrlimit};
use syntha_store::{Error, ErrorKind, Result};

/// Turns core dumps off for this process. For a program to call first of all; a library leaves it to its program.
///
/// On Linux the process is also marked as not dumpable: other processes of the same user can't attach to it or read its
/// memory under `/proc`, and neither can a debugger or profiler that the user wants. Elsewhere only the size of core
/// files is set to zero. Both hold for the program that runs now; a child that it starts has the limit, not the mark.
///
/// It does not keep root, the kernel or a hypervisor out, does not keep memory from being swapped out or written to disk
/// when the machine hibernates (use encrypted swap), and does not end a dump that a crash handler inside of the process
/// takes.
///
/// # Errors
///
/// `Unavailable` if the system refuses.
pub fn harden_process() -> Result<()> {
    let refused = |source: rustix::io::Errno| {
        Error::new(
            ErrorKind::Unavailable,
            "core dumps can't be turned off, start the program with `ulimit -c 0`",
        )
        .with_source(source)
    };
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(refused)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(refused)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use rustix::process::getrlimit;

    use super::*;

    /// What [`a_hardened_process_dumps_nothing`] runs in a process of its own.
    #[test]
    fn one_that_is_hardened() {
        if std::env::var_os("SYNTHA_TEST_HARDEN").is_none() {
            return;
        }
        // Not what the test wants already, if the system lets it.
        let _ = setrlimit(Resource::Core, Rlimit { current: Some(4096), maximum: Some(4096) });
        harden_process().unwrap();
        let limit = getrlimit(Resource::Core);
        assert_eq!((limit.current, limit.maximum), (Some(0), Some(0)));
        #[cfg(target_os = "linux")]
        {
            use rustix::process::{DumpableBehavior, dumpable_behavior};
            assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        }
        println!("all limits are zero");
    }

    #[test]
    fn a_hardened_process_dumps_nothing() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hygiene::tests::one_that_is_hardened", "--nocapture"])
            .env("SYNTHA_TEST_HARDEN", "1")
            .output()
            .unwrap();
        // INVARIANT of the test: the text is in no test's name, which the output has as well.
        assert!(output.status.success());
        assert!(String::from_utf8(output.stdout).unwrap().contains("all limits are zero"));
    }
}

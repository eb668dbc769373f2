//! The output of a command, for the user.

use std::fmt::Display;
use std::io::{self, Write as _};

/// Prints one line on standard output.
///
/// If the reader is gone (`migration-gate eject --yes | head -1`), the work continues: half the
/// work done is worse than all of it done unseen.
pub(crate) fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

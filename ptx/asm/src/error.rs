//! What can be wrong with a module that compiles.

use crate::target::{Needs, Target};
use std::fmt;

/// One thing that is wrong with a module, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Error {
    /// The kernel's name.
    pub kernel: String,
    /// The section of the kernel ([`Kernel::section`](crate::Kernel::section)) it happened in; empty before the first.
    pub section: String,
    /// What it is.
    pub problem: Problem,
}

/// What is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Problem {
    /// The target lacks the instruction.
    Unsupported {
        /// Its opcode.
        instruction: String,
        /// What it takes.
        needs: Needs,
        /// What there is.
        target: Target,
    },
    /// Qualifiers that do not go together.
    Malformed {
        /// The opcode.
        instruction: String,
        /// Why it is none.
        reason: &'static str,
    },
    /// More static shared memory than any target has.
    SharedTooLarge {
        /// The kernel's static bytes.
        bytes: usize,
    },
    /// Two parameters, variables or kernels of one name.
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Not an identifier of PTX (§4.4).
    BadName {
        /// The name.
        name: String,
    },
}

/// The most static shared memory that a kernel may have, on every target.
pub const MAX_STATIC_SHARED: usize = 48 * 1024;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        if !self.section.is_empty() {
            write!(f, ", section \"{}\"", self.section)?;
        }
        f.write_str(": ")?;
        match &self.problem {
            Problem::Unsupported { instruction, needs, target } => {
                write!(f, "{instruction} needs {needs}; the target is {target}")
            }
            Problem::Malformed { instruction, reason } => write!(f, "{instruction}: {reason}"),
            Problem::SharedTooLarge { bytes } => {
                write!(f, "{bytes} bytes of static shared memory, at most {MAX_STATIC_SHARED} are allowed")
            }
            Problem::DuplicateName { name } => write!(f, "the name {name} is taken"),
            Problem::BadName { name } => {
                write!(f, "{name:?} is no name of letters, digits and _ (or is a reserved one)")
            }
        }
    }
}

impl std::error::Error for Error {}

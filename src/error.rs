//! What can go wrong, as a status for programs and a message for people.

use std::fmt;

/// The kind of an error; the numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[non_exhaustive]
pub enum Status {
    /// An argument is wrong; nothing was written.
    InvalidArgument = 1,
    /// A size does not fit 64 bits or the address space; nothing was written.
    TooLarge = 2,
    /// The workspace is smaller than the matching `*_workspace_size` says; nothing was written.
    WorkspaceTooSmall = 3,
    /// The request is valid, but this build or device cannot serve it; nothing was written.
    Unsupported = 4,
    /// The system refused memory or threads.
    OutOfResources = 5,
    /// A bug in this library. Outputs may be partly written.
    Internal = 6,
    /// There is no device of this kind, or no driver for it, or one that is too old.
    NoDevice = 7,
    /// The device's driver reports an error: of this call, or of work that was enqueued before it. Outputs may be partly
    /// written.
    Device = 8,
}

/// A status and a message that names the argument, its value and what is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    status: Status,
    message: String,
}

/// What the operations return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn new(status: Status, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    /// An error of status [`Status::InvalidArgument`].
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Status::InvalidArgument, message)
    }

    /// An error of status [`Status::TooLarge`].
    pub(crate) fn too_large(message: impl Into<String>) -> Self {
        Self::new(Status::TooLarge, message)
    }

    /// The same error of a field of argument `name`.
    pub(crate) fn of(mut self, name: &str) -> Self {
        self.message.insert_str(0, &format!("{name}."));
        self
    }

    /// The kind of error.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// Returns [`Error::invalid`] with a formatted message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::error::Error::invalid(format!($($message)+)));
        }
    };
}
pub(crate) use ensure;

//! What a kernel did wrong.

use crate::driver::Status;

/// The kind of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultKind {
    /// An address outside every allocation, or outside shared, local or parameter memory.
    OutOfBounds,
    /// An address that is not a multiple of the access's size.
    Misaligned,
    /// A read of memory that nobody has written.
    Uninitialized,
    /// Two conflicting accesses that nothing orders.
    Race,
    /// An access to memory that an asynchronous copy is still writing (or reading): its wait is missing.
    MissingWait,
    /// Memory written by ordinary stores is read by an asynchronous copy or `wgmma` without `fence.proxy.async` between.
    MissingProxyFence,
    /// A collective instruction whose threads are not all there.
    Divergence,
    /// A misuse of a barrier: number, thread count, state.
    Barrier,
    /// Every thread that is left waits.
    Deadlock,
    /// `trap`.
    Trap,
    /// More instructions than the limit.
    Timeout,
    /// An operand outside what the instruction allows.
    IllegalOperand,
}

/// A fault, with the place where it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What kind.
    pub kind: FaultKind,
    /// The kernel's name.
    pub kernel: String,
    /// The line in the module's text, from 1.
    pub line: u32,
    /// The instruction, without operands.
    pub instruction: String,
    /// `%ctaid`.
    pub block: [u32; 3],
    /// `%tid`.
    pub thread: [u32; 3],
    /// What happened, in words.
    pub message: String,
}

impl Fault {
    /// The driver's error code for the kind.
    pub const fn code(&self) -> u32 {
        match self.kind {
            FaultKind::OutOfBounds => Status::ILLEGAL_ADDRESS,
            FaultKind::Timeout => Status::LAUNCH_TIMEOUT,
            FaultKind::IllegalOperand => Status::ILLEGAL_INSTRUCTION,
            FaultKind::Misaligned => Status::MISALIGNED_ADDRESS,
            _ => Status::LAUNCH_FAILED,
        }
        .0
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kind, kernel, line, instruction, block, thread, message } = self;
        let [bx, by, bz] = block;
        let [tx, ty, tz] = thread;
        write!(
            f,
            "{kind:?} in kernel {kernel}, line {line} ({instruction}), block ({bx},{by},{bz}), thread ({tx},{ty},{tz}): {message}"
        )
    }
}

/// A fault before its place is known: raised by an instruction, placed by the loop that runs it.
#[derive(Debug)]
pub(crate) struct Raise {
    pub kind: FaultKind,
    pub lane: usize,
    pub message: String,
}

/// The result of executing an instruction.
pub(crate) type Step<T = ()> = Result<T, Box<Raise>>;

/// Raises a fault of one lane.
#[cold]
pub(crate) fn raise<T>(kind: FaultKind, lane: usize, message: String) -> Step<T> {
    Err(Box::new(Raise { kind, lane, message }))
}

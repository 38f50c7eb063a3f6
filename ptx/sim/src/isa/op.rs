//! Decoded programs.

use super::forms::*;
use crate::exec::lanes::{AluFn, Args, Reg, Registers};
use crate::parse::Limits;

/// A kernel, ready to run.
pub struct Kernel {
    pub name: String,
    pub params: Vec<Param>,
    /// Bytes of all parameters.
    pub param_size: usize,
    /// Bytes of static shared memory.
    pub static_shared: u32,
    /// Where dynamic shared memory starts: `static_shared`, aligned for the `.extern` array.
    pub dynamic_shared_at: u32,
    /// Bytes of local memory of a thread.
    pub local_size: u32,
    pub limits: Limits,
    pub code: Vec<Instr>,
    /// Registers as a warp starts with them: constants filled in.
    pub registers: Registers,
    /// Registers that hold special registers.
    pub specials: Vec<(Special, Reg)>,
    /// Distinct instructions as written, without operands; `Instr::name` indexes them.
    pub names: Vec<String>,
    /// Of kernels with `wgmma`: the 32-bit registers that each instruction names. Of others nothing.
    pub uses: Vec<Box<[u16]>>,
}

/// Where a parameter lies in the parameter buffer.
#[derive(Clone, Copy, Debug)]
pub struct Param {
    pub offset: usize,
    pub size: usize,
}

/// One instruction.
pub struct Instr {
    pub op: Op,
    pub guard: Option<Guard>,
    pub line: u32,
    pub name: u16,
}

/// A predicate, or its negation: `@p`, `@!p`, or an operand `p`, `!p`.
#[derive(Clone, Copy, Debug)]
pub struct Guard {
    pub pred: u16,
    pub negated: bool,
}

/// Special registers that do not change while a thread runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    DynamicSmemSize,
    TotalSmemSize,
    ClusterCtaRank,
    ClusterNctaRank,
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaid(u8),
    ClusterNctaid(u8),
}

/// What an instruction does.
pub enum Op {
    /// Arithmetic on registers.
    Alu(AluFn, Args),
    /// To the instruction of this index.
    Branch(u32),
    /// The thread ends.
    Exit,
    Trap,
    /// A hint, or an order that this machine keeps anyway.
    Nop,
    /// `griddepcontrol.wait`.
    GridWait,
    /// `%clock`, `%clock64`, `%globaltimer`.
    Clock(Reg),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Fence(Fence),
    /// `bar.warp.sync`: the register with the mask.
    WarpSync(u16),
    Barrier(Barrier),
    /// `barrier.cluster`.
    ClusterArrive,
    ClusterWait,
    Shuffle(Box<Shuffle>),
    Vote(Vote),
    Match(Match),
    Redux(Redux),
    ActiveMask(u16),
    /// `elect.sync d|p, mask`.
    Elect {
        d: u16,
        p: u16,
        mask: u16,
    },
    CpAsync(Box<CpAsync>),
    CpAsyncCommit,
    /// At most this many groups stay in flight.
    CpAsyncWaitGroup(u32),
    CpAsyncWaitAll,
    Ldmatrix(Box<Ldmatrix>),
    Stmatrix(Box<Ldmatrix>),
    Movmatrix {
        d: u16,
        a: u16,
    },
    Mma(Box<Mma>),
    Mbarrier(Box<Mbarrier>),
    BulkLoad(Box<BulkCopy>),
    BulkStore(Box<BulkCopy>),
    TensorLoad(Box<TensorCopy>),
    TensorStore(Box<TensorCopy>),
    BulkCommit,
    /// At most this many bulk groups stay in flight.
    BulkWait(u32),
    WgmmaFence,
    Wgmma(Box<Wgmma>),
    WgmmaCommit,
    /// At most this many wgmma groups stay in flight.
    WgmmaWait(u32),
}

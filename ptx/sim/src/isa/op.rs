//! Decoded programs.

use crate::exec::lanes::{AluFn, Args, Reg, Registers};
use crate::parse::{Limits, Space};

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
    /// `%clock`, `%clock64`, `%globaltimer`.
    Clock(Reg),
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    Fence(Fence),
    /// `bar.warp.sync`: the register with the mask.
    WarpSync(u16),
    Barrier(Barrier),
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

/// An address: a register (constant ones included) and an offset.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub base: Reg,
    pub offset: i64,
}

/// How an access takes part in the memory model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Weak,
    /// `.nc`: the location must not change while the kernel runs.
    ReadOnly,
    /// `.relaxed`, `.volatile`, atomics without a word.
    Relaxed,
    Acquire,
    Release,
    AcqRel,
}

/// State space of an address operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSpace {
    Generic,
    In(Space),
}

/// `ld`, `st`.
#[derive(Debug)]
pub struct Access {
    pub space: AddressSpace,
    pub address: Address,
    pub order: Order,
    /// Bytes of one element.
    pub size: usize,
    /// Narrow elements are sign-extended into wide registers.
    pub signed: bool,
    /// Destinations or sources, one an element; `None` is `_`.
    pub registers: Vec<Option<Reg>>,
}

/// Read-modify-write operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomOp {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    Inc,
    Dec,
    Exch,
    Cas,
}

/// How the value of an atomic is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomType {
    Unsigned,
    Signed,
    F32,
    F64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
}

/// `atom`, `red`.
#[derive(Debug)]
pub struct Atomic {
    pub space: AddressSpace,
    pub address: Address,
    pub order: Order,
    pub op: AtomOp,
    pub ty: AtomType,
    pub size: usize,
    /// `None` for `red` and `_`.
    pub dst: Option<Vec<Reg>>,
    /// One operand an element (vector forms), or compare and swap values for `cas`.
    pub operands: Vec<Reg>,
}

/// `fence`, `membar`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// Orders memory at this scope.
    Memory { gpu: bool },
    /// `fence.proxy.async`; and `fence.mbarrier_init`, which is one for barriers.
    ProxyAsync,
}

/// `bar`, `barrier`.
#[derive(Clone, Copy, Debug)]
pub struct Barrier {
    /// Registers with the barrier's number and thread count.
    pub id: u16,
    pub count: Option<u16>,
    /// `.arrive` goes on without waiting.
    pub arrive: bool,
    /// `.red`: what is combined, and from and into where.
    pub reduce: Option<BarrierReduce>,
}

/// `bar.red`.
#[derive(Clone, Copy, Debug)]
pub struct BarrierReduce {
    pub op: VoteOp,
    pub d: Reg,
    pub p: Guard,
}

/// `shfl.sync`.
#[derive(Debug)]
pub struct Shuffle {
    pub mode: ShuffleMode,
    pub d: u16,
    /// The predicate destination, or the sink.
    pub p: u16,
    pub a: u16,
    pub b: u16,
    pub c: u16,
    pub mask: u16,
}

/// Where a shuffle reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShuffleMode {
    Up,
    Down,
    Bfly,
    Idx,
}

/// `vote.sync`.
#[derive(Clone, Copy, Debug)]
pub struct Vote {
    pub op: VoteOp,
    pub d: Reg,
    pub p: Guard,
    pub mask: u16,
}

/// What a vote asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteOp {
    All,
    Any,
    Uni,
    Ballot,
    /// `bar.red.popc`.
    Popc,
}

/// `match.sync`.
#[derive(Clone, Copy, Debug)]
pub struct Match {
    pub all: bool,
    pub d: u16,
    pub p: u16,
    pub a: Reg,
    pub mask: u16,
}

/// `redux.sync`.
#[derive(Clone, Copy, Debug)]
pub struct Redux {
    pub op: AtomOp,
    pub signed: bool,
    pub d: u16,
    pub a: u16,
    pub mask: u16,
}

/// `cp.async`.
#[derive(Debug)]
pub struct CpAsync {
    pub dst: Address,
    pub src: Address,
    pub size: usize,
    /// Register with the number of source bytes; the rest is zero.
    pub src_size: Option<u16>,
    /// `ignore-src` predicate.
    pub ignore: Option<Guard>,
}

/// `ldmatrix`, `stmatrix`.
#[derive(Debug)]
pub struct Ldmatrix {
    pub registers: Vec<u16>,
    pub address: Address,
    pub trans: bool,
}

/// Element types of matrix products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    F32,
    S8,
    U8,
    S32,
    E4m3,
    E5m2,
}

/// `mma.sync`.
#[derive(Debug)]
pub struct Mma {
    /// m, n, k.
    pub shape: [usize; 3],
    pub a_type: Element,
    pub b_type: Element,
    /// Accumulator type.
    pub c_type: Element,
    pub saturate: bool,
    pub d: Vec<u16>,
    pub a: Vec<u16>,
    pub b: Vec<u16>,
    pub c: Vec<u16>,
}

/// What an `mbarrier` instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MbarrierOp {
    Init,
    Inval,
    ExpectTx,
    CompleteTx,
    /// `.expect_tx` raises the transaction count first; `.drop` takes part no more.
    Arrive {
        expect_tx: bool,
        drop: bool,
    },
    /// `test_wait`, `try_wait`.
    Wait {
        parity: bool,
        suspends: bool,
    },
    /// `cp.async.mbarrier.arrive`.
    CpAsyncArrive {
        noinc: bool,
    },
}

/// `mbarrier`.
#[derive(Debug)]
pub struct Mbarrier {
    pub op: MbarrierOp,
    pub space: AddressSpace,
    pub address: Address,
    /// The state (64 bits) or the outcome of a wait (a predicate).
    pub dst: Option<Reg>,
    /// Count, bytes, parity (32 bits) or state (64 bits).
    pub operand: Option<Reg>,
}

/// `cp.async.bulk.tensor`.
#[derive(Debug)]
pub struct TensorCopy {
    /// The generic address of the tensor map.
    pub map: Address,
    /// Registers with the box's first coordinates, innermost first.
    pub coordinates: Vec<u16>,
    pub shared: Address,
    /// The mbarrier of a load.
    pub mbarrier: Option<Address>,
}

/// `cp.async.bulk`.
#[derive(Debug)]
pub struct BulkCopy {
    pub shared: Address,
    pub global: Address,
    /// The register with the number of bytes.
    pub size: u16,
    /// The mbarrier of a load.
    pub mbarrier: Option<Address>,
}

/// A factor of a `wgmma`.
#[derive(Debug)]
pub enum Factor {
    /// A 64-bit register with a matrix descriptor; transposed: rows and columns are M or N and K, rather.
    Descriptor { register: u16, transposed: bool },
    /// A fragment of A in registers.
    Fragment(Vec<u16>),
}

/// `wgmma.mma_async`.
#[derive(Debug)]
pub struct Wgmma {
    pub n: usize,
    pub k: usize,
    pub a_type: Element,
    pub b_type: Element,
    pub c_type: Element,
    pub d: Vec<u16>,
    pub a: Factor,
    pub b: Factor,
    /// Without it D = A·B.
    pub accumulate: Guard,
    pub negate_a: bool,
    pub negate_b: bool,
}

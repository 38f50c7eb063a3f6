//! Operands of the instructions that are more than arithmetic.

use super::Guard;
use crate::exec::lanes::Reg;
use crate::parse::Space;

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
    /// The same of scope `.cta` (and `.cluster`, which is taken for a block here): for global memory, between threads of a block.
    BlockRelaxed,
    BlockAcquire,
    BlockRelease,
    BlockAcqRel,
}

impl Order {
    /// This order at block scope.
    pub const fn in_block(self) -> Self {
        match self {
            Self::Relaxed => Self::BlockRelaxed,
            Self::Acquire => Self::BlockAcquire,
            Self::Release => Self::BlockRelease,
            Self::AcqRel => Self::BlockAcqRel,
            other => other,
        }
    }

    /// Whether it is of block scope.
    pub const fn is_of_block(self) -> bool {
        matches!(self, Self::BlockRelaxed | Self::BlockAcquire | Self::BlockRelease | Self::BlockAcqRel)
    }

    pub const fn acquires(self) -> bool {
        matches!(self, Self::Acquire | Self::AcqRel | Self::BlockAcquire | Self::BlockAcqRel)
    }

    pub const fn releases(self) -> bool {
        matches!(self, Self::Release | Self::AcqRel | Self::BlockRelease | Self::BlockAcqRel)
    }
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
    /// `fence.proxy.async`, of shared memory or of all.
    ProxyAsync,
    /// `fence.mbarrier_init`: makes initialized barriers known to the async proxy, and nothing else.
    MbarrierInit,
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
    /// The register with the mask of the cluster's blocks that a load goes to.
    pub blocks: Option<u16>,
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
    /// The register with the mask of the cluster's blocks that a load goes to.
    pub blocks: Option<u16>,
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

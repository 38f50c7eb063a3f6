//! The table of parameters, and how its chunks are dealt out.
//!
//! An entry holds all that a kernel must know of a parameter, or of a part of one. Entries of one group, with the same types,
//! states and layout, lie one after another, each with the number of chunks before it: a block finds its chunk's entry by
//! bisection, and a grid of any size serves thousands of parameters. The table is written by a kernel of its own from words
//! among its arguments: they are part of a launch, so that no copy outlives the call and a graph keeps them.

use super::super::tensor::Layout;
use super::super::tile::THREADS;
use super::super::{Spec, Written, module};
use super::stream::Stream;
use crate::format::optimizer::MAX_STATES;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::norms::CHUNK;
use crate::view::DType;
use ptx_asm::{B32, B64, Error, Global, Kernel, Pred, Ptr, Reg, Target};

/// How states are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StateStorage {
    /// An f32 an element.
    F32,
    /// [`crate::format::optimizer::blocks`].
    Blocks,
}

/// What the parameters of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    /// The types of parameter and gradient.
    pub dtypes: [DType; 2],
    /// [`Layout::Vectors`] where four elements of each stream are aligned to their size, or [`Layout::Strided`].
    pub layout: Layout,
    /// How states are stored.
    pub storage: StateStorage,
    /// How many there are.
    pub states: usize,
}

/// A parameter of a group, from one of its chunks on: the words of its entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Chunks of the group before the entry's.
    pub first: u64,
    /// The element that ends it; not 0.
    pub elements: u64,
    /// Chunks of the call before the parameter.
    pub chunk: u64,
    /// Chunks of the parameter before the entry's.
    pub skipped: u64,
    /// Its number among the parameters of the call.
    pub number: u64,
    /// Addresses of parameter and gradient.
    pub matrices: [u64; 2],
    /// Columns, and row strides of both.
    pub rows: [u64; 3],
    /// Addresses of values or codes: of the parameter's first element, even if the entry has not got it.
    pub states: [u64; MAX_STATES],
    /// Addresses of absmax, likewise.
    pub absmax: [u64; MAX_STATES],
}

/// Where the addresses of parameter and gradient are among the words, and what comes behind.
const MATRICES: usize = 5;
const ROWS: usize = MATRICES + 2;

impl Group {
    fn first_state(self) -> usize {
        if self.layout == Layout::Strided { ROWS + 3 } else { ROWS }
    }

    /// Words of an entry.
    pub fn words(self) -> usize {
        self.first_state() + self.states * if self.storage == StateStorage::Blocks { 2 } else { 1 }
    }

    /// An entry's words, in order.
    pub fn pack(self, entry: &Entry) -> Vec<u64> {
        let Entry { first, elements, chunk, skipped, number, matrices, rows, states, absmax } = *entry;
        let mut words = vec![first, elements, chunk, skipped, number];
        words.extend(matrices);
        if self.layout == Layout::Strided {
            words.extend(rows);
        }
        words.extend(&states[..self.states]);
        if self.storage == StateStorage::Blocks {
            words.extend(&absmax[..self.states]);
        }
        words
    }
}

/// Writes words to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TableSpec;

/// Words a launch: all that kernel parameters hold, 4 KB, beside where to and how many.
pub const WORDS: usize = 510;

impl Spec for TableSpec {
    /// Parameters: where to, how many words (u64); [`WORDS`] words. One block.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "optimizer_table", THREADS, |k| {
            let to = k.param_ptr("to");
            let count = k.cvt_u32_u64(k.param_u64("count"));
            let words = k.param_block("words", 8, 8 * WORDS);
            k.for_range(k.tid_x(), count, THREADS, |i| {
                k.st_global::<B64>(k.element(to, i, 8), k.ld_param::<B64>(k.element(words, i, 8)));
            });
        })
    }
}

/// The table among a kernel's parameters.
pub struct Table {
    group: Group,
    base: Ptr<Global>,
    entries: Reg<B32>,
    chunks: Reg<B64>,
}

/// A warp's share of a chunk: a run of 256 elements, 8 a lane.
pub struct Run {
    group: Group,
    entry: Ptr<Global>,
    /// The lane's first element; it has [`Run::apart`] of them.
    pub first: Reg<B64>,
    /// Elements from there on, as far as they matter.
    left: Reg<B32>,
    /// Whether the run has elements, and whether it has all; the same in all lanes.
    pub exists: Reg<Pred>,
    /// As above.
    pub whole: Reg<Pred>,
    /// The chunk's number among those of the call.
    pub chunk: Reg<B64>,
    /// The thread's warp and lane.
    pub warp: Reg<B32>,
    /// As above.
    pub lane: Reg<B32>,
}

/// Elements a lane: two vectors of four. A warp's access to a vector is 128 consecutive elements.
pub const EACH: usize = 8;
/// Elements of a vector.
pub const VECTOR: usize = 4;
const _: () = assert!(BLOCK == 32 * EACH && CHUNK == BLOCK * THREADS as usize / 32);

impl Table {
    /// Declares the parameters: table, entries, chunks (u64).
    pub fn new(k: &Kernel, group: Group) -> Self {
        let base = k.param_ptr("table");
        Self { group, base, entries: k.cvt_u32_u64(k.param_u64("entries")), chunks: k.param_u64("chunks") }
    }

    /// The entry of this number.
    pub fn entry(&self, k: &Kernel, index: Reg<B32>) -> Ptr<Global> {
        k.element(self.base, index, 8 * self.group.words() as u32)
    }

    /// How many there are.
    pub fn entries(&self) -> Reg<B32> {
        self.entries
    }

    /// Emits `body`, to run by all threads of the block for each chunk that is its.
    pub fn for_each_chunk(&self, k: &Kernel, body: impl FnOnce(&Run)) {
        let tid = k.tid_x();
        let (warp, lane) = (k.shr_u32(tid, 5), k.and_b32(tid, 31));
        let chunk = k.cvt_u64_u32(k.ctaid_x());
        let stride = k.cvt_u64_u32(k.nctaid_x());
        k.while_(
            || k.setp_lt_u64(chunk, self.chunks),
            || {
                k.section("the chunk's parameter");
                let index = self.find(k, chunk);
                let entry = self.entry(k, index);
                let word = |i: i32| k.ld_global::<B64>(entry.at(8 * i));
                let (n, within) = (word(1), k.add_u64(k.sub_u64(chunk, word(0)), word(3)));
                let start = k.mad_lo_u64(within, CHUNK as u64, k.mul_wide_u32(warp, BLOCK as u32));
                let first = k.add_u64(start, k.mul_wide_u32(lane, VECTOR as u32));
                let left = k.min_s64(k.sub_s64(n, first), BLOCK as i64);
                body(&Run {
                    group: self.group,
                    entry,
                    first,
                    left: k.cvt_u32_u64(k.max_s64(left, 0i64)),
                    exists: k.setp_lt_u64(start, n),
                    whole: k.setp_le_u64(k.add_u64(start, BLOCK as u64), n),
                    chunk: k.add_u64(within, word(2)),
                    warp,
                    lane,
                });
                k.to(chunk).add_u64(chunk, stride);
            },
        );
    }

    /// The last entry with no more chunks before it than `chunk`.
    fn find(&self, k: &Kernel, chunk: Reg<B64>) -> Reg<B32> {
        let (low, len) = (k.mov::<B32>(0), k.mov::<B32>(self.entries));
        k.while_(
            || k.setp_gt_u32(len, 1),
            || {
                let half = k.shr_u32(len, 1);
                let middle = k.add_u32(low, half);
                let first = k.ld_global::<B64>(self.entry(k, middle));
                k.to(low).when(k.setp_le_u64(first, chunk)).mov(middle);
                k.to(len).sub_u32(len, half);
            },
        );
        low
    }
}

impl Run {
    /// How far the lane's element `i` is from its first.
    pub fn apart(i: usize) -> u32 {
        (i / VECTOR * 32 * VECTOR + i % VECTOR) as u32
    }

    /// Whether the lane's element `i` exists.
    pub fn has(&self, k: &Kernel, i: usize) -> Reg<Pred> {
        k.setp_gt_u32(self.left, Self::apart(i))
    }

    fn word(&self, k: &Kernel, i: usize) -> Reg<B64> {
        k.ld_global::<B64>(self.entry.at(8 * i as i32))
    }

    fn address(&self, k: &Kernel, i: usize) -> Ptr<Global> {
        Ptr::new(k.cvta_to_global(self.word(k, i)))
    }

    /// The parameter's number in the call.
    pub fn number(&self, k: &Kernel) -> Reg<B32> {
        k.cvt_u32_u64(self.word(k, MATRICES - 1))
    }

    /// The parameter, or its gradient.
    pub fn matrix(&self, k: &Kernel, which: usize) -> Stream {
        let rows = (self.group.layout == Layout::Strided)
            .then(|| [self.word(k, ROWS), self.word(k, ROWS + 1 + which)]);
        Stream { dtype: self.group.dtypes[which], base: self.address(k, MATRICES + which), rows }
    }

    /// The values of a state in f32.
    pub fn state(&self, k: &Kernel, state: usize) -> Stream {
        let base = self.address(k, self.group.first_state() + state);
        Stream { dtype: DType::F32, base, rows: None }
    }

    /// The codes of a state in 8 bits, from the lane's first element on, and the absmax of the run's block.
    pub fn block(&self, k: &Kernel, state: usize) -> [Ptr<Global>; 2] {
        let [codes, absmax] =
            [0, self.group.states].map(|at| self.address(k, self.group.first_state() + at + state));
        let block = k.shr_u64(self.first, BLOCK.trailing_zeros());
        [k.offset(codes, self.first), k.offset(absmax, k.shl_b64(block, 2))]
    }

    /// Emits `whole` for runs that have all elements, if the layout allows vectors, and `single` for what is left.
    pub fn whole_or_single(&self, k: &Kernel, whole: impl FnOnce(), single: impl FnOnce()) {
        match self.group.layout {
            Layout::Vectors => k.if_else(self.whole, whole, single),
            Layout::Elements | Layout::Strided => single(),
        }
    }
}

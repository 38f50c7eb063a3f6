//! A block of a kernel for few rows: how it goes through its parts of a product, and how W and the activations come.
//!
//! Both directions, [`super::gemm_skinny`] and [`super::gemm_skinny_backward`], walk over W in chunks of 8 pieces, as of
//! [`super::pieces`], along its rows or down its columns. Beside W's part a slot of the ring holds the activations' (X or dY):
//! their columns that the chunk is multiplied by, cut into pieces as long as W's are that way, all rows of each.
//!
//! **Places.** Along, a row of a piece of activations has 128 bytes; unit u of 16 bytes of row r lies at `u ^ (r & 7)`. Down, it
//! has 64 bytes, with 64 bytes between the pieces. Either way eight neighbouring lanes' copies, and what a quarter of a warp
//! reads of fragments, fill all banks.

use super::decode::PairTable;
use super::pieces::{self, COLS, Pieces, ROWS, Range, Sources, WARPS, Way};
use super::product::{ProductParams, ProductSpec};
use super::ring::{Batch, Ring};
use super::tile::THREADS;
use ptx_asm::{Array, B32, B64, F32, Global, Kernel, Ptr, Reg, Shared, U8};

/// Columns of a piece of activations.
const fn length(way: Way) -> u32 {
    match way {
        Way::Along => COLS,
        Way::Down => ROWS,
    }
}

/// Bytes of a row of a piece of activations.
pub const fn row_bytes(way: Way) -> u32 {
    2 * length(way)
}

/// How a block's work is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Which way it walks.
    pub way: Way,
    /// Fragments of 8 rows of the activations.
    pub fragments: u32,
    /// Warps down W's rows.
    pub down: u32,
    /// Words for the sums of all warps.
    pub sums: u32,
}

impl Cut {
    /// Pieces of activations of a chunk.
    const fn count(self) -> u32 {
        match self.way {
            Way::Along => WARPS / self.down,
            Way::Down => self.down,
        }
    }

    /// Units of 16 bytes of a row of a piece of activations.
    const fn row_units(self) -> u32 {
        row_bytes(self.way) / 16
    }

    /// Units of a chunk of activations.
    const fn units(self) -> u32 {
        8 * self.fragments * self.count() * self.row_units()
    }

    /// Bytes from a piece of activations to the next.
    const fn pitch(self) -> u32 {
        let gap = match self.way {
            Way::Along => 0,
            Way::Down => 64,
        };
        8 * self.fragments * row_bytes(self.way) + gap
    }

    /// Bytes of a slot: W's part, and the activations'.
    const fn slot_bytes(self) -> u32 {
        (pieces::slot_bytes(self.down) + self.count() * self.pitch()).next_multiple_of(128)
    }

    /// Bytes of the ring, and when it is done with, of the sums.
    const fn ring_bytes(self, stages: u32) -> u32 {
        let (slots, sums) = (stages * self.slot_bytes(), 4 * self.sums);
        if slots > sums { slots } else { sums }
    }

    /// Bytes of shared memory of a block, at most.
    pub const fn shared_bytes(self, stages: u32) -> u32 {
        // The table of pairs; the map of constants.
        4 * PairTable::WORDS as u32 + 1024 + self.ring_bytes(stages)
    }
}

/// The kernel's parameters and what a thread knows of its place.
pub struct Block<'k> {
    /// The kernel.
    pub k: &'k Kernel,
    /// What is multiplied.
    pub params: ProductParams,
    /// How the warps stand.
    pub pieces: Pieces<'k>,
    /// The sums of all warps, in the ring's place.
    pub sums: Array<F32>,
    /// W's values.
    pub table: PairTable,
    spec: &'k ProductSpec,
    cut: Cut,
    splits: Reg<B32>,
    per_split: Reg<B32>,
    ring: Ring<'k>,
    slots: Array<U8>,
    /// Whether the table is filled.
    filled: Reg<B32>,
    /// Where in a slot this thread's units of activations go.
    units_to: Vec<Reg<B32>>,
}

/// What a block makes at a time: a tile of the output, or its part of a split sum.
pub struct Item {
    /// Which part.
    pub split: Reg<B32>,
    /// What it covers of W.
    pub range: Range,
}

/// Units of activations of the first chunk, and how many chunks have them.
type Units = Vec<(Ptr<Global>, Reg<B32>)>;

impl<'k> Block<'k> {
    /// With so many blocks on an SM and so many slots; and the bytes of shared memory. The parameters are those of the product,
    /// into how many parts the sum is split (u32), and the length of a part (u32): columns of pieces along, rows down.
    pub fn new(k: &'k Kernel, spec: &'k ProductSpec, cut: Cut, [blocks, stages]: [u32; 2]) -> (Self, usize) {
        k.minnctapersm(blocks);
        let params = ProductParams::new(k, spec);
        let [splits, per_split] = ["splits", "per_split"].map(|name| k.param_u32(name));
        let mut shared = k.dynamic_shared(128);
        let table = shared.array_aligned(PairTable::WORDS, 128);
        let table = PairTable::new(k, table);
        let slots: Array<U8> = shared.array_aligned(cut.ring_bytes(stages) as usize, 128);
        let pieces = Pieces::new(k, spec, cut.down, cut.way);
        let units_to = (0..cut.units().div_ceil(THREADS)).map(|i| {
            let [row, piece, unit] = unit(k, pieces.tid, cut, i);
            unit_place(k, cut, piece, row, unit)
        });
        let units_to = units_to.collect();
        let (ring, bytes) = (Ring::new(k, stages, 0), shared.bytes());
        let (sums, filled) = (slots.cast(cut.sums as usize), k.mov(0));
        let block = Self {
            k,
            params,
            pieces,
            sums,
            table,
            spec,
            cut,
            splits,
            per_split,
            ring,
            slots,
            filled,
            units_to,
        };
        (block, bytes)
    }

    /// Where in a slot a unit of a row of a piece of activations is.
    pub fn unit_place(&self, piece: Reg<B32>, row: Reg<B32>, unit: Reg<B32>) -> Reg<B32> {
        unit_place(self.k, self.cut, piece, row, unit)
    }

    /// Emits the loop over what this block makes.
    pub fn for_each_item(&self, make: impl FnOnce(&Item)) {
        let (k, [_, n, inner]) = (self.k, self.params.shape);
        let cols = k.shr_u64(inner, COLS.trailing_zeros());
        let (outer, sum, size) = match self.cut.way {
            Way::Along => (n, cols, self.pieces.rows()),
            Way::Down => (cols, n, self.pieces.across),
        };
        let tiles = k.shr_u64(k.add_u64(outer, u64::from(size - 1)), size.trailing_zeros());
        let splits = k.cvt_u64_u32(self.splits);
        let items = k.mul_lo_u64(tiles, splits);
        let at = k.cvt_u64_u32(k.ctaid_x());
        k.while_(
            || k.setp_lt_u64(at, items),
            || {
                let tile = k.div_u64(at, splits);
                let split = k.cvt_u32_u64(k.sub_u64(at, k.mul_lo_u64(tile, splits)));
                let across = [k.shl_b64(tile, size.trailing_zeros()), outer];
                let first = k.mul_wide_u32(split, self.per_split);
                let end = k.min_u64(k.add_u64(first, k.cvt_u64_u32(self.per_split)), sum);
                let range = match self.cut.way {
                    Way::Along => Range { rows: across, cols: [first, end] },
                    Way::Down => Range { rows: [first, end], cols: across },
                };
                make(&Item { split, range });
                k.to(at).add_u64(at, k.cvt_u64_u32(k.nctaid_x()));
            },
        );
    }

    /// Emits the walk over an item's chunks: `multiply` uses one, given its number and its slot.
    pub fn walk(&self, item: &Item, multiply: impl FnOnce(&Sources, Reg<B32>, Ptr<Shared>)) {
        let k = self.k;
        let sources = self.pieces.sources(&self.params, &item.range);
        let units = self.units(item);
        // Filled once, while the first chunks come.
        let fill = || {
            k.if_then(k.setp_eq_u32(self.filled, 0), || {
                self.table.fill(k, self.spec.half, self.spec.values.map(f32::from_bits));
            });
            k.to(self.filled).mov(1);
        };
        let slot = |slot| k.element(self.slots.ptr(k), slot, self.cut.slot_bytes());
        self.ring.for_each_after(
            fill,
            self.pieces.chunks(&item.range),
            |batch, chunk, at| {
                let slot = slot(at);
                self.pieces.bring(&sources, batch, chunk, slot);
                self.bring_units(&units, batch, chunk, slot);
            },
            |chunk, at| multiply(&sources, chunk, slot(at)),
        );
    }

    /// Where a thread finds its part of the activations.
    fn units(&self, item: &Item) -> Units {
        let (k, params, cut) = (self.k, &self.params, self.cut);
        let [first, end] = match cut.way {
            Way::Along => item.range.cols.map(|col| k.shl_b64(col, COLS.trailing_zeros())),
            Way::Down => item.range.rows,
        };
        let from = |i| {
            let [row, piece, unit] = unit(k, self.pieces.tid, cut, i);
            let within = k.mad_lo_u32(piece, length(cut.way), k.shl_b32(unit, 3));
            let (row, col) = (k.cvt_u64_u32(row), k.add_u64(first, k.cvt_u64_u32(within)));
            let inside = k.and_pred(k.setp_lt_u64(row, params.shape[0]), k.setp_lt_u64(col, end));
            let left = k.selp_b32(pieces::chunks(k, col, end, length(cut.way) * cut.count()), 0, inside);
            let element: Reg<B64> = k.mad_lo_u64(row, params.left_stride, col);
            (k.offset(params.left, k.shl_b64(element, 1)), left)
        };
        (0..).zip(&self.units_to).map(|(i, _)| from(i)).collect()
    }

    /// Starts to bring a chunk of activations; zeros where there is none, which is the same in all chunks but the last: once a
    /// slot.
    fn bring_units(&self, units: &Units, batch: &Batch<'_>, chunk: Reg<B32>, slot: Ptr<Shared>) {
        let (k, cut) = (self.k, self.cut);
        let along = k.mul_wide_u32(chunk, row_bytes(cut.way) * cut.count());
        let fresh = k.setp_lt_u32(chunk, self.ring.stages);
        for (&(from, left), &to) in units.iter().zip(&self.units_to) {
            let mut wanted = k.or_pred(fresh, k.setp_ne_u32(left, 0));
            if cut.units() < THREADS {
                wanted = k.and_pred(wanted, k.setp_lt_u32(self.pieces.tid, cut.units()));
            }
            k.if_then(wanted, || {
                let size = k.selp_b32(16, 0, k.setp_lt_u32(chunk, left));
                batch.copy(k.offset(slot, to), k.offset(from, along), size);
            });
        }
    }
}

/// Where in a slot a unit of a row of a piece of activations is.
fn unit_place(k: &Kernel, cut: Cut, piece: Reg<B32>, row: Reg<B32>, unit: Reg<B32>) -> Reg<B32> {
    let place = match cut.way {
        Way::Along => k.xor_b32(unit, k.and_b32(row, 7)),
        Way::Down => unit,
    };
    let to = k.mad_lo_u32(row, row_bytes(cut.way), k.shl_b32(place, 4));
    k.add_u32(k.mad_lo_u32(piece, cut.pitch(), to), pieces::slot_bytes(cut.down))
}

/// Row, piece and unit within it of a thread's 16 bytes number `i` of a chunk of activations.
fn unit(k: &Kernel, tid: Reg<B32>, cut: Cut, i: u32) -> [Reg<B32>; 3] {
    let at = k.add_u32(tid, i * THREADS);
    let (units, count) = (cut.row_units(), cut.count());
    let row = k.shr_u32(at, (units * count).trailing_zeros());
    [row, k.and_b32(k.shr_u32(at, units.trailing_zeros()), count - 1), k.and_b32(at, units - 1)]
}

//! Tiles of dense 16-bit matrices in the slots of a ring: brought 16 bytes at a time, taken in fragments by `ldmatrix`.
//!
//! A tile is `outer` elements across a sum by 64 along it. It lies as its matrix does, the matrix's rows along the sum or
//! across it: what a fragment needs the other way round `ldmatrix` transposes.
//!
//! **Places.** `ldmatrix` reads one 16-byte unit of each of eight rows at a time, and a row has 4, 8 or 16 units. Unit u of row
//! r lies at `u ^ (r & 7)`, with 4 units to a row at `u ^ (r >> 1 & 3)`: the eight fill all banks. So do eight neighbouring
//! lanes' copies, which fill whole rows.

use super::ring::Batch;
use super::tile::THREADS;
use ptx_asm::{Array, B32, B64, DynamicShared, Global, Kernel, Ptr, Reg, Shared, U8};

/// Elements of a tile along the sum.
pub const DEPTH: u32 = 64;
/// Elements of a fragment along the sum.
pub const STEP: u32 = 16;
/// Elements of a unit.
const UNIT: u32 = 8;

/// How a matrix is cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Elements of a tile across the sum: a power of two, at least 32.
    pub outer: u32,
    /// Whether the matrix's rows run along the sum.
    pub rows_are_inner: bool,
    /// Matrices of one shape that are brought together: the parts of one whose elements are sums.
    pub parts: u32,
}

impl Cut {
    /// Bytes of a slot.
    pub fn bytes(self) -> u32 {
        self.parts * self.part()
    }

    fn part(self) -> u32 {
        2 * self.outer * DEPTH
    }

    /// Units of a row.
    fn units(self) -> u32 {
        (if self.rows_are_inner { DEPTH } else { self.outer }) / UNIT
    }
}

/// A matrix, and its tiles in shared memory.
pub struct Staged<'k> {
    k: &'k Kernel,
    cut: Cut,
    base: Ptr<Global>,
    stride: Reg<B64>,
    part_stride: Option<Reg<B64>>,
    slots: Array<U8>,
}

/// Where a lane finds its row of fragments.
pub struct Rows {
    row: Ptr<Shared>,
    place: Reg<B32>,
}

impl<'k> Staged<'k> {
    /// Declares the parameters: base, row stride and, with several parts, the distance between them (u64, elements). Base and
    /// rows are aligned to 16 bytes.
    pub fn new(k: &'k Kernel, name: &str, cut: Cut, shared: &mut DynamicShared, stages: u32) -> Self {
        let (base, stride) = (k.param_ptr(name), k.param_u64(&format!("{name}_stride")));
        let part_stride = (cut.parts > 1).then(|| k.param_u64(&format!("{name}_part_stride")));
        let slots = shared.array_aligned((stages * cut.bytes()) as usize, 128);
        Self { k, cut, base, stride, part_stride, slots }
    }

    /// Starts to bring the tile that begins at these elements across and along the sum; zeros from the ends on. The beginning
    /// exists, and units exist as a whole.
    pub fn bring(&self, batch: &Batch<'_>, slot: Reg<B32>, outer: [Reg<B64>; 2], inner: [Reg<B64>; 2]) {
        let (k, units) = (self.k, self.cut.units());
        let ([row0, rows], [col0, cols]) =
            if self.cut.rows_are_inner { (outer, inner) } else { (inner, outer) };
        let tid = k.tid_x();
        let (row, unit) = (k.shr_u32(tid, units.trailing_zeros()), k.and_b32(tid, units - 1));
        let col = k.add_u64(col0, k.mul_wide_u32(unit, UNIT));
        let col_exists = k.setp_lt_u64(col, cols);
        let col = k.selp_b64(col, col0, col_exists);
        let to = k.element(k.element(self.slots.ptr(k), slot, self.cut.bytes()), row, 16 * units);
        let to = k.element(to, k.xor_b32(unit, self.mix(row)), 16);
        for i in 0..self.cut.part() / (16 * THREADS) {
            let at = k.add_u64(row0, k.cvt_u64_u32(k.add_u32(row, i * THREADS / units)));
            let row_exists = k.setp_lt_u64(at, rows);
            let bytes = k.selp_b32(16, 0, k.and_pred(row_exists, col_exists));
            let element = k.mad_lo_u64(k.selp_b64(at, row0, row_exists), self.stride, col);
            let mut from = k.offset(self.base, k.shl_b64(element, 1));
            for part in 0..self.cut.parts {
                if let (Some(stride), 1..) = (self.part_stride, part) {
                    from = k.offset(from, k.shl_b64(stride, 1));
                }
                batch.copy(to.at((16 * THREADS * i + part * self.cut.part()) as i32), from, bytes);
            }
        }
    }

    /// What the units' numbers of a row are mixed with.
    fn mix(&self, row: Reg<B32>) -> Reg<B32> {
        let k = self.k;
        match self.cut.units() {
            4 => k.and_b32(k.shr_u32(row, 1), 3),
            _ => k.and_b32(row, 7),
        }
    }

    /// The rows of the lane's fragments in slot 0, for a warp whose first element across the sum is `corner`: a multiple of 16
    /// times its number of fragments, which is a power of two. `halves` tells where the lane's matrix of the four of a
    /// fragment lies, across and along the sum: in the first 8 elements (0) or the second (1).
    pub fn rows(&self, corner: Reg<B32>, lane: Reg<B32>, halves: [Reg<B32>; 2]) -> Rows {
        let (k, first, [outer, inner]) = (self.k, self.k.and_b32(lane, 7), halves);
        let (row, unit) = match self.cut.rows_are_inner {
            true => (k.add_u32(corner, k.mad_lo_u32(outer, UNIT, first)), inner),
            false => (k.mad_lo_u32(inner, UNIT, first), k.add_u32(k.shr_u32(corner, 3), outer)),
        };
        let place = k.xor_b32(unit, self.mix(row));
        Rows { row: k.element(self.slots.ptr(k), row, 16 * self.cut.units()), place }
    }

    /// The same in another slot.
    pub fn in_slot(&self, rows: &Rows, slot: Reg<B32>) -> Rows {
        Rows { row: self.k.element(rows.row, slot, self.cut.bytes()), place: rows.place }
    }

    /// Four 8 x 8 matrices of the warp's fragment `i`, 16 elements across the sum, in step `step` of four along it.
    pub fn fragment(&self, rows: &Rows, part: u32, i: u32, step: u32) -> [Reg<B32>; 4] {
        let (k, units) = (self.k, self.cut.units());
        let (across, down) = if self.cut.rows_are_inner { (step, i) } else { (i, step) };
        // The low bit of the unit's number is the lane's, the next ones are free.
        let from = k.element(rows.row, k.xor_b32(rows.place, 2 * across), 16);
        let from = from.at((16 * units * STEP * down + part * self.cut.part()) as i32);
        if self.cut.rows_are_inner { k.ldmatrix_x4(from) } else { k.ldmatrix_x4_trans(from) }
    }
}

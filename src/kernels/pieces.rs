//! W in pieces of 32 rows and 64 columns, for products with few rows: each piece is read and decoded once, by one warp.
//!
//! The 8 warps of a block stand `down` the rows and `across` the columns of a chunk of W, a piece each: always 8 KB of codes
//! and 256 constants, because no quantization block ends inside a row of a piece. A thread brings two units of 16 bytes and
//! one constant of a chunk; neighbouring threads bring what neighbours in memory, whichever warps will use it. Where
//! nothing is to be brought, a copy of no bytes fills zeros; its address is not looked at.
//!
//! **Places.** A row of a piece has 32 bytes, one after the other, four to a line of all banks; between the columns of
//! pieces lie 32 bytes more (64 between two), so that the 8 units that a quarter of a warp writes, of up to 4 pieces, fill
//! all banks. Rows read four at a time by 16 lanes do so too. Where lanes read single words of rows 8 apart, walking down,
//! row r is at place `r ^ (r >> 3 & 3)`. A column of constants is followed by 4, 8 or 16 unused words likewise.

use super::product::{ProductParams, ProductSpec};
use super::raw_constants::{self, RawConstants};
use super::ring::Batch;
use ptx_asm::{Addr, B32, B64, F32, Global, Kernel, Ptr, Reg, Shared};

/// Rows of a piece.
pub const ROWS: u32 = 32;
/// Columns of a piece.
pub const COLS: u32 = 64;
/// Warps of a block.
pub const WARPS: u32 = 8;
/// Bytes of codes of a row of a piece.
pub const ROW_BYTES: u32 = COLS / 2;

/// Which way a block walks over W, chunk after chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Along its rows.
    Along,
    /// Down its columns.
    Down,
}

/// How the warps of a block stand, and the calling thread's place.
pub struct Pieces<'k> {
    k: &'k Kernel,
    way: Way,
    /// log2 of the block size.
    block_shift: u32,
    /// Pieces of a chunk down W's rows and across its columns; their product is 8.
    pub down: u32,
    /// See `down`.
    pub across: u32,
    /// The thread.
    pub tid: Reg<B32>,
    /// The lane.
    pub lane: Reg<B32>,
    /// `lane >> 2`.
    pub g: Reg<B32>,
    /// `lane & 3`.
    pub t: Reg<B32>,
    /// The warp's piece of a chunk: how many are above it, and how many left of it.
    pub place: [Reg<B32>; 2],
    /// Where in a slot the thread's units of codes go, and its constant.
    codes_to: [Reg<B32>; 2],
    constant_to: Reg<B32>,
    /// Where in a slot the warp's codes begin, and the constant of the lane's row is.
    codes_at: Reg<B32>,
    constant_at: Reg<B32>,
}

/// What a walk covers, from the first to before the last.
pub struct Range {
    /// Rows of W.
    pub rows: [Reg<B64>; 2],
    /// Columns of pieces.
    pub cols: [Reg<B64>; 2],
}

/// A thread's part in bringing the chunks of a walk.
pub struct Sources {
    /// The units of the first chunk, and how many chunks have them.
    codes: [(Ptr<Global>, Reg<B32>); 2],
    constants: RawConstants,
    /// The place of the first constant's element in its block, and how many chunks have one.
    within: Reg<B32>,
    constants_left: Reg<B32>,
    /// The lower bits of the first element of the lane's row.
    own: Reg<B32>,
    /// Elements from chunk to chunk, walking down.
    step: Reg<B32>,
}

impl<'k> Pieces<'k> {
    /// With this many warps down.
    pub fn new(k: &'k Kernel, spec: &ProductSpec, down: u32, way: Way) -> Self {
        let across = WARPS / down;
        let tid = k.tid_x();
        let (lane, warp) = (k.and_b32(tid, 31), k.shr_u32(tid, 5));
        let place = [k.shr_u32(warp, across.trailing_zeros()), k.and_b32(warp, across - 1)];
        let codes_to = [0, 1].map(|i| {
            let [row, col, half] = unit(k, tid, down, i);
            let row = match way {
                Way::Along => row,
                Way::Down => k.xor_b32(row, k.and_b32(k.shr_u32(row, 3), 3)),
            };
            let unit = k.mad_lo_u32(row, ROW_BYTES, k.shl_b32(half, 4));
            k.mad_lo_u32(col, codes_pitch(down), unit)
        });
        let constant = |row, col| k.mad_lo_u32(col, 4 * constants_pitch(down), k.shl_b32(row, 2));
        let [row, col] = constant_place(k, tid, down);
        Self {
            k,
            way,
            block_shift: spec.block_size.trailing_zeros(),
            down,
            across,
            tid,
            lane,
            g: k.shr_u32(lane, 2),
            t: k.and_b32(lane, 3),
            place,
            codes_to,
            constant_to: constant(row, col),
            codes_at: k.mad_lo_u32(place[1], codes_pitch(down), k.mul_lo_u32(place[0], ROWS * ROW_BYTES)),
            constant_at: constant(k.mad_lo_u32(place[0], ROWS, lane), place[1]),
        }
    }

    /// Rows of a chunk.
    pub fn rows(&self) -> u32 {
        ROWS * self.down
    }

    /// Chunks of a walk.
    pub fn chunks(&self, range: &Range) -> Reg<B32> {
        self.left(range, range.rows[0], range.cols[0])
    }

    /// How many chunks have what lies at this row and column of pieces of the first one: none if it is outside.
    fn left(&self, range: &Range, row: Reg<B64>, col: Reg<B64>) -> Reg<B32> {
        let k = self.k;
        let (at, end, size) = match self.way {
            Way::Along => (col, range.cols[1], self.across),
            Way::Down => (row, range.rows[1], self.rows()),
        };
        let inside = k.and_pred(k.setp_lt_u64(row, range.rows[1]), k.setp_lt_u64(col, range.cols[1]));
        k.selp_b32(chunks(k, at, end, size), 0, inside)
    }

    /// Where a thread finds its part of a walk.
    pub fn sources(&self, params: &ProductParams, range: &Range) -> Sources {
        let (k, cols) = (self.k, params.shape[2]);
        // Of a row and a column of pieces of the first chunk.
        let find = |[row, col]: [Reg<B32>; 2]| {
            let row = k.add_u64(range.rows[0], k.cvt_u64_u32(row));
            let col = k.add_u64(range.cols[0], k.cvt_u64_u32(col));
            let element = k.mad_lo_u64(row, cols, k.shl_b64(col, COLS.trailing_zeros()));
            (element, self.left(range, row, col))
        };
        let codes = [0, 1].map(|i| {
            let [row, col, half] = unit(k, self.tid, self.down, i);
            let (element, left) = find([row, col]);
            let bytes = k.add_u64(k.shr_u64(element, 1), k.mul_wide_u32(half, 16));
            (k.offset(params.codes, bytes), left)
        });
        let (element, constants_left) = find(constant_place(k, self.tid, self.down));
        let (own, _) = find([k.mad_lo_u32(self.place[0], ROWS, self.lane), self.place[1]]);
        let all = k.add_u64(k.mul_lo_u64(params.shape[1], cols), (1u64 << self.block_shift) - 1);
        let (first, blocks) = (k.shr_u64(element, self.block_shift), k.shr_u64(all, self.block_shift));
        Sources {
            codes,
            constants: RawConstants::new(k, &params.constants, first, blocks),
            within: k.and_b32(k.cvt_u32_u64(element), (1 << self.block_shift) - 1),
            constants_left,
            own: k.cvt_u32_u64(own),
            step: k.mul_lo_u32(k.cvt_u32_u64(cols), self.rows()),
        }
    }

    /// Elements of W from the first chunk to another one.
    fn along(&self, sources: &Sources, chunk: Reg<B32>) -> Reg<B64> {
        match self.way {
            Way::Along => self.k.mul_wide_u32(chunk, COLS * self.across),
            Way::Down => self.k.mul_wide_u32(chunk, sources.step),
        }
    }

    /// Starts to bring a chunk into a slot.
    pub fn bring(&self, sources: &Sources, batch: &Batch<'_>, chunk: Reg<B32>, slot: Ptr<Shared>) {
        let k = self.k;
        let along = self.along(sources, chunk);
        let bytes = k.shr_u64(along, 1);
        for ((from, left), to) in sources.codes.into_iter().zip(self.codes_to) {
            let size = k.selp_b32(16, 0, k.setp_lt_u32(chunk, left));
            batch.copy(k.offset(slot, to), k.offset(from, bytes), size);
        }
        let further = k.shr_u64(k.add_u64(along, k.cvt_u64_u32(sources.within)), self.block_shift);
        let exists = k.setp_lt_u32(chunk, sources.constants_left);
        let to = self.constant_places(slot, self.constant_to);
        sources.constants.bring(k, batch, k.cvt_u32_u64(further), exists, to);
    }

    /// The places in a slot for a constant and its scale.
    fn constant_places(&self, slot: Ptr<Shared>, place: Reg<B32>) -> [Addr<Shared>; 2] {
        let at = self.k.offset(slot, place);
        [codes_slot(self.down), codes_slot(self.down) + 4 * constants_slot(self.down)]
            .map(|i| at.at(i as i32))
    }

    /// The codes of this warp's piece: rows of 32 bytes.
    pub fn codes(&self, slot: Ptr<Shared>) -> Ptr<Shared> {
        self.k.offset(slot, self.codes_at)
    }

    /// The constant of the row of this warp's piece that has the lane's number.
    pub fn constant(
        &self,
        params: &ProductParams,
        sources: &Sources,
        chunk: Reg<B32>,
        slot: Ptr<Shared>,
    ) -> Reg<F32> {
        let k = self.k;
        let element = match self.way {
            Way::Along => k.mad_lo_u32(chunk, COLS * self.across, sources.own),
            Way::Down => k.mad_lo_u32(chunk, sources.step, sources.own),
        };
        let from = self.constant_places(slot, self.constant_at);
        raw_constants::decode(k, &params.constants, from, k.shr_u32(element, self.block_shift))
    }
}

/// Chunks of `size` from `at` to `end`.
pub fn chunks(k: &Kernel, at: Reg<B64>, end: Reg<B64>, size: u32) -> Reg<B32> {
    let up = k.add_u64(k.sub_u64(end, at), u64::from(size - 1));
    k.cvt_u32_u64(k.shr_u64(up, size.trailing_zeros()))
}

/// Row, column of pieces and half of a row of a thread's unit `i` of two in a chunk.
fn unit(k: &Kernel, tid: Reg<B32>, down: u32, i: u32) -> [Reg<B32>; 3] {
    let units = 2 * WARPS / down;
    let row = k.add_u32(k.shr_u32(tid, units.trailing_zeros()), i * ROWS * down / 2);
    let unit = k.and_b32(tid, units - 1);
    [row, k.shr_u32(unit, 1), k.and_b32(unit, 1)]
}

/// Row and column of pieces of the constant that a thread brings.
fn constant_place(k: &Kernel, tid: Reg<B32>, down: u32) -> [Reg<B32>; 2] {
    let across = WARPS / down;
    [k.shr_u32(tid, across.trailing_zeros()), k.and_b32(tid, across - 1)]
}

/// Bytes from a column of pieces to the next.
const fn codes_pitch(down: u32) -> u32 {
    let gap = match WARPS / down {
        1 => 0,
        2 => 64,
        _ => 32,
    };
    ROWS * down * ROW_BYTES + gap
}

/// Bytes of codes of a slot.
const fn codes_slot(down: u32) -> u32 {
    WARPS / down * codes_pitch(down)
}

/// Words from a column of constants to the next.
const fn constants_pitch(down: u32) -> u32 {
    ROWS * down + if down < WARPS { ROWS * down / WARPS } else { 0 }
}

/// Constants of a slot.
const fn constants_slot(down: u32) -> u32 {
    WARPS / down * constants_pitch(down)
}

/// Bytes of a slot: codes, constants, scales; whole lines of all banks.
pub const fn slot_bytes(down: u32) -> u32 {
    (codes_slot(down) + 2 * 4 * constants_slot(down)).next_multiple_of(128)
}

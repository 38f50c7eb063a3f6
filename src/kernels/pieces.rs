//! W in pieces of 32 rows and 64 columns, for products with few rows: each piece is read and decoded once, by one warp.
//!
//! The 8 warps of a block stand `down` the rows and `across` the columns of a chunk of W, a piece each: always 8 KB of codes
//! and 256 constants, because no quantization block ends inside a row of a piece. A thread brings two units of 16 bytes and
//! one constant of a chunk; neighbouring threads bring what neighbours in memory, whichever warps will use it.
//!
//! **Places.** A row of a piece has 32 bytes, one after the other, four to a line of all banks; between the columns of
//! pieces lie 32 bytes more (64 between two), so that the 8 units that a quarter of a warp writes, of up to 4 pieces, fill
//! all banks. Rows read four at a time by 16 lanes do so too. Where lanes read single words of rows 8 apart, `twisted` puts
//! row r at place `r ^ (r >> 3 & 3)`. The constants of a column of pieces are followed by 4, 8 or 16 unused words likewise.

use super::product::{ProductParams, ProductSpec};
use super::raw_constants::RawConstants;
use super::ring::Batch;
use ptx_asm::{Array, B32, B64, DynamicShared, F32, Global, Kernel, Ptr, Reg, Shared, U8};

/// Rows of a piece.
pub const ROWS: u32 = 32;
/// Columns of a piece.
pub const COLS: u32 = 64;
/// Warps of a block.
pub const WARPS: u32 = 8;
/// Bytes of codes of a row of a piece.
const ROW: u32 = COLS / 2;
/// Codes of 16 bytes.
const UNIT: u32 = 32;

/// Which way a block walks over W, chunk after chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Along its rows.
    Along,
    /// Down its columns.
    Down,
}

/// How the warps stand, and the room for a ring of chunks.
pub struct Pieces<'k> {
    k: &'k Kernel,
    /// Pieces of a chunk down W's rows; the other factor of 8 is across.
    pub down: u32,
    way: Way,
    block_size: u32,
    codes: Array<U8>,
    constants: RawConstants,
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
}

/// What a walk covers: rows of W and columns of pieces, from the first to before the last.
pub struct Range {
    /// Rows.
    pub rows: [Reg<B64>; 2],
    /// 64 columns each.
    pub cols: [Reg<B64>; 2],
}

/// A thread's part in bringing the chunks of a walk: elements of W at the first chunk, and how many chunks have them.
pub struct Sources {
    codes: [(Ptr<Global>, Reg<B32>); 2],
    constant: (Reg<B64>, Reg<B32>),
    /// The lower bits of the element whose constant this lane decodes.
    own: Reg<B32>,
    /// Elements from chunk to chunk, walking down.
    step: Reg<B64>,
    /// Constants in all.
    blocks: Reg<B64>,
}

impl<'k> Pieces<'k> {
    /// Takes room for `stages` slots.
    pub fn new(
        k: &'k Kernel,
        spec: &ProductSpec,
        down: u32,
        way: Way,
        stages: u32,
        shared: &mut DynamicShared,
    ) -> Self {
        let tid = k.tid_x();
        let (lane, warp) = (k.and_b32(tid, 31), k.shr_u32(tid, 5));
        let across = WARPS / down;
        let place = [k.shr_u32(warp, across.trailing_zeros()), k.and_b32(warp, across - 1)];
        let nested = spec.constants.is_nested();
        Self {
            k,
            down,
            way,
            block_size: spec.block_size,
            codes: shared.array_aligned((stages * codes_slot(down)) as usize, 128),
            constants: RawConstants::new(shared, nested, stages * constants_slot(down)),
            tid,
            lane,
            g: k.shr_u32(lane, 2),
            t: k.and_b32(lane, 3),
            place,
        }
    }

    /// Pieces of a chunk across.
    pub fn across(&self) -> u32 {
        WARPS / self.down
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
            Way::Along => (col, range.cols[1], self.across()),
            Way::Down => (row, range.rows[1], self.rows()),
        };
        let inside = k.and_pred(k.setp_lt_u64(row, range.rows[1]), k.setp_lt_u64(col, range.cols[1]));
        let chunks = k.shr_u64(k.add_u64(k.sub_u64(end, at), u64::from(size - 1)), size.trailing_zeros());
        k.selp_b32(k.cvt_u32_u64(chunks), 0, inside)
    }

    /// Where a thread finds its part of a walk.
    pub fn sources(&self, params: &ProductParams, range: &Range) -> Sources {
        let (k, cols, across) = (self.k, params.shape[2], self.across());
        // Of a row and a column of pieces within the first chunk.
        let find = |row: Reg<B32>, col: Reg<B32>| {
            let row = k.add_u64(range.rows[0], k.cvt_u64_u32(row));
            let col = k.add_u64(range.cols[0], k.cvt_u64_u32(col));
            let left = self.left(range, row, col);
            let element = k.mad_lo_u64(row, cols, k.shl_b64(col, COLS.trailing_zeros()));
            (k.selp_b64(element, 0, k.setp_ne_u32(left, 0)), left)
        };
        let codes = [0, 1].map(|i| {
            let (row, col, half) = self.unit(i);
            let (element, left) = find(row, col);
            let element = k.mad_lo_u64(k.cvt_u64_u32(half), u64::from(UNIT), element);
            (k.offset(params.codes, k.shr_u64(element, 1)), left)
        });
        let constant = find(k.shr_u32(self.tid, across.trailing_zeros()), k.and_b32(self.tid, across - 1));
        let row = k.mad_lo_u32(self.place[0], ROWS, self.lane);
        let row = k.add_u32(k.cvt_u32_u64(range.rows[0]), row);
        let col = k.add_u32(k.cvt_u32_u64(range.cols[0]), self.place[1]);
        let own = k.mad_lo_u32(row, k.cvt_u32_u64(cols), k.shl_b32(col, COLS.trailing_zeros()));
        let all = k.mul_lo_u64(params.shape[1], cols);
        let blocks = k.add_u64(all, u64::from(self.block_size - 1));
        Sources {
            codes,
            constant,
            own,
            step: k.mul_lo_u64(cols, u64::from(self.rows())),
            blocks: k.shr_u64(blocks, self.block_size.trailing_zeros()),
        }
    }

    /// Row, column of pieces and half of a row of the thread's unit `i` of two in a chunk.
    fn unit(&self, i: u32) -> (Reg<B32>, Reg<B32>, Reg<B32>) {
        let k = self.k;
        let units = 2 * self.across();
        let row = k.add_u32(k.shr_u32(self.tid, units.trailing_zeros()), i * self.rows() / 2);
        let unit = k.and_b32(self.tid, units - 1);
        (row, k.shr_u32(unit, 1), k.and_b32(unit, 1))
    }

    /// Elements of W from the first chunk to another one.
    fn along(&self, sources: &Sources, chunk: Reg<B32>) -> Reg<B64> {
        let k = self.k;
        match self.way {
            Way::Along => k.mul_wide_u32(chunk, COLS * self.across()),
            Way::Down => k.mul_lo_u64(k.cvt_u64_u32(chunk), sources.step),
        }
    }

    /// Starts to bring a chunk.
    pub fn bring(
        &self,
        params: &ProductParams,
        sources: &Sources,
        batch: &Batch<'_>,
        chunk: Reg<B32>,
        slot: Reg<B32>,
    ) {
        let k = self.k;
        let along = self.along(sources, chunk);
        let bytes = k.shr_u64(along, 1);
        let slot_codes = k.element(self.codes.ptr(k), slot, codes_slot(self.down));
        for (i, (from, left)) in (0..).zip(sources.codes) {
            let (row, col, half) = self.unit(i);
            let to = k.element(slot_codes, col, codes_pitch(self.down));
            let to = k.element(k.element(to, self.twisted(row), ROW), half, 16);
            let exists = k.setp_lt_u32(chunk, left);
            batch.copy(to, k.offset(from, k.selp_b64(bytes, 0, exists)), k.selp_b32(16, 0, exists));
        }
        let across = self.across();
        let (row, col) = (k.shr_u32(self.tid, across.trailing_zeros()), k.and_b32(self.tid, across - 1));
        let at = k.mad_lo_u32(col, constants_pitch(self.down), row);
        let at = k.mad_lo_u32(slot, constants_slot(self.down), at);
        let (element, left) = sources.constant;
        let exists = k.setp_lt_u32(chunk, left);
        let element = k.add_u64(element, k.selp_b64(along, 0, exists));
        let block = k.shr_u64(element, self.block_size.trailing_zeros());
        self.constants.bring(k, batch, &params.constants, [block, sources.blocks], exists, at);
    }

    /// A row's place in its piece.
    pub fn twisted(&self, row: Reg<B32>) -> Reg<B32> {
        let k = self.k;
        match self.way {
            Way::Along => row,
            Way::Down => k.xor_b32(row, k.and_b32(k.shr_u32(row, 3), 3)),
        }
    }

    /// The codes of this warp's piece: rows of 32 bytes.
    pub fn codes(&self, slot: Reg<B32>) -> Ptr<Shared> {
        let k = self.k;
        let piece = k.element(self.codes.ptr(k), slot, codes_slot(self.down));
        let piece = k.element(piece, self.place[1], codes_pitch(self.down));
        k.element(piece, self.place[0], ROWS * ROW)
    }

    /// The constant of the row of this warp's piece that has the lane's number.
    pub fn constant(
        &self,
        params: &ProductParams,
        sources: &Sources,
        chunk: Reg<B32>,
        slot: Reg<B32>,
    ) -> Reg<F32> {
        let k = self.k;
        let at = k.mad_lo_u32(self.place[0], ROWS, self.lane);
        let at = k.mad_lo_u32(self.place[1], constants_pitch(self.down), at);
        let at = k.mad_lo_u32(slot, constants_slot(self.down), at);
        let element = match self.way {
            Way::Along => k.mad_lo_u32(chunk, COLS * self.across(), sources.own),
            Way::Down => k.mad_lo_u32(chunk, k.cvt_u32_u64(sources.step), sources.own),
        };
        let block = k.shr_u32(element, self.block_size.trailing_zeros());
        self.constants.decode(k, &params.constants, at, block)
    }
}

/// Bytes of a row of a piece in shared memory.
pub const fn row_bytes() -> u32 {
    ROW
}

/// Bytes from a column of pieces to the next.
const fn codes_pitch(down: u32) -> u32 {
    let pad = match WARPS / down {
        1 => 0,
        2 => 64,
        _ => 32,
    };
    ROWS * down * ROW + pad
}

/// Bytes of codes of a slot, whole lines.
const fn codes_slot(down: u32) -> u32 {
    (WARPS / down * codes_pitch(down)).next_multiple_of(128)
}

/// Constants from a column of pieces to the next.
const fn constants_pitch(down: u32) -> u32 {
    ROWS * down + if down < WARPS { ROWS * down / WARPS } else { 0 }
}

/// Constants of a slot.
const fn constants_slot(down: u32) -> u32 {
    WARPS / down * constants_pitch(down)
}

/// Bytes of shared memory of a slot, at most.
pub const fn slot_bytes(down: u32) -> u32 {
    codes_slot(down) + 2 * 4 * constants_slot(down)
}

//! The tiles of products on tensor cores: which block, warp and lane has what of them, and how they are written out.
//!
//! A block of 8 warps, 2 down and 4 across, makes tiles of `rows` x 128 elements; a warp `rows/2` x 32 of it, in fragments
//! of 16 x 8 (PTX ISA §9.7.14.5.8): lane `4g + t` holds the elements `2t` and `2t + 1` of rows `g` and `g + 8`.

use super::product::ProductParams;
use ptx_asm::{B32, B64, F32, Kernel, Pred, Reg};

/// Columns of a tile.
pub const COLS: u32 = 128;
/// Rows of tiles that are made together.
const GROUP: u32 = 8;
/// Fragments of 8 columns of a warp.
pub const ACROSS: u32 = COLS / 4 / 8;

/// A fragment's four sums.
pub type Sums = [Reg<F32>; 4];

/// A thread's place in the tiles of its block.
pub struct MmaTile<'k> {
    k: &'k Kernel,
    /// Rows of a tile: 32, 64 or 128.
    pub rows: u32,
    /// The thread and its lane.
    pub tid: Reg<B32>,
    /// The lane.
    pub lane: Reg<B32>,
    /// `lane >> 2`.
    pub g: Reg<B32>,
    /// `lane & 3`.
    pub t: Reg<B32>,
    /// The warp's first row and column in a tile.
    pub corner: [Reg<B32>; 2],
}

impl<'k> MmaTile<'k> {
    /// The calling thread's. `blocks` are to share an SM: without a word on it ptxas aims at more, and spills.
    pub fn new(k: &'k Kernel, rows: u32, blocks: u32) -> Self {
        k.minnctapersm(blocks);
        let tid = k.tid_x();
        let (lane, warp) = (k.and_b32(tid, 31), k.shr_u32(tid, 5));
        let row = k.mul_lo_u32(k.shr_u32(warp, 2), rows / 2);
        let col = k.mul_lo_u32(k.and_b32(warp, 3), COLS / 4);
        let (g, t) = (k.shr_u32(lane, 2), k.and_b32(lane, 3));
        Self { k, rows, tid, lane, g, t, corner: [row, col] }
    }

    /// Fragments of 16 rows of a warp.
    pub fn down(&self) -> u32 {
        self.rows / 32
    }

    /// The sums of a warp's fragments, all 0: fragment after fragment, across first.
    pub fn zeros(&self) -> Vec<Sums> {
        (0..self.down() * ACROSS).map(|_| self.k.splat::<F32, 4>(0.0)).collect()
    }

    /// Emits `body` once, to run for each tile of an `[m, n]` matrix that is this block's. It gets the tile's first row and
    /// column. Tiles that are made together form groups of up to `GROUP` rows of tiles, column after column, so that
    /// what they read of both matrices is little and stays in L2.
    pub fn for_each(&self, [m, n]: [Reg<B64>; 2], body: impl FnOnce([Reg<B64>; 2])) {
        let k = self.k;
        k.section("this block's tiles");
        let tiles = |len, size: u32| k.shr_u64(k.add_u64(len, u64::from(size - 1)), size.trailing_zeros());
        let (down, across) = (tiles(m, self.rows), tiles(n, COLS));
        let total = k.mul_lo_u64(down, across);
        let in_group = k.shl_b64(across, GROUP.trailing_zeros());
        let tile = k.cvt_u64_u32(k.ctaid_x());
        k.while_(
            || k.setp_lt_u64(tile, total),
            || {
                let group = k.div_u64(tile, in_group);
                let within = k.sub_u64(tile, k.mul_lo_u64(group, in_group));
                let first = k.shl_b64(group, GROUP.trailing_zeros());
                let rows = k.min_u64(k.sub_u64(down, first), u64::from(GROUP));
                let column = k.div_u64(within, rows);
                let row = k.add_u64(first, k.sub_u64(within, k.mul_lo_u64(column, rows)));
                body([k.shl_b64(row, self.rows.trailing_zeros()), k.shl_b64(column, COLS.trailing_zeros())]);
                k.to(tile).add_u64(tile, k.cvt_u64_u32(k.nctaid_x()));
            },
        );
    }

    /// Element `within` after `first`, whether it lies before `end`, and for a copy to fill zeros where not: an element that
    /// exists instead, and 16 or 0 bytes.
    pub fn inside(
        &self,
        first: Reg<B64>,
        within: Reg<B32>,
        end: Reg<B64>,
    ) -> (Reg<B64>, Reg<B32>, Reg<Pred>) {
        let k = self.k;
        let at = k.add_u64(first, k.cvt_u64_u32(within));
        let inside = k.setp_lt_u64(at, end);
        (k.selp_b64(at, first, inside), k.selp_b32(16, 0, inside), inside)
    }

    /// Row `g` of the warp's eight rows number `i`, of a matrix in which its tile begins at `origin`.
    pub fn row(&self, origin: Reg<B64>, i: u32) -> Reg<B64> {
        self.within(origin, self.corner[0], i)
    }

    /// The same of columns.
    pub fn col(&self, origin: Reg<B64>, i: u32) -> Reg<B64> {
        self.within(origin, self.corner[1], i)
    }

    fn within(&self, origin: Reg<B64>, corner: Reg<B32>, i: u32) -> Reg<B64> {
        let k = self.k;
        k.add_u64(origin, k.cvt_u64_u32(k.add_u32(corner, k.add_u32(self.g, 8 * i))))
    }

    /// Writes a tile of an `[m, n]` matrix, the bias added if there is one, and what is there if `accumulate`.
    pub fn store(
        &self,
        params: &ProductParams,
        accumulate: bool,
        [m, n]: [Reg<B64>; 2],
        [row0, col0]: [Reg<B64>; 2],
        sums: &[Sums],
    ) {
        let (k, [_, col], out) = (self.k, self.corner, &params.out);
        k.section("store");
        for j in 0..ACROSS {
            for odd in 0..2u32 {
                let within = k.mad_lo_u32(self.t, 2, 8 * j + odd);
                let col = k.add_u64(col0, k.cvt_u64_u32(k.add_u32(col, within)));
                k.if_then(k.setp_lt_u64(col, n), || {
                    let zero = k.mov::<B64>(0);
                    let bias = params.bias.as_ref().map(|bias| bias.load(k, zero, col, None));
                    for i in 0..2 * self.down() {
                        let row = self.row(row0, i);
                        let sum = sums[(i / 2 * ACROSS + j) as usize][(2 * (i % 2) + odd) as usize];
                        k.if_then(k.setp_lt_u64(row, m), || {
                            let old = accumulate.then(|| out.load(k, row, col, None));
                            let terms = bias.into_iter().chain(old);
                            let value = terms.fold(sum, |sum, term| k.add_rn_f32(sum, term));
                            out.store(k, row, col, value);
                        });
                    }
                });
            }
        }
    }
}

/// Tiles of an `[m, n]` matrix.
pub fn tiles(m: u64, n: u64, rows: u32) -> u64 {
    m.div_ceil(rows.into()).saturating_mul(n.div_ceil(COLS.into()))
}

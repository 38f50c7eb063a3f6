//! `Y = X·Wᵀ + bias + T·Bᵀ` for few rows of X, at most 64, where reading W takes the time: each of its bytes is read once.
//!
//! **Method.** `Yᵀ = W·Xᵀ` on tensor cores: 16 rows of W are the rows of a fragment, 8 rows of X its columns, of which there
//! are 1, 2, 4 or 8. W and X come in pieces through a ring in shared memory, as of [`super::skinny_block`]. A warp
//! decodes a code once, by [`super::decode::PairTable`], and uses it for all rows of X. Warps that stand across split K among them; their
//! sums are added in shared memory at the end, in order. Where the tiles are too few for the device, K is split over
//! blocks, too: their sums are rows of a larger matrix, to be added by [`super::split_sum`].
//!
//! **Order of k.** As in [`super::gemm_mma`]: of a row of a piece, lane `t` of four takes the codes `16t … 16t + 15`, of them
//! `4s … 4s + 3` in step s of four, and X's values at the same places.
//!
//! **Scale.** As there: the products of 64 columns are summed by themselves and then multiplied by the constant, in f32.
//!
//! **Places.** Sums lie by rows of Y, 4 words between them: the 4 x 8 that a warp writes fill all banks.
//!
//! **Traffic.** W and its constants once. X once for each `32·down` rows of W, from L2: `M / (8·down)` times the bytes of W's
//! codes. Split in S, sums are written and read S times, 8·S·M·N bytes.
//!
//! **Shared memory** decides how fast codes can be decoded: of its wavefronts of 128 bytes, a piece of 2048 codes needs 32 to
//! look up its pairs, 8 to bring it and 8 to read it, 6 for its constants, and for each 8 rows of X 8 to read them and
//! `8 / down` to bring them: 70 for M ≤ 8. At 26 weights a clock, which the memory of an H100 brings, there are 79.

use super::pieces::{Pieces, ROW_BYTES, ROWS, Sources, WARPS, Way};
use super::product::{LowRank, ProductSpec, RANK};
use super::skinny_block::{Block, Cut, Item, row_bytes};
use super::tile::THREADS;
use super::{Spec, Written, dynamic_module};
use ptx_asm::{B32, Error, F32, Kernel, Ptr, Reg, Shared, Target};

/// Rows of X at most.
pub const MOST_ROWS: u32 = 64;
/// Bytes of a row of a piece of X.
const X_ROW: u32 = row_bytes(Way::Along);
/// Words between the rows of sums.
const GAP: u32 = 4;

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmSkinnySpec {
    /// Fragments of 8 rows of X: 1, 2, 4 or 8.
    pub fragments: u32,
    /// Warps down W's rows: 1, 2, 4 or 8.
    pub down: u32,
    /// Blocks that an SM is to have at once: the registers of each are what that leaves.
    pub blocks: u32,
    /// Slots of the ring.
    pub stages: u32,
    /// What is multiplied.
    pub product: ProductSpec,
}

/// A fragment's four sums, of two fragments of 16 rows of W one after the other.
type Sums = Vec<[[Reg<F32>; 4]; 2]>;

impl Spec for GemmSkinnySpec {
    /// Parameters: [`super::product::ProductParams`] of X, `T[M, rank]`, `B[N, rank]` and Y; into how many parts K is split
    /// (u32), and how many columns of 64 are in each (u32), a multiple of the warps across. Part s writes the rows `s·M …`
    /// of Y. M is at most `8·fragments`, K a multiple of 64 below 2³¹. X and its rows, T, B and their rows, and codes are aligned to 16
    /// bytes, the codes of constants to 4. Any grid. Needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_skinny", THREADS, |k| {
            let (body, shared) = Body::new(k, self);
            body.block.for_each_item(|item| body.make(item));
            shared
        })
    }
}

impl GemmSkinnySpec {
    /// Bytes of shared memory of a block, at most.
    pub const fn shared_bytes(fragments: u32, down: u32, stages: u32) -> u32 {
        cut(fragments, down).shared_bytes(stages)
    }
}

/// Blocks that an SM has registers for: without a word on it ptxas aims at more, and spills.
pub const fn most_blocks(fragments: u32) -> u32 {
    if fragments > 2 { 1 } else { 2 }
}

const fn cut(fragments: u32, down: u32) -> Cut {
    let sums = WARPS / down * 8 * fragments * (ROWS * down + GAP);
    Cut { way: Way::Along, fragments, down, sums }
}

/// The block, and what a lane knows of its place.
struct Body<'k> {
    block: Block<'k>,
    spec: &'k GemmSkinnySpec,
    /// Where in a slot this lane's two units of a row of X are.
    x_at: [Reg<B32>; 2],
}

impl<'k> Body<'k> {
    fn new(k: &'k Kernel, spec: &'k GemmSkinnySpec) -> (Self, usize) {
        let GemmSkinnySpec { fragments, down, blocks, stages, ref product } = *spec;
        let (block, shared) = Block::new(k, product, cut(fragments, down), [blocks, stages]);
        let Pieces { place, g, t, .. } = block.pieces;
        let x_at = [0, 1].map(|half| block.unit_place(place[1], g, k.mad_lo_u32(t, 2, half)));
        (Self { block, spec, x_at }, shared)
    }

    fn make(&self, item: &Item) {
        let k = self.block.k;
        let zeros = || std::array::from_fn(|_| k.splat::<F32, 4>(0.0));
        let sums: Sums = (0..self.spec.fragments).map(|_| zeros()).collect();
        self.block.walk(item, |sources, chunk, slot| self.multiply_chunk(sources, chunk, slot, &sums));
        if let Some(low_rank) = &self.block.params.low_rank {
            k.if_then(k.setp_eq_u32(item.split, 0), || self.add_low_rank(low_rank, item, &sums));
        }
        self.store(item, &sums);
    }

    /// Adds the products of this warp's piece.
    fn multiply_chunk(&self, sources: &Sources, chunk: Reg<B32>, slot: Ptr<Shared>, sums: &Sums) {
        let (k, pieces, half) = (self.block.k, &self.block.pieces, self.spec.product.half);
        k.comment("the piece's codes, 16 neighbours of each of four rows");
        let from = k.element(k.element(pieces.codes(slot), pieces.g, ROW_BYTES), pieces.t, 8);
        let words = [0, 8, 16, 24].map(|row| k.ld_shared::<[B32; 2]>(from.at(row * ROW_BYTES as i32)));
        let constant = pieces.constant(&self.block.params, sources, chunk, slot);
        let row = |q: u32| k.shfl_idx_f32(constant, k.add_u32(pieces.g, 8 * q), 31, u32::MAX);
        let scales = [0, 1, 2, 3].map(row);
        let units = self.x_at.map(|at| k.offset(slot, at));
        let a = words.map(|words| words.map(|word| self.block.table.pairs(k, word)).concat());
        let zeros = k.splat::<F32, 4>(0.0);
        for (j, sums) in (0..).zip(sums) {
            k.comment("eight rows of X: multiply, scale");
            let b = units.map(|from| k.ld_shared::<[B32; 4]>(from.at(8 * j * X_ROW as i32))).concat();
            for (f, sums) in sums.iter().enumerate() {
                let [upper, lower] = [&a[2 * f], &a[2 * f + 1]];
                let product = (0..4).fold(zeros, |sum, step| {
                    let (left, right) = (2 * step, 2 * step + 1);
                    let a = [upper[left], lower[left], upper[right], lower[right]];
                    half.multiply(k, a, [b[left], b[right]], sum)
                });
                for (q, &sum) in sums.iter().enumerate() {
                    k.to(sum).fma_rn_f32(product[q], scales[2 * f + q / 2], sum);
                }
            }
        }
    }

    /// Adds `T·Bᵀ`. Warps that stand across take turns with its steps.
    fn add_low_rank(&self, low_rank: &LowRank, item: &Item, sums: &Sums) {
        let (k, pieces, [m, n, _]) = (self.block.k, &self.block.pieces, self.block.params.shape);
        k.section("the low-rank term");
        let first = k.mad_lo_u32(pieces.place[0], ROWS, pieces.g);
        let first = k.add_u64(item.range.rows[0], k.cvt_u64_u32(first));
        let b_rows = [0, 8, 16, 24].map(|q: u64| low_rank.right_row(k, pieces.t, k.add_u64(first, q), n));
        let t_row = |j| low_rank.left_row(k, pieces.t, k.cvt_u64_u32(k.add_u32(pieces.g, 8 * j)), m);
        let t_rows: Vec<_> = (0..self.spec.fragments).map(t_row).collect();
        let start = k.mul_lo_u32(pieces.place[1], RANK);
        k.for_range(start, low_rank.rank, RANK * pieces.across, |step| {
            let b = b_rows.map(|row| row.load(k, step));
            for (row, sums) in t_rows.iter().zip(sums) {
                let t = row.load(k, step);
                for (rows, &sum) in b.chunks(2).zip(sums) {
                    let a = [rows[0][0], rows[1][0], rows[0][1], rows[1][1]];
                    self.spec.product.half.add_product(k, a, t, sum);
                }
            }
        });
    }

    /// Adds the sums of the warps across, in order, and writes the tile.
    fn store(&self, item: &Item, sums: &Sums) {
        let (k, pieces, params) = (self.block.k, &self.block.pieces, &self.block.params);
        k.section("store");
        let (rows, fragments, across) = (pieces.rows(), self.spec.fragments, pieces.across);
        let pitch = rows + GAP;
        let to = k.mad_lo_u32(pieces.place[1], 8 * fragments, k.shl_b32(pieces.t, 1));
        let to = k.mad_lo_u32(to, pitch, k.mad_lo_u32(pieces.place[0], ROWS, pieces.g));
        let to = self.block.sums.element(k, to);
        for (j, sums) in (0..).zip(sums) {
            for (f, sums) in (0..).zip(sums) {
                for (q, &sum) in (0..).zip(sums) {
                    let at = (8 * j + q % 2) * pitch + 16 * f + 8 * (q / 2);
                    k.st_shared::<F32>(to.at(4 * at as i32), sum);
                }
            }
        }
        k.bar_sync(0);
        let row = k.and_b32(pieces.tid, rows - 1);
        let col = k.add_u64(item.range.rows[0], k.cvt_u64_u32(row));
        let m = k.cvt_u32_u64(params.shape[0]);
        let first = k.mul_wide_u32(item.split, m);
        k.if_then(k.setp_lt_u64(col, params.shape[1]), || {
            let bias = params.bias.as_ref().map(|bias| bias.load(k, k.mov(0), col, None));
            k.for_range(k.shr_u32(pieces.tid, rows.trailing_zeros()), m, THREADS / rows, |at| {
                let from = self.block.sums.element(k, k.mad_lo_u32(at, pitch, row));
                let part = |i: u32| k.ld_shared::<F32>(from.at((4 * i * 8 * fragments * pitch) as i32));
                let sum = (0..across).map(part).reduce(|a, b| k.add_rn_f32(a, b)).expect("a warp");
                let out_row = k.add_u64(first, k.cvt_u64_u32(at));
                let accumulate = self.spec.product.accumulate;
                let old = accumulate.then(|| params.out.load(k, out_row, col, None));
                let value = bias.into_iter().chain(old).fold(sum, |sum, term| k.add_rn_f32(sum, term));
                params.out.store(k, out_row, col, value);
            });
        });
        k.bar_sync(0);
    }
}

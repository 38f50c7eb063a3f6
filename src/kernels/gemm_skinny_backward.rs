//! `dX = dY·W + U·A` for few rows of dY, at most 64, in bf16, where reading W takes the time: each of its bytes is read once.
//!
//! **Method.** `dXᵀ = Wᵀ·dYᵀ` on tensor cores: 16 columns of W are the rows of a fragment, 8 rows of dY its columns, of which
//! there are 1, 2, 4 or 8. W and dY come in pieces through a ring in shared memory, walking down, as of
//! [`super::skinny_block`]. A warp decodes a code once and uses it for all rows of dY. Warps that stand down split N among them; their
//! sums are added in shared memory at the end, in order. Where the tiles are too few for the device, N is split over
//! blocks, too, as in [`super::gemm_skinny`].
//!
//! **No transposition.** Fragments of W pair neighbours along the sum, which are rows: the codes of a column in two rows form
//! the byte that [`super::decode::PairTable`] looks up, by one shift and one selection of bits for four bytes. Lane `4g + t` has the codes
//! of columns `8g … 8g + 7` in rows `8t … 8t + 7` of a piece: in step s of two its four terms are the rows `8t + 4s …`, and
//! rows g and g + 8 of fragment j are the columns `8g + 2j` and `8g + 2j + 1`.
//!
//! **Scale.** W's rows lie across the sum, so that the constant changes from term to term; but within a piece it is one a
//! row: dY is multiplied by it, in f32, and rounded to bf16, by each warp for its columns. So a product is off by two
//! roundings, of the codebook's value and of dY times constant, `2u + u²` with u = 2⁻⁹. f16 would not hold every dY times
//! constant, and is left to [`super::gemm_mma_backward`].
//!
//! **Places.** Of the sums of row m of dY, column c is word `c ^ 4·(m >> 1 & 1) ^ 16·(m >> 2 & 1)` of a row of 64: the vectors of four that a warp writes fill
//! all banks, 8 lanes at a time.
//!
//! **Traffic.** W and its constants once. dY once for each `64·across` columns, from L2: `M / (16·across)` times the bytes of
//! W's codes. Split in S, sums are written and read S times, 8·S·M·K bytes.
//!
//! **Shared memory**, in wavefronts of 128 bytes for a piece of 2048 codes: 32 to look up its pairs, 8 to bring it and 8 to
//! read it, 14 for its constants, and for each 8 rows of dY 4 to read them and `4 / across` to bring them: about 67 for
//! M ≤ 8, of 79 in which the memory of an H100 brings a piece.

use super::decode::Half;
use super::pieces::{COLS, Pieces, ROW_BYTES, Sources, WARPS, Way};
use super::product::{LowRank, ProductSpec, RANK};
use super::skinny_block::{Block, Cut, Item, row_bytes};
use super::tensor::widen;
use super::tile::THREADS;
use super::{Spec, Written, dynamic_module};
use crate::view::DType;
use ptx_asm::{B32, Error, F32, Kernel, Ptr, Reg, Shared, Target, lut};

/// Bytes of a row of a piece of dY.
const DY_ROW: u32 = row_bytes(Way::Down);
/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmSkinnyBackwardSpec {
    /// Fragments of 8 rows of dY: 1, 2, 4 or 8.
    pub fragments: u32,
    /// Warps down W's rows: 1, 2, 4 or 8.
    pub down: u32,
    /// Blocks that an SM is to have at once: the registers of each are what that leaves.
    pub blocks: u32,
    /// Slots of the ring.
    pub stages: u32,
    /// What is multiplied, in bf16.
    pub product: ProductSpec,
}

impl Spec for GemmSkinnyBackwardSpec {
    /// Parameters: [`super::product::ProductParams`] of dY, `U[M, rank]`, `A[rank, K]` and dX; into how many parts N is split (u32), and how
    /// many rows of W are in each (u32), a multiple of `32·down`. Part s writes the rows `s·M …` of dX. M is at most
    /// `8·fragments`, N a multiple of 8, K one of 64 below 2²³. dY and its rows, U, A and their rows, and codes are aligned to
    /// 16 bytes, the codes of constants to 4. Any grid. Needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_skinny_backward", THREADS, |k| {
            let (body, shared) = Body::new(k, self);
            body.block.for_each_item(|item| body.make(item));
            shared
        })
    }
}

impl GemmSkinnyBackwardSpec {
    /// Bytes of shared memory of a block, at most.
    pub const fn shared_bytes(fragments: u32, down: u32, stages: u32) -> u32 {
        cut(fragments, down).shared_bytes(stages)
    }
}

const fn cut(fragments: u32, down: u32) -> Cut {
    Cut { way: Way::Down, fragments, down, sums: WARPS * 8 * fragments * COLS }
}

/// The block, and what a lane knows of its place.
struct Body<'k> {
    block: Block<'k>,
    spec: &'k GemmSkinnyBackwardSpec,
    /// Where in a slot this lane's unit of a row of dY is, and in a piece its codes of four rows.
    dy_at: Reg<B32>,
    codes_at: [Reg<B32>; 4],
}

/// The sums of 8 rows: four fragments of 16 columns.
type Sums = Vec<[[Reg<F32>; 4]; 4]>;

impl<'k> Body<'k> {
    fn new(k: &'k Kernel, spec: &'k GemmSkinnyBackwardSpec) -> (Self, usize) {
        let GemmSkinnyBackwardSpec { fragments, down, blocks, stages, ref product } = *spec;
        let (block, shared) = Block::new(k, product, cut(fragments, down), [blocks, stages]);
        let Pieces { place, g, t, .. } = block.pieces;
        let dy_at = block.unit_place(place[0], g, t);
        let codes_at = [0u32, 1, 2, 3].map(|i| {
            let row = k.mad_lo_u32(t, 8, k.xor_b32(t, i));
            k.mad_lo_u32(row, ROW_BYTES, k.shl_b32(g, 2))
        });
        (Self { block, spec, dy_at, codes_at }, shared)
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
        let (k, pieces) = (self.block.k, &self.block.pieces);
        k.comment("the piece's codes, 8 neighbours of each of eight rows; their constants");
        let codes = pieces.codes(slot);
        let from = self.codes_at.map(|at| k.offset(codes, at));
        let words: [Reg<B32>; 8] = std::array::from_fn(|i| {
            k.ld_shared::<B32>(from[i % 4].at((i / 4 * 4) as i32 * ROW_BYTES as i32))
        });
        let constant = pieces.constant(&self.block.params, sources, chunk, slot);
        let first = k.shl_b32(pieces.t, 3);
        let scales: [Reg<F32>; 8] =
            std::array::from_fn(|i| k.shfl_idx_f32(constant, k.add_u32(first, i as u32), 31, u32::MAX));
        let dy = k.offset(slot, self.dy_at);
        let columns: [[[Reg<B32>; 8]; 2]; 2] = std::array::from_fn(|step| {
            [0, 2].map(|i| self.pairs([words[4 * step + i], words[4 * step + i + 1]]))
        });
        for (i, sums) in (0..).zip(sums) {
            k.comment("eight rows of dY: times constant, rounded; multiply");
            let values = widen(k, DType::Bf16, k.ld_shared::<[B32; 4]>(dy.at((8 * i * DY_ROW) as i32)));
            let values: Vec<_> =
                values.into_iter().zip(scales).map(|(value, scale)| k.mul_rn_f32(value, scale)).collect();
            let dy = [0, 2, 4, 6].map(|i| Half::Bf16.pack(k, values[i], values[i + 1]));
            for (step, [left, right]) in columns.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    let a = [left[2 * j], left[2 * j + 1], right[2 * j], right[2 * j + 1]];
                    Half::Bf16.add_product(k, a, [dy[2 * step], dy[2 * step + 1]], sum);
                }
            }
        }
    }

    /// The values of eight columns in two rows: the pair of a column a register.
    fn pairs(&self, [upper, lower]: [Reg<B32>; 2]) -> [Reg<B32>; 8] {
        let (k, high) = (self.block.k, 0xf0f0_f0f0u32);
        let table = lut(|a, b, mask| (a & mask) | (b & !mask));
        let even = k.lop3_b32(upper, k.shr_u32(lower, 4), high, table);
        let odd = k.lop3_b32(k.shl_b32(upper, 4), lower, high, table);
        let [even, odd] = [even, odd].map(|codes| self.block.table.pairs(k, codes));
        std::array::from_fn(|j| if j % 2 == 0 { even[j / 2] } else { odd[j / 2] })
    }

    /// Adds `U·A`. Warps that stand down take turns with its steps.
    fn add_low_rank(&self, low_rank: &LowRank, item: &Item, sums: &Sums) {
        let (k, pieces) = (self.block.k, &self.block.pieces);
        k.section("the low-rank term");
        let (four, [m, ..]) = (k.mul_wide_u32(pieces.t, 4), self.block.params.shape);
        let u_row = |i| low_rank.left_row(k, pieces.t, k.cvt_u64_u32(k.add_u32(pieces.g, 8 * i)), m);
        let u_rows: Vec<_> = (0..self.spec.fragments).map(u_row).collect();
        let span = k.add_u64(item.range.cols[0], k.cvt_u64_u32(pieces.place[1]));
        let inside = k.setp_lt_u64(span, item.range.cols[1]);
        let col = k.mad_lo_u64(span, u64::from(COLS), k.mul_wide_u32(pieces.g, 8));
        let stride = k.shl_b64(low_rank.right_stride, 1);
        let first = k.offset(low_rank.right, k.shl_b64(col, 1));
        let start = k.mul_lo_u32(pieces.place[0], RANK);
        k.for_range(start, low_rank.rank, RANK * pieces.down, |step| {
            let row = k.add_u64(k.cvt_u64_u32(step), four);
            let from = k.offset(first, k.mul_lo_u64(row, stride));
            let rows = [0u32, 1, 2, 3].map(|i| {
                let words = k.splat::<B32, 4>(0);
                let from = k.offset(from, k.mul_lo_u64(stride, u64::from(i)));
                k.to(words).when(inside).ld_global::<[B32; 4]>(from);
                words
            });
            let [left, right] = [0, 2].map(|r| {
                std::array::from_fn::<_, 8, _>(|col| {
                    let half = if col % 2 == 0 { 0x5410 } else { 0x7632 };
                    k.prmt_b32(rows[r][col / 2], rows[r + 1][col / 2], half)
                })
            });
            for (row, sums) in u_rows.iter().zip(sums) {
                let u = row.load(k, step);
                for (j, &sum) in sums.iter().enumerate() {
                    let a = [left[2 * j], left[2 * j + 1], right[2 * j], right[2 * j + 1]];
                    Half::Bf16.add_product(k, a, u, sum);
                }
            }
        });
    }

    /// Adds the sums of the warps down, in order, and writes the tile.
    fn store(&self, item: &Item, sums: &Sums) {
        let (k, pieces, params, rows) =
            (self.block.k, &self.block.pieces, &self.block.params, 8 * self.spec.fragments);
        k.section("store");
        // Row 2t of the first eight, and after it row 2t + 1, which has the same places.
        let piece = k.mad_lo_u32(pieces.place[0], pieces.across, pieces.place[1]);
        let row = k.mad_lo_u32(piece, rows, k.shl_b32(pieces.t, 1));
        let place = self.place(k.shl_b32(pieces.t, 1));
        let to = [0u32, 4].map(|col| {
            let word = k.xor_b32(k.mad_lo_u32(pieces.g, 8, col), place);
            self.block.sums.element(k, k.mad_lo_u32(row, COLS, word))
        });
        for (i, sums) in (0..).zip(sums) {
            for (to, sums) in to.iter().zip(sums.chunks_exact(2)) {
                for odd in 0..2usize {
                    let [left, right] = [sums[0], sums[1]];
                    let four = [left[odd], left[2 + odd], right[odd], right[2 + odd]];
                    let at = (8 * i + odd as u32) * COLS;
                    k.st_shared::<[F32; 4]>(to.at(4 * at as i32), four);
                }
            }
        }
        k.bar_sync(0);
        let cols = COLS * pieces.across;
        let m = k.cvt_u32_u64(params.shape[0]);
        let first = k.mul_wide_u32(item.split, m);
        let col0 = k.shl_b64(item.range.cols[0], COLS.trailing_zeros());
        k.for_range(pieces.tid, k.mul_lo_u32(m, cols), THREADS, |at| {
            let (row, within) = (k.shr_u32(at, cols.trailing_zeros()), k.and_b32(at, cols - 1));
            let col = k.add_u64(col0, k.cvt_u64_u32(within));
            k.if_then(k.setp_lt_u64(col, params.shape[2]), || {
                let word = k.xor_b32(k.and_b32(within, COLS - 1), self.place(row));
                let piece = k.mad_lo_u32(k.shr_u32(within, COLS.trailing_zeros()), rows, row);
                let from = self.block.sums.element(k, k.mad_lo_u32(piece, COLS, word));
                let part = |i: u32| k.ld_shared::<F32>(from.at((4 * i * pieces.across * rows * COLS) as i32));
                let sum = (0..pieces.down).map(part).reduce(|a, b| k.add_rn_f32(a, b)).expect("a warp");
                let out_row = k.add_u64(first, k.cvt_u64_u32(row));
                let accumulate = self.spec.product.accumulate;
                let old = accumulate.then(|| params.out.load(k, out_row, col, None));
                let value = old.into_iter().fold(sum, |sum, old| k.add_rn_f32(sum, old));
                params.out.store(k, out_row, col, value);
            });
        });
        k.bar_sync(0);
    }

    /// What the numbers of columns are mixed with in a row of sums.
    fn place(&self, row: Reg<B32>) -> Reg<B32> {
        let k = self.block.k;
        let four = k.shl_b32(k.and_b32(row, 2), 1);
        k.or_b32(four, k.shl_b32(k.and_b32(row, 4), 2))
    }
}

//! `dX = dY·W + U·A` for few rows of dY, at most 64, in bf16, where reading W takes the time: each of its bytes is read once.
//!
//! **Method.** `dXᵀ = Wᵀ·dYᵀ` on tensor cores: 16 columns of W are the rows of a fragment, 8 rows of dY its columns, of which
//! there are 1, 2, 4 or 8. W comes in pieces as of [`super::pieces`], walking down, through a ring in shared memory with dY
//! beside it. A warp decodes a code once and uses it for all rows of dY. Warps that stand down split N among them; their
//! sums are added in shared memory at the end, in order. Where the tiles are too few for the device, N is split over
//! blocks, too, as in [`super::gemm_skinny`].
//!
//! **No transposition.** Fragments of W pair neighbours along the sum, which are rows: the codes of a column in two rows form
//! the byte that [`PairTable`] looks up, by one shift and one selection of bits for four bytes. Lane `4g + t` has the codes
//! of columns `8g … 8g + 7` in rows `8t … 8t + 7` of a piece: in step s of two its four terms are the rows `8t + 4s …`, and
//! rows g and g + 8 of fragment j are the columns `8g + 2j` and `8g + 2j + 1`.
//!
//! **Scale.** W's rows lie across the sum, so that the constant changes from term to term; but within a piece it is one a
//! row: dY is multiplied by it, in f32, and rounded to bf16, by each warp for its columns. So a product is off by two
//! roundings, of the codebook's value and of dY times constant, `2u + u²` with u = 2⁻⁹. f16 would not hold every dY times
//! constant, and is left to [`super::gemm_mma_backward`].
//!
//! **Places.** dY is cut into pieces of 32 columns, rows of 64 bytes, with 64 bytes between the pieces. Of the sums of row m
//! of dY, column c is word `c ^ 4·(m >> 1 & 1) ^ 16·(m >> 2 & 1)` of a row of 64: the vectors of four that a warp writes fill
//! all banks, 8 lanes at a time.
//!
//! **Traffic.** W and its constants once. dY once for each `64·across` columns, from L2: `M / (16·across)` times the bytes of
//! W's codes. Split in S, sums are written and read S times, 8·S·M·K bytes.
//!
//! **Shared memory**, in wavefronts of 128 bytes for a piece of 2048 codes: 32 to look up its pairs, 8 to bring it and 8 to
//! read it, 14 for its constants, and for each 8 rows of dY 4 to read them and `4 / across` to bring them: about 67 for
//! M ≤ 8, of 79 in which the memory of an H100 brings a piece.

use super::decode::{Half, PairTable};
use super::pieces::{self, COLS, Pieces, ROW_BYTES, ROWS, Range, Sources, WARPS, Way};
use super::product::{LowRank, ProductParams, ProductSpec, RANK};
use super::ring::{Batch, Ring};
use super::tensor::widen;
use super::tile::THREADS;
use super::{Spec, Written, dynamic_module};
use crate::view::DType;
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Pred, Ptr, Reg, Shared, Target, U8, lut};

/// Bytes of a row of a piece of dY.
const DY_ROW: u32 = 2 * ROWS;
/// Bytes between pieces of dY.
const DY_GAP: u32 = 64;

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
    /// Parameters: [`ProductParams`] of dY, `U[M, rank]`, `A[rank, K]` and dX; into how many parts N is split (u32), and how
    /// many rows of W are in each (u32), a multiple of `32·down`. Part s writes the rows `s·M …` of dX. M is at most
    /// `8·fragments`, N a multiple of 8, K one of 64 below 2²³. dY and its rows, U, A and their rows, and codes are aligned to
    /// 16 bytes, the codes of constants to 4. Any grid. Needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_skinny_backward", THREADS, |k| {
            let (body, shared) = Body::new(k, self);
            body.run();
            shared
        })
    }
}

impl GemmSkinnyBackwardSpec {
    /// Bytes of shared memory of a block, at most.
    pub fn shared_bytes(fragments: u32, down: u32, stages: u32) -> u32 {
        let ring = (stages * slot_bytes(fragments, down)).max(4 * sums(fragments));
        // The table of pairs; the map of constants.
        4 * PairTable::WORDS as u32 + 1024 + ring
    }
}

/// Bytes of a slot: W's part, and pieces of dY.
const fn slot_bytes(fragments: u32, down: u32) -> u32 {
    (pieces::slot_bytes(down) + down * dy_pitch(fragments)).next_multiple_of(128)
}

/// Bytes from a piece of dY to the next.
const fn dy_pitch(fragments: u32) -> u32 {
    8 * fragments * DY_ROW + DY_GAP
}

/// Units of 16 bytes of a chunk of dY.
const fn dy_units(fragments: u32, down: u32) -> u32 {
    8 * fragments * down * DY_ROW / 16
}

/// Words for the sums of all warps.
const fn sums(fragments: u32) -> u32 {
    WARPS * 8 * fragments * COLS
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmSkinnyBackwardSpec,
    params: ProductParams,
    splits: Reg<B32>,
    per_split: Reg<B32>,
    ring: Ring<'k>,
    pieces: Pieces<'k>,
    /// The ring's slots, and when they are done with, the sums.
    slots: Array<U8>,
    sums: Array<F32>,
    table: PairTable,
    /// Whether the table is filled.
    filled: Reg<B32>,
    /// Where in a slot this thread's units of dY go, where this lane's unit of a row is, and its codes of four rows.
    dy_to: Vec<Reg<B32>>,
    dy_at: Reg<B32>,
    codes_at: [Reg<B32>; 4],
}

/// 16 bytes of a row of dY, and how many chunks have them.
type FromDy = Vec<(Ptr<Global>, Reg<B32>)>;

/// The sums of 8 rows: four fragments of 16 columns.
type Sums = Vec<[[Reg<F32>; 4]; 4]>;

/// What a block makes at a time: a tile of dX, or its part of a split sum.
struct Item {
    split: Reg<B32>,
    range: Range,
}

impl<'k> Body<'k> {
    fn new(k: &'k Kernel, spec: &'k GemmSkinnyBackwardSpec) -> (Self, usize) {
        let GemmSkinnyBackwardSpec { fragments, down, blocks, stages, .. } = *spec;
        k.minnctapersm(blocks);
        let params = ProductParams::new(k, &spec.product);
        let [splits, per_split] = ["splits", "per_split"].map(|name| k.param_u32(name));
        let mut shared = k.dynamic_shared(128);
        let table = shared.array_aligned(PairTable::WORDS, 128);
        let table = PairTable::new(k, table);
        let sums = sums(fragments) as usize;
        let slots = (stages * slot_bytes(fragments, down)) as usize;
        let slots: Array<U8> = shared.array_aligned(slots.max(4 * sums), 128);
        let pieces = Pieces::new(k, &spec.product, down, Way::Down);
        let dy = |piece, row, unit| {
            let to = k.mad_lo_u32(row, DY_ROW, k.shl_b32(unit, 4));
            k.add_u32(k.mad_lo_u32(piece, dy_pitch(fragments), to), pieces::slot_bytes(down))
        };
        let dy_to = (0..dy_units(fragments, down).div_ceil(THREADS)).map(|i| {
            let [row, piece, unit] = dy_unit(k, &pieces, i);
            dy(piece, row, unit)
        });
        let dy_to = dy_to.collect();
        let dy_at = dy(pieces.place[0], pieces.g, pieces.t);
        let codes_at = [0u32, 1, 2, 3].map(|i| {
            let row = k.mad_lo_u32(pieces.t, 8, k.xor_b32(pieces.t, i));
            k.mad_lo_u32(row, ROW_BYTES, k.shl_b32(pieces.g, 2))
        });
        let (ring, shared) = (Ring::new(k, stages, 0), shared.bytes());
        let sums = slots.cast(sums);
        let body = Self {
            k,
            spec,
            params,
            splits,
            per_split,
            ring,
            pieces,
            slots,
            sums,
            table,
            filled: k.mov(0),
            dy_to,
            dy_at,
            codes_at,
        };
        (body, shared)
    }

    fn run(&self) {
        let (k, [_, n, inner]) = (self.k, self.params.shape);
        let cols = k.shr_u64(inner, COLS.trailing_zeros());
        let across = self.pieces.across;
        let tiles = k.shr_u64(k.add_u64(cols, u64::from(across - 1)), across.trailing_zeros());
        let splits = k.cvt_u64_u32(self.splits);
        let items = k.mul_lo_u64(tiles, splits);
        let at = k.cvt_u64_u32(k.ctaid_x());
        k.while_(
            || k.setp_lt_u64(at, items),
            || {
                let tile = k.div_u64(at, splits);
                let split = k.cvt_u32_u64(k.sub_u64(at, k.mul_lo_u64(tile, splits)));
                let first = k.mul_wide_u32(split, self.per_split);
                let end = k.min_u64(k.add_u64(first, k.cvt_u64_u32(self.per_split)), n);
                let col = k.shl_b64(tile, across.trailing_zeros());
                self.make(&Item { split, range: Range { rows: [first, end], cols: [col, cols] } });
                k.to(at).add_u64(at, k.cvt_u64_u32(k.nctaid_x()));
            },
        );
    }

    fn make(&self, item: &Item) {
        let k = self.k;
        let sources = self.pieces.sources(&self.params, &item.range);
        let dy_from = self.dy_sources(item);
        let zeros = || std::array::from_fn(|_| k.splat::<F32, 4>(0.0));
        let sums: Sums = (0..self.spec.fragments).map(|_| zeros()).collect();
        // Filled once, while the first chunks come.
        let fill = || {
            k.if_then(k.setp_eq_u32(self.filled, 0), || {
                self.table.fill(k, Half::Bf16, self.spec.product.values.map(f32::from_bits));
            });
            k.to(self.filled).mov(1);
        };
        self.ring.for_each_after(
            fill,
            self.pieces.chunks(&item.range),
            |batch, chunk, slot| {
                let slot = self.slot(slot);
                self.pieces.bring(&sources, batch, chunk, slot);
                self.bring_dy(&dy_from, batch, chunk, slot);
            },
            |chunk, slot| self.multiply_chunk(&sources, chunk, self.slot(slot), &sums),
        );
        if let Some(low_rank) = &self.params.low_rank {
            k.if_then(k.setp_eq_u32(item.split, 0), || self.add_low_rank(low_rank, item, &sums));
        }
        self.store(item, &sums);
    }

    fn slot(&self, slot: Reg<B32>) -> Ptr<Shared> {
        let bytes = slot_bytes(self.spec.fragments, self.spec.down);
        self.k.element(self.slots.ptr(self.k), slot, bytes)
    }

    fn dy_sources(&self, item: &Item) -> FromDy {
        let (k, params) = (self.k, &self.params);
        let [first, end] = item.range.rows;
        let from = |i| {
            let [row, piece, unit] = dy_unit(k, &self.pieces, i);
            let within = k.mad_lo_u32(piece, ROWS, k.shl_b32(unit, 3));
            let (row, col) = (k.cvt_u64_u32(row), k.add_u64(first, k.cvt_u64_u32(within)));
            let inside = k.and_pred(k.setp_lt_u64(row, params.shape[0]), k.setp_lt_u64(col, end));
            let left = k.selp_b32(pieces::chunks(k, col, end, self.pieces.rows()), 0, inside);
            let element = k.mad_lo_u64(row, params.left_stride, col);
            (k.offset(params.left, k.shl_b64(element, 1)), left)
        };
        (0..).zip(&self.dy_to).map(|(i, _)| from(i)).collect()
    }

    /// Starts to bring a chunk of dY; zeros where there is none, which is the same in all chunks but the last: once a slot.
    fn bring_dy(&self, dy_from: &FromDy, batch: &Batch<'_>, chunk: Reg<B32>, slot: Ptr<Shared>) {
        let (k, GemmSkinnyBackwardSpec { fragments, down, stages, .. }) = (self.k, self.spec);
        let along = k.mul_wide_u32(chunk, 2 * self.pieces.rows());
        let fresh = k.setp_lt_u32(chunk, *stages);
        for (&(from, left), &to) in dy_from.iter().zip(&self.dy_to) {
            let mut wanted = k.or_pred(fresh, k.setp_ne_u32(left, 0));
            if dy_units(*fragments, *down) < THREADS {
                wanted = k.and_pred(wanted, k.setp_lt_u32(self.pieces.tid, dy_units(*fragments, *down)));
            }
            k.if_then(wanted, || {
                let size = k.selp_b32(16, 0, k.setp_lt_u32(chunk, left));
                batch.copy(k.offset(slot, to), k.offset(from, along), size);
            });
        }
    }

    /// Adds the products of this warp's piece.
    fn multiply_chunk(&self, sources: &Sources, chunk: Reg<B32>, slot: Ptr<Shared>, sums: &Sums) {
        let (k, pieces) = (self.k, &self.pieces);
        k.comment("the piece's codes, 8 neighbours of each of eight rows; their constants");
        let codes = pieces.codes(slot);
        let from = self.codes_at.map(|at| k.offset(codes, at));
        let words: [Reg<B32>; 8] = std::array::from_fn(|i| {
            k.ld_shared::<B32>(from[i % 4].at((i / 4 * 4) as i32 * ROW_BYTES as i32))
        });
        let constant = pieces.constant(&self.params, sources, chunk, slot);
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
                    self.add(sum, a, [dy[2 * step], dy[2 * step + 1]]);
                }
            }
        }
    }

    /// The values of eight columns in two rows: the pair of a column a register.
    fn pairs(&self, [upper, lower]: [Reg<B32>; 2]) -> [Reg<B32>; 8] {
        let (k, high) = (self.k, 0xf0f0_f0f0u32);
        let table = lut(|a, b, mask| (a & mask) | (b & !mask));
        let even = k.lop3_b32(upper, k.shr_u32(lower, 4), high, table);
        let odd = k.lop3_b32(k.shl_b32(upper, 4), lower, high, table);
        let [even, odd] = [even, odd].map(|codes| self.table.pairs(k, codes));
        std::array::from_fn(|j| if j % 2 == 0 { even[j / 2] } else { odd[j / 2] })
    }

    fn add(&self, sum: [Reg<F32>; 4], a: [Reg<B32>; 4], b: [Reg<B32>; 2]) {
        let added = Half::Bf16.multiply(self.k, a, b, sum);
        sum.into_iter().zip(added).for_each(|(sum, added)| self.k.to(sum).mov(added));
    }

    /// Adds `U·A`, straight from global memory: it is little. Warps that stand down take turns with its steps of 16 ranks, of
    /// which lane t has the neighbours `4t … 4t + 3`.
    fn add_low_rank(&self, low_rank: &LowRank, item: &Item, sums: &Sums) {
        let (k, pieces) = (self.k, &self.pieces);
        k.section("the low-rank term");
        let rank = k.cvt_u64_u32(low_rank.rank);
        let four = k.mul_wide_u32(pieces.t, 4);
        let u_rows = (0..self.spec.fragments).map(|i| {
            let row = k.cvt_u64_u32(k.add_u32(pieces.g, 8 * i));
            let inside = k.setp_lt_u64(row, self.params.shape[0]);
            let element = k.mad_lo_u64(k.selp_b64(row, 0, inside), rank, four);
            (k.offset(low_rank.left, k.shl_b64(element, 1)), inside)
        });
        let u_rows: Vec<_> = u_rows.collect();
        let span = k.add_u64(item.range.cols[0], k.cvt_u64_u32(pieces.place[1]));
        let inside = k.setp_lt_u64(span, item.range.cols[1]);
        let col = k.mad_lo_u64(span, u64::from(COLS), k.mul_wide_u32(pieces.g, 8));
        let stride = k.shl_b64(low_rank.right_stride, 1);
        let first = k.offset(low_rank.right, k.shl_b64(col, 1));
        let start = k.mul_lo_u32(pieces.place[0], RANK);
        k.for_range(start, low_rank.rank, RANK * pieces.down, |step| {
            let at = k.mul_wide_u32(step, 2);
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
            for (&row, sums) in u_rows.iter().zip(sums) {
                let u = self.neighbours(row, at);
                for (j, &sum) in sums.iter().enumerate() {
                    self.add(sum, [left[2 * j], left[2 * j + 1], right[2 * j], right[2 * j + 1]], u);
                }
            }
        });
    }

    /// Four values of a row, or zeros.
    fn neighbours(&self, (from, inside): (Ptr<Global>, Reg<Pred>), at: Reg<B64>) -> [Reg<B32>; 2] {
        let k = self.k;
        let words = k.splat::<B32, 2>(0);
        k.to(words).when(inside).ld_global::<[B32; 2]>(k.offset(from, at));
        words
    }

    /// Adds the sums of the warps down, in order, and writes the tile.
    fn store(&self, item: &Item, sums: &Sums) {
        let (k, pieces, params, rows) = (self.k, &self.pieces, &self.params, 8 * self.spec.fragments);
        k.section("store");
        // Row 2t of the first eight, and after it row 2t + 1, which has the same places.
        let piece = k.mad_lo_u32(pieces.place[0], pieces.across, pieces.place[1]);
        let row = k.mad_lo_u32(piece, rows, k.shl_b32(pieces.t, 1));
        let place = self.place(k.shl_b32(pieces.t, 1));
        let to = [0u32, 4].map(|col| {
            let word = k.xor_b32(k.mad_lo_u32(pieces.g, 8, col), place);
            self.sums.element(k, k.mad_lo_u32(row, COLS, word))
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
                let from = self.sums.element(k, k.mad_lo_u32(piece, COLS, word));
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
        let k = self.k;
        let four = k.shl_b32(k.and_b32(row, 2), 1);
        k.or_b32(four, k.shl_b32(k.and_b32(row, 4), 2))
    }
}

/// Row, piece and unit within it of a thread's 16 bytes number `i` of a chunk of dY.
fn dy_unit(k: &Kernel, pieces: &Pieces<'_>, i: u32) -> [Reg<B32>; 3] {
    let at = k.add_u32(pieces.tid, i * THREADS);
    let row = k.shr_u32(at, (4 * pieces.down).trailing_zeros());
    [row, k.and_b32(k.shr_u32(at, 2), pieces.down - 1), k.and_b32(at, 3)]
}

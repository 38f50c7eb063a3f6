//! `dX = dY·W + U·A` on tensor cores: dY, U and A in bf16, W quantized, sums in f32, dX rounded once.
//!
//! In tiles as of [`super::mma_tile`], N is walked in chunks of 64 by a pipeline of `cp.async` stages: dY as it is, W as
//! packed codes, 64 rows of 128 columns. W's rows lie across the sum here, so that a column's constant changes from term to
//! term and cannot wait for the end: the block decodes a chunk into shared memory, value times constant rounded to bf16
//! once, and each warp takes its part transposed by `ldmatrix`.
//!
//! **Places.** A 16-byte unit u of row r of dY lies at `u ^ (r & 7)`, one of the decoded W at `u ^ (r & 7) ^ 2·(u >> 3)`: eight
//! rows' units, and the eight that neighbouring lanes write, fill all banks.
//!
//! **Traffic.** dY is read `⌈K/128⌉` times, W `⌈M/rows⌉` times; from L2, where the tiles of a column are made together.

use super::constants::{ConstantsParam, ConstantsSpec};
use super::decode::Half;
use super::dense::Dense;
use super::mma_tile::{ACROSS, COLS, MmaTile, Sums};
use super::table::Decoder;
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Pred, Ptr, Reg, Target, U8, U16};

/// Elements of N in a chunk.
pub const CHUNK: u32 = 64;
/// Ranks that the low-rank term may have: multiples of this.
pub const RANK: usize = 16;
/// Bytes of a chunk of a row of dY.
const DY_ROW: u32 = 2 * CHUNK;
/// Bytes of a tile's codes, and of its decoded values, in a row of W.
const CODES_ROW: u32 = COLS / 2;
const W_ROW: u32 = 2 * COLS;
/// Columns of a tile that share a constant.
pub const SPAN: u32 = 64;
/// Constants of a chunk.
const SCALES: u32 = CHUNK * COLS / SPAN;

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmMmaBackwardSpec {
    /// Rows of a tile: 32 or 64.
    pub rows: u32,
    /// The bits of each code's value.
    pub values: [u32; 16],
    /// A power of two from 64 to 4096.
    pub block_size: u32,
    /// How W's constants are stored.
    pub constants: ConstantsSpec,
    /// The type of dX.
    pub out: DType,
    /// Whether there is a low-rank term.
    pub low_rank: bool,
    /// Whether to add to what is there.
    pub accumulate: bool,
}

impl Spec for GemmMmaBackwardSpec {
    /// Parameters: dY, its row stride (u64); codes and constants; M, N, K (u64), N and K multiples of 64; with a low-rank
    /// term `U[M, rank]`, `A[rank, K]`, A's row stride (u64), rank (u32), a multiple of 16; dX and its row stride. dY and
    /// codes are aligned to 16 bytes, dY's rows too; U and its rows to 8. Any grid. Needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "gemm_mma_backward", THREADS, |k| Body::new(k, self).run())
    }
}

impl GemmMmaBackwardSpec {
    /// Chunks in shared memory at once: as many as 48 KB hold beside the decoded one.
    fn stages(&self) -> u32 {
        if self.rows > 32 { 2 } else { 3 }
    }
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmMmaBackwardSpec,
    dy: Ptr<Global>,
    dy_stride: Reg<B64>,
    codes: Ptr<Global>,
    constants: ConstantsParam,
    /// M, N, K.
    shape: [Reg<B64>; 3],
    low_rank: Option<LowRank>,
    out: Dense,
    pieces: Pieces,
    decoder: Decoder,
    tile: MmaTile<'k>,
}

/// `U·A`.
struct LowRank {
    u: Ptr<Global>,
    a: Ptr<Global>,
    a_stride: Reg<B64>,
    rank: Reg<B32>,
}

/// The stages of the pipeline, and the chunk that is multiplied.
struct Pieces {
    dy: Array<U8>,
    codes: Array<U8>,
    scales: Array<F32>,
    w: Array<U8>,
}

/// A thread's part in bringing the chunks of a tile.
struct Sources {
    /// 16 bytes of every 32nd row of dY, and how many of them exist: all or none.
    dy: Vec<(Ptr<Global>, Reg<B32>)>,
    /// 32 codes of a row of W.
    codes: (Ptr<Global>, Reg<B32>),
    /// The element of W whose constant this thread brings.
    element: Reg<B64>,
    has_scale: Reg<Pred>,
}

impl<'k> Body<'k> {
    fn new(k: &'k Kernel, spec: &'k GemmMmaBackwardSpec) -> Self {
        let (dy, dy_stride) = (k.param_ptr("dy"), k.param_u64("dy_stride"));
        let codes = k.param_ptr("codes");
        let constants = ConstantsParam::new(k, &spec.constants);
        let shape = ["m", "n", "k"].map(|name| k.param_u64(name));
        let low_rank = spec.low_rank.then(|| LowRank {
            u: k.param_ptr("u"),
            a: k.param_ptr("a"),
            a_stride: k.param_u64("a_stride"),
            rank: k.param_u32("rank"),
        });
        let out = Dense { dtype: spec.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };
        let stages = spec.stages();
        let pieces = Pieces {
            dy: k.shared_aligned::<U8>("dy_pieces", (stages * spec.rows * DY_ROW) as usize, 128),
            codes: k.shared_aligned::<U8>("code_pieces", (stages * CHUNK * CODES_ROW) as usize, 128),
            scales: k.shared::<F32>("scales", (stages * SCALES) as usize),
            w: k.shared_aligned::<U8>("w", (CHUNK * W_ROW) as usize, 128),
        };
        let decoder = Decoder::new(k, spec.values.map(f32::from_bits), THREADS);
        k.bar_sync(0);
        let tile = MmaTile::new(k, spec.rows);
        Self { k, spec, dy, dy_stride, codes, constants, shape, low_rank, out, pieces, decoder, tile }
    }

    fn run(&self) {
        let (k, [m, n, cols]) = (self.k, self.shape);
        let chunks = k.cvt_u32_u64(k.shr_u64(n, CHUNK.trailing_zeros()));
        self.tile.for_each([m, cols], |origin| {
            let sums = self.multiply(origin, chunks);
            if let Some(low_rank) = &self.low_rank {
                self.add_low_rank(low_rank, origin, &sums);
            }
            self.tile.store(&self.out, None, self.spec.accumulate, [m, cols], origin, &sums);
        });
    }

    /// The sums of a tile: fragment after fragment, across first.
    fn multiply(&self, origin: [Reg<B64>; 2], chunks: Reg<B32>) -> Vec<Sums> {
        let (k, stages) = (self.k, self.spec.stages());
        k.section("fill the pipeline");
        let sources = self.sources(origin);
        let sums = self.tile.zeros();
        for stage in 0..stages - 1 {
            let exists = k.setp_lt_u32(stage, chunks);
            let scale = self.bring(&sources, k.mov(stage), k.mov(stage), exists);
            self.bring_scale(scale, k.mov(stage), exists);
        }
        k.section("chunk after chunk");
        let (chunk, slot) = (k.mov::<B32>(0), k.mov::<B32>(0));
        let (next, next_slot) = (k.mov::<B32>(stages - 1), k.mov::<B32>(stages - 1));
        let after = |slot| {
            let following = k.add_u32(slot, 1);
            k.selp_b32(0, following, k.setp_eq_u32(following, stages))
        };
        k.while_(
            || k.setp_lt_u32(chunk, chunks),
            || {
                k.cp_async_wait_group(stages - 2);
                k.bar_sync(0);
                let exists = k.setp_lt_u32(next, chunks);
                let scale = self.bring(&sources, next, next_slot, exists);
                self.decode(slot);
                k.bar_sync(0);
                self.multiply_chunk(slot, &sums);
                self.bring_scale(scale, next_slot, exists);
                for at in [chunk, next] {
                    k.to(at).add_u32(at, 1);
                }
                k.to(slot).mov(after(slot));
                k.to(next_slot).mov(after(next_slot));
            },
        );
        // The next tile fills the stages anew.
        k.cp_async_wait_all();
        k.bar_sync(0);
        sums
    }

    fn sources(&self, [row0, col0]: [Reg<B64>; 2]) -> Sources {
        let (k, tid, [m, _, cols]) = (self.k, self.tile.tid, self.shape);
        let dy = (0..self.spec.rows / 32)
            .map(|i| {
                let (row, bytes, _) = self.tile.inside(row0, k.add_u32(k.shr_u32(tid, 3), 32 * i), m);
                let from = k.offset(self.dy, k.shl_b64(k.mul_lo_u64(row, self.dy_stride), 1));
                (k.offset(from, k.cvt_u64_u32(k.shl_b32(k.and_b32(tid, 7), 4))), bytes)
            })
            .collect();
        let at = |row: Reg<B32>, col: Reg<B64>| k.mad_lo_u64(k.cvt_u64_u32(row), cols, col);
        let (col, bytes, _) = self.tile.inside(col0, k.shl_b32(k.and_b32(tid, 3), 5), cols);
        let codes = (k.offset(self.codes, k.shr_u64(at(k.shr_u32(tid, 2), col), 1)), bytes);
        let (col, _, inside) = self.tile.inside(col0, k.mul_lo_u32(k.and_b32(tid, 1), SPAN), cols);
        let has_scale = k.and_pred(inside, k.setp_lt_u32(tid, SCALES));
        Sources { dy, codes, element: at(k.shr_u32(tid, 1), col), has_scale }
    }

    /// Starts the copies of a chunk, as one group, and loads the constant that this thread is to bring.
    fn bring(&self, sources: &Sources, chunk: Reg<B32>, slot: Reg<B32>, exists: Reg<Pred>) -> Reg<F32> {
        let (k, tid) = (self.k, self.tile.tid);
        let scale = k.var_f32(0.0);
        k.if_then(exists, || {
            let (row, unit) = (k.shr_u32(tid, 3), k.and_b32(tid, 7));
            let place = k.shl_b32(k.xor_b32(unit, k.and_b32(row, 7)), 4);
            let to = k.element(self.pieces.dy.ptr(k), k.mad_lo_u32(row, DY_ROW, place), 1);
            let to = k.element(to, slot, self.spec.rows * DY_ROW);
            let along = k.mul_wide_u32(chunk, DY_ROW);
            for (i, (from, bytes)) in (0..).zip(&sources.dy) {
                k.cp_async_cg_16_zfill(to.at((32 * i * DY_ROW) as i32), k.offset(*from, along), *bytes);
            }
            let to = k.element(self.pieces.codes.ptr(k), tid, 16);
            let to = k.element(to, slot, CHUNK * CODES_ROW);
            let elements = k.mul_lo_u64(k.mul_wide_u32(chunk, CHUNK), self.shape[2]);
            let (from, bytes) = sources.codes;
            k.cp_async_cg_16_zfill(to, k.offset(from, k.shr_u64(elements, 1)), bytes);
            k.if_then(sources.has_scale, || {
                let element = k.add_u64(sources.element, elements);
                let block = k.shr_u64(element, self.spec.block_size.trailing_zeros());
                k.to(scale).mov(self.constants.load(k, block));
            });
        });
        k.cp_async_commit_group();
        scale
    }

    /// Puts a constant where the chunk's decoding finds it; 0 for columns outside.
    fn bring_scale(&self, scale: Reg<F32>, slot: Reg<B32>, exists: Reg<Pred>) {
        let k = self.k;
        let brings = k.and_pred(exists, k.setp_lt_u32(self.tile.tid, SCALES));
        let to = k.element(k.element(self.pieces.scales.ptr(k), self.tile.tid, 4), slot, 4 * SCALES);
        k.when(brings).st_shared::<F32>(to, scale);
    }

    /// Decodes a chunk: 32 values a thread.
    fn decode(&self, slot: Reg<B32>) {
        let (k, tid) = (self.k, self.tile.tid);
        k.comment("decode: value times constant, rounded once");
        let from = k.element(self.pieces.codes.ptr(k), tid, 16);
        let words = k.ld_shared::<[B32; 4]>(k.element(from, slot, CHUNK * CODES_ROW));
        let scale = k.element(self.pieces.scales.ptr(k), k.shr_u32(tid, 1), 4);
        let scale = k.ld_shared::<F32>(k.element(scale, slot, 4 * SCALES));
        let (row, quarter) = (k.shr_u32(tid, 2), k.and_b32(tid, 3));
        let to = k.element(self.pieces.w.ptr(k), row, W_ROW);
        let swizzle = self.swizzle(row, k.shr_u32(quarter, 1));
        for (unit, word) in (0..).zip(words) {
            let values: Vec<_> = self.decoder.unpack(k, word, 8);
            let pair = |i: usize| {
                let [low, high] = [0, 1].map(|odd| k.mul_rn_f32(values[2 * i + odd], scale));
                k.cvt_rn_bf16x2_f32(high, low).as_b32()
            };
            let place = k.xor_b32(k.mad_lo_u32(quarter, 4, unit), swizzle);
            k.st_shared::<[B32; 4]>(k.element(to, place, 16), std::array::from_fn(pair));
        }
    }

    /// What a unit's number in a row of the decoded chunk is mixed with; `half` is the half of the row.
    fn swizzle(&self, row: Reg<B32>, half: Reg<B32>) -> Reg<B32> {
        let k = self.k;
        k.xor_b32(k.and_b32(row, 7), k.shl_b32(half, 1))
    }

    /// Adds the products of a chunk.
    fn multiply_chunk(&self, slot: Reg<B32>, sums: &[Sums]) {
        let (k, tile, [row, col]) = (self.k, &self.tile, self.tile.corner);
        // Lanes 8i to 8i + 7 give the rows of matrix i of four: 8 rows further down, or 8 columns to the right.
        let (below, right) = (k.and_b32(tile.lane, 15), k.shr_u32(tile.lane, 4));
        let dy = k.element(self.pieces.dy.ptr(k), slot, self.spec.rows * DY_ROW);
        let dy = k.element(dy, k.add_u32(row, below), DY_ROW);
        let dy_place = k.xor_b32(right, k.and_b32(below, 7));
        let w = k.element(self.pieces.w.ptr(k), below, W_ROW);
        let unit = k.add_u32(k.shr_u32(col, 3), right);
        let w_place = k.xor_b32(unit, self.swizzle(below, k.shr_u32(unit, 3)));
        for step in 0..CHUNK / 16 {
            k.comment("sixteen rows of W");
            let from = k.element(dy, k.xor_b32(dy_place, 2 * step), 16);
            let a: Vec<_> =
                (0..tile.down()).map(|i| k.ldmatrix_x4(from.at((16 * i * DY_ROW) as i32))).collect();
            for pair in 0..ACROSS / 2 {
                let from = k.element(w, k.xor_b32(w_place, 2 * pair), 16);
                let b = k.ldmatrix_x4_trans(from.at((16 * step * W_ROW) as i32));
                for (i, &a) in (0..).zip(&a) {
                    for odd in 0..2 {
                        let sum = sums[(i * ACROSS + 2 * pair + odd) as usize];
                        let b = [b[2 * odd as usize], b[2 * odd as usize + 1]];
                        self.add(sum, a, b);
                    }
                }
            }
        }
    }

    fn add(&self, sum: Sums, a: [Reg<B32>; 4], b: [Reg<B32>; 2]) {
        let added = Half::Bf16.multiply(self.k, a, b, sum);
        sum.into_iter().zip(added).for_each(|(sum, added)| self.k.to(sum).mov(added));
    }

    /// Adds `U·A`, straight from global memory: it is little and read once a tile. Of 16 terms lane `t` of four takes the
    /// neighbours `4t … 4t + 3`, on both sides.
    fn add_low_rank(&self, low_rank: &LowRank, [row0, col0]: [Reg<B64>; 2], sums: &[Sums]) {
        let (k, tile, [m, _, cols]) = (self.k, &self.tile, self.shape);
        k.section("the low-rank term");
        let ([row, col], rank) = (tile.corner, k.cvt_u64_u32(low_rank.rank));
        let u_rows = tile.fragment_rows(low_rank.u, rank, [row0, m], row, 2 * tile.down());
        let stride = k.shl_b64(low_rank.a_stride, 1);
        let first = k.offset(low_rank.a, k.mul_lo_u64(k.mul_wide_u32(tile.t, 4), stride));
        let columns: Vec<(Ptr<Global>, Reg<Pred>)> = (0..ACROSS)
            .map(|j| {
                let within = k.add_u32(col, k.add_u32(tile.g, 8 * j));
                let at = k.add_u64(col0, k.cvt_u64_u32(within));
                (k.offset(first, k.shl_b64(at, 1)), k.setp_lt_u64(at, cols))
            })
            .collect();
        k.for_range(0, low_rank.rank, RANK as u32, |step| {
            let at = k.mul_wide_u32(step, 2);
            let u: Vec<_> = u_rows
                .iter()
                .map(|&(from, inside)| {
                    let words = k.splat::<B32, 2>(0);
                    k.to(words).when(inside).ld_global::<[B32; 2]>(k.offset(from, at));
                    words
                })
                .collect();
            let down = k.mul_lo_u64(k.cvt_u64_u32(step), stride);
            for (j, &(from, inside)) in columns.iter().enumerate() {
                let mut from = k.offset(from, down);
                let [first, second, third, fourth] = std::array::from_fn(|_| {
                    let value = k.mov::<B32>(0);
                    k.to(value).when(inside).ld_global::<U16>(from);
                    from = k.offset(from, stride);
                    value
                });
                let pair = |low, high| k.prmt_b32(low, high, 0x5410);
                let b = [pair(first, second), pair(third, fourth)];
                for i in 0..tile.down() as usize {
                    let (upper, lower) = (u[2 * i], u[2 * i + 1]);
                    let a = [upper[0], lower[0], upper[1], lower[1]];
                    self.add(sums[i * ACROSS as usize + j], a, b);
                }
            }
        });
    }
}

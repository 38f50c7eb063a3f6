//! `Y = X·Wᵀ + bias + T·Bᵀ` on tensor cores: X in 16 bits, W quantized, sums in f32, Y rounded once.
//!
//! In tiles as of [`super::mma_tile`], K is walked in chunks of 64, inside which no quantization block ends, by a pipeline
//! of `cp.async` stages: X as it is, W as packed codes. Each warp decodes the codes of its 32 columns of Y in registers and
//! uses them for all its rows.
//!
//! **Order of k.** A sum does not care for the order of its terms, so both operands use the same permutation of a chunk:
//! lane `t` of four takes the codes `16t … 16t + 15`, which are 8 consecutive bytes of a row of W, of them `4s … 4s + 3` in
//! step s of four. Its fragments then hold neighbours, and X is read from shared memory 16 bytes at a time.
//!
//! **Scale.** The codebook's 16 values are rounded to X's type; the products of a chunk are summed by themselves and then
//! multiplied by the constant, in f32: no rounding of value times constant.
//!
//! **Traffic.** X is read `⌈N/128⌉` times, W `⌈M/rows⌉` times; from L2, where the tiles of a column are made together.

use super::constants::{ConstantsParam, ConstantsSpec};
use super::decode::{Half, PairDecoder};
use super::dense::Dense;
use super::mma_tile::{ACROSS, COLS, MmaTile, Sums};
use super::tile::THREADS;
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Pred, Ptr, Reg, Target, U8};

/// Elements of K in a chunk.
pub const CHUNK: u32 = 64;
/// Ranks that the low-rank term may have: multiples of this.
pub const RANK: usize = 16;
/// Bytes of a chunk of a row of X.
const X_ROW: u32 = 2 * CHUNK;
/// Bytes of a chunk of a row of W's codes.
const W_ROW: u32 = CHUNK / 2;

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmMmaSpec {
    /// The type of X, of the decoded W, of T and of B.
    pub half: Half,
    /// Rows of a tile: 32, 64 or 128.
    pub rows: u32,
    /// The bits of each code's value.
    pub values: [u32; 16],
    /// A power of two from 64 to 4096.
    pub block_size: u32,
    /// How W's constants are stored.
    pub constants: ConstantsSpec,
    /// The type of Y.
    pub out: DType,
    /// The type of the bias, a row of N elements, if there is one.
    pub bias: Option<DType>,
    /// Whether there is a low-rank term.
    pub low_rank: bool,
}

impl Spec for GemmMmaSpec {
    /// Parameters: X, its row stride (u64); codes and constants; M, N, K (u64), K a multiple of 64; with a low-rank term
    /// `T[M, rank]`, `B[N, rank]`, B's row stride (u64), rank (u32), a multiple of 16; the bias if there is one; Y and its
    /// row stride. X and codes are aligned to 16 bytes, X's rows too; T, B and their rows to 8. Any grid. Needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "gemm_mma", THREADS, |k| Body::new(k, self).run())
    }
}

impl GemmMmaSpec {
    /// Chunks in shared memory at once: as many as 48 KB hold.
    fn stages(&self) -> u32 {
        if self.rows > 64 { 2 } else { 3 }
    }
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmMmaSpec,
    x: Ptr<Global>,
    x_stride: Reg<B64>,
    codes: Ptr<Global>,
    constants: ConstantsParam,
    /// M, N, K.
    shape: [Reg<B64>; 3],
    low_rank: Option<LowRank>,
    bias: Option<Dense>,
    out: Dense,
    pieces: Pieces,
    decoder: PairDecoder,
    tile: MmaTile<'k>,
}

/// `T·Bᵀ`.
struct LowRank {
    t: Ptr<Global>,
    b: Ptr<Global>,
    b_stride: Reg<B64>,
    rank: Reg<B32>,
}

/// The stages of the pipeline.
struct Pieces {
    x: Array<U8>,
    w: Array<U8>,
    scales: Array<F32>,
}

/// A thread's part in bringing the chunks of a tile.
struct Sources {
    /// 16 bytes of every 32nd row of X, and how many of them exist: all or none.
    x: Vec<(Ptr<Global>, Reg<B32>)>,
    /// 16 bytes of a row of codes.
    w: (Ptr<Global>, Reg<B32>),
    /// The element of W at the start of the row whose constant this thread brings.
    row: Reg<B64>,
    has_scale: Reg<Pred>,
}

impl<'k> Body<'k> {
    fn new(k: &'k Kernel, spec: &'k GemmMmaSpec) -> Self {
        let (x, x_stride) = (k.param_ptr("x"), k.param_u64("x_stride"));
        let codes = k.param_ptr("codes");
        let constants = ConstantsParam::new(k, &spec.constants);
        let shape = ["m", "n", "k"].map(|name| k.param_u64(name));
        let low_rank = spec.low_rank.then(|| LowRank {
            t: k.param_ptr("t"),
            b: k.param_ptr("b"),
            b_stride: k.param_u64("b_stride"),
            rank: k.param_u32("rank"),
        });
        let bias = spec.bias.map(|dtype| Dense { dtype, base: k.param_ptr("bias"), stride: k.mov(0) });
        let out = Dense { dtype: spec.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };
        let stages = spec.stages();
        let pieces = Pieces {
            x: k.shared_aligned::<U8>("x_pieces", (stages * spec.rows * X_ROW) as usize, 128),
            w: k.shared_aligned::<U8>("w_pieces", (stages * COLS * W_ROW) as usize, 128),
            scales: k.shared::<F32>("scales", (stages * COLS) as usize),
        };
        let decoder = PairDecoder::new(k, spec.half, spec.values.map(f32::from_bits));
        k.bar_sync(0);
        let tile = MmaTile::new(k, spec.rows);
        Self { k, spec, x, x_stride, codes, constants, shape, low_rank, bias, out, pieces, decoder, tile }
    }

    fn run(&self) {
        let (k, [m, n, inner]) = (self.k, self.shape);
        let chunks = k.cvt_u32_u64(k.shr_u64(inner, CHUNK.trailing_zeros()));
        self.tile.for_each([m, n], |origin| {
            let sums = self.multiply(origin, chunks);
            if let Some(low_rank) = &self.low_rank {
                self.add_low_rank(low_rank, origin, &sums);
            }
            self.tile.store(&self.out, self.bias.as_ref(), false, [m, n], origin, &sums);
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
                self.multiply_chunk(slot, &sums);
                self.bring_scale(scale, next_slot, exists);
                for (at, step) in [(chunk, 1u32), (next, 1)] {
                    k.to(at).add_u32(at, step);
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
        let (k, [m, n, inner]) = (self.k, self.shape);
        let inside = |first, row, end| self.tile.inside(first, row, end);
        let x = (0..self.spec.rows / 32)
            .map(|i| {
                let (row, bytes, _) = inside(row0, k.add_u32(k.shr_u32(self.tile.tid, 3), 32 * i), m);
                let from = k.offset(self.x, k.shl_b64(k.mul_lo_u64(row, self.x_stride), 1));
                (k.offset(from, k.cvt_u64_u32(k.shl_b32(k.and_b32(self.tile.tid, 7), 4))), bytes)
            })
            .collect();
        let (row, bytes, _) = inside(col0, k.shr_u32(self.tile.tid, 1), n);
        let from = k.offset(self.codes, k.shr_u64(k.mul_lo_u64(row, inner), 1));
        let w = (k.offset(from, k.cvt_u64_u32(k.shl_b32(k.and_b32(self.tile.tid, 1), 4))), bytes);
        let (row, _, inside) = inside(col0, self.tile.tid, n);
        let has_scale = k.and_pred(inside, k.setp_lt_u32(self.tile.tid, COLS));
        Sources { x, w, row: k.mul_lo_u64(row, inner), has_scale }
    }

    /// Starts the copies of a chunk, as one group, and loads the constant that this thread is to bring.
    fn bring(&self, sources: &Sources, chunk: Reg<B32>, slot: Reg<B32>, exists: Reg<Pred>) -> Reg<F32> {
        let k = self.k;
        let scale = k.var_f32(0.0);
        k.if_then(exists, || {
            // A 16-byte unit u of row r lies at u ^ (r & 7): eight rows' units fill all banks.
            let (row, unit) = (k.shr_u32(self.tile.tid, 3), k.and_b32(self.tile.tid, 7));
            let place = k.shl_b32(k.xor_b32(unit, k.and_b32(row, 7)), 4);
            let to = k.element(self.pieces.x.ptr(k), k.mad_lo_u32(row, X_ROW, place), 1);
            let to = k.element(to, slot, self.spec.rows * X_ROW);
            let along = k.mul_wide_u32(chunk, X_ROW);
            for (i, (from, bytes)) in (0..).zip(&sources.x) {
                k.cp_async_cg_16_zfill(to.at((32 * i * X_ROW) as i32), k.offset(*from, along), *bytes);
            }
            let to = k.element(self.pieces.w.ptr(k), self.tile.tid, 16);
            let to = k.element(to, slot, COLS * W_ROW);
            let (from, bytes) = sources.w;
            k.cp_async_cg_16_zfill(to, k.offset(from, k.mul_wide_u32(chunk, W_ROW)), bytes);
            k.if_then(sources.has_scale, || {
                let element = k.add_u64(sources.row, k.mul_wide_u32(chunk, CHUNK));
                let block = k.shr_u64(element, self.spec.block_size.trailing_zeros());
                k.to(scale).mov(self.constants.load(k, block));
            });
        });
        k.cp_async_commit_group();
        scale
    }

    /// Puts a constant where the chunk's products find it; 0 for columns outside.
    fn bring_scale(&self, scale: Reg<F32>, slot: Reg<B32>, exists: Reg<Pred>) {
        let k = self.k;
        let brings = k.and_pred(exists, k.setp_lt_u32(self.tile.tid, COLS));
        let to = k.element(k.element(self.pieces.scales.ptr(k), self.tile.tid, 4), slot, 4 * COLS);
        k.when(brings).st_shared::<F32>(to, scale);
    }

    /// Adds the products of a chunk.
    fn multiply_chunk(&self, slot: Reg<B32>, sums: &[Sums]) {
        let (k, [row, col], half) = (self.k, self.tile.corner, self.spec.half);
        k.comment("X: two rows of each fragment, 16 neighbours a lane");
        let rows = k.element(self.pieces.x.ptr(k), slot, self.spec.rows * X_ROW);
        let rows = k.element(rows, k.add_u32(row, self.tile.g), X_ROW);
        let a: Vec<[[[Reg<B32>; 4]; 2]; 2]> = (0..self.tile.down())
            .map(|i| {
                std::array::from_fn(|lower| {
                    std::array::from_fn(|h| {
                        let unit = k.xor_b32(k.mad_lo_u32(self.tile.t, 2, h as u32), self.tile.g);
                        let from = k.element(rows, unit, 16);
                        k.ld_shared::<[B32; 4]>(from.at(((16 * i + 8 * lower as u32) * X_ROW) as i32))
                    })
                })
            })
            .collect();
        let codes = k.element(self.pieces.w.ptr(k), slot, COLS * W_ROW);
        let codes = k.element(k.element(codes, k.add_u32(col, self.tile.g), W_ROW), self.tile.t, 8);
        let scales = k.element(self.pieces.scales.ptr(k), slot, 4 * COLS);
        let scales = k.element(k.element(scales, col, 4), self.tile.t, 8);
        let zeros = k.splat::<F32, 4>(0.0);
        for j in 0..ACROSS {
            k.comment("decode eight columns, multiply, scale");
            let words = k.ld_shared::<[B32; 2]>(codes.at((8 * j * W_ROW) as i32));
            let b: Vec<_> = words.into_iter().flat_map(|word| self.decoder.pairs(k, word)).collect();
            let scale = k.ld_shared::<[F32; 2]>(scales.at((8 * j * 4) as i32));
            for (i, a) in (0..).zip(&a) {
                let product = (0..4usize).fold(zeros, |sum, step| {
                    let (h, at) = (step / 2, 2 * (step % 2));
                    let fragment = [a[0][h][at], a[1][h][at], a[0][h][at + 1], a[1][h][at + 1]];
                    half.multiply(k, fragment, [b[2 * step], b[2 * step + 1]], sum)
                });
                for (q, sum) in sums[(i * ACROSS + j) as usize].into_iter().enumerate() {
                    k.to(sum).fma_rn_f32(product[q], scale[q % 2], sum);
                }
            }
        }
    }

    /// Adds `T·Bᵀ`, straight from global memory: it is little and read once a tile.
    fn add_low_rank(&self, low_rank: &LowRank, [row0, col0]: [Reg<B64>; 2], sums: &[Sums]) {
        let (k, [m, n, _], half) = (self.k, self.shape, self.spec.half);
        k.section("the low-rank term");
        let rank = k.cvt_u64_u32(low_rank.rank);
        let ([row, col], tile) = (self.tile.corner, &self.tile);
        let t_rows = tile.fragment_rows(low_rank.t, rank, [row0, m], row, 2 * tile.down());
        let b_rows = tile.fragment_rows(low_rank.b, low_rank.b_stride, [col0, n], col, ACROSS);
        let load = |(from, inside): (Ptr<Global>, Reg<Pred>), at: Reg<B64>| {
            let words = k.splat::<B32, 2>(0);
            k.to(words).when(inside).ld_global::<[B32; 2]>(k.offset(from, at));
            words
        };
        k.for_range(0, low_rank.rank, RANK as u32, |step| {
            let at = k.mul_wide_u32(step, 2);
            let t: Vec<_> = t_rows.iter().map(|&row| load(row, at)).collect();
            for (j, &b_row) in b_rows.iter().enumerate() {
                let b = load(b_row, at);
                for i in 0..self.tile.down() as usize {
                    let sum = sums[i * ACROSS as usize + j];
                    let (upper, lower) = (t[2 * i], t[2 * i + 1]);
                    let added = half.multiply(k, [upper[0], lower[0], upper[1], lower[1]], b, sum);
                    sum.into_iter().zip(added).for_each(|(sum, added)| k.to(sum).mov(added));
                }
            }
        });
    }
}

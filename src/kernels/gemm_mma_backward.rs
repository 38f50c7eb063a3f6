//! `dX = dY·W + U·A` on tensor cores: dY, U and A in 16 bits, W quantized, sums in f32, dX rounded once.
//!
//! In tiles as of [`super::mma_tile`], N is walked in chunks of 64 through a ring in shared memory: dY as it is, W as packed
//! codes, 64 rows of 128 columns. W's rows lie across the sum here, so that a column's constant changes from term to
//! term and cannot wait for the end: the block decodes a chunk into shared memory, value times constant rounded once, and
//! each warp takes its part transposed by `ldmatrix`. Tiles of 128 rows decode a chunk while they multiply the one before;
//! smaller ones leave that to a second block on the SM.
//!
//! **f16** does not hold every weight. There the chunk's constants are divided by the power of two at the largest of them,
//! and its products, summed by themselves, multiplied by it: both exact. What rounding is left is within 2⁻²⁵ of the largest
//! constant of the chunk, or within f16's unit roundoff of the weight.
//!
//! **Places.** A 16-byte unit u of row r of dY lies at `u ^ (r & 7)`, one of the decoded W at `u ^ (r & 7) ^ 2·(u >> 3)`: eight
//! rows' units, and the eight that neighbouring lanes write, fill all banks.
//!
//! **Traffic.** dY is read `⌈K/128⌉` times, W `⌈M/rows⌉` times; from L2, where the tiles of a group are made together.

use super::decode::Half;
use super::mma_tile::{ACROSS, COLS, MmaTile, Sums};
use super::product::{LowRank, ProductParams, ProductSpec, RANK};
use super::ring::{Batch, Ring};
use super::table::Decoder;
use super::tile::THREADS;
use super::{Spec, Written, dynamic_module};
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Pred, Ptr, Reg, Target, U8, U16};

/// Elements of N in a chunk.
pub const CHUNK: u32 = 64;
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
    /// Rows of a tile: 32, 64 or 128; before sm_80 no more than 64.
    pub rows: u32,
    /// What is multiplied.
    pub product: ProductSpec,
}

impl Spec for GemmMmaBackwardSpec {
    /// Parameters: [`ProductParams`] of dY, `U[M, rank]`, `A[rank, K]` and dX. N and K are multiples of 64. dY and codes are
    /// aligned to 16 bytes, dY's rows too; U and its rows to 8. Any grid. bf16 needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_mma_backward", THREADS, |k| {
            let (body, shared) = Body::new(k, self);
            body.run();
            shared
        })
    }
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmMmaBackwardSpec,
    params: ProductParams,
    ring: Ring<'k>,
    pieces: Pieces,
    decoder: Decoder,
    tile: MmaTile<'k>,
}

/// The slots of the ring, and decoded chunks: one, or two that take turns.
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
    /// And the bytes of dynamic shared memory: 93.5 KB for 128 rows, 41 for 64, 40.5 for 32.
    fn new(k: &'k Kernel, spec: &'k GemmMmaBackwardSpec) -> (Self, usize) {
        let params = ProductParams::new(k, &spec.product);
        let (stages, lag) = match spec.rows {
            32 => (3, 0),
            64 => (2, 0),
            _ => (3, 1),
        };
        let mut shared = k.dynamic_shared(128);
        let pieces = Pieces {
            dy: shared.array_aligned((stages * spec.rows * DY_ROW) as usize, 128),
            codes: shared.array_aligned((stages * CHUNK * CODES_ROW) as usize, 128),
            scales: shared.array((stages * SCALES) as usize),
            w: shared.array_aligned(((1 + lag) * CHUNK * W_ROW) as usize, 128),
        };
        let decoder = Decoder::new(k, spec.product.values.map(f32::from_bits), THREADS);
        k.bar_sync(0);
        let blocks = match spec.rows {
            32 => 2,
            64 if spec.product.half == Half::Bf16 => 2,
            _ => 1,
        };
        let (ring, tile) = (Ring::new(k, stages, lag), MmaTile::new(k, spec.rows, blocks));
        (Self { k, spec, params, ring, pieces, decoder, tile }, shared.bytes())
    }

    fn run(&self) {
        let (k, [m, n, cols]) = (self.k, self.params.shape);
        let chunks = k.cvt_u32_u64(k.shr_u64(n, CHUNK.trailing_zeros()));
        self.tile.for_each([m, cols], |origin| {
            let (sources, sums) = (self.sources(origin), self.tile.zeros());
            self.multiply(&sources, chunks, &sums);
            if let Some(low_rank) = &self.params.low_rank {
                self.add_low_rank(low_rank, origin, &sums);
            }
            self.tile.store(&self.params, self.spec.product.accumulate, [m, cols], origin, &sums);
        });
    }

    /// Adds the products of all chunks.
    fn multiply(&self, sources: &Sources, chunks: Reg<B32>, sums: &[Sums]) {
        let k = self.k;
        let bring = |batch: &Batch<'k>, chunk, slot| self.bring(sources, batch, chunk, slot);
        if self.ring.lag == 0 {
            return self.ring.for_each(chunks, bring, |_, slot| {
                self.decode(slot, k.mov(0));
                k.bar_sync(0);
                self.multiply_chunk(slot, k.mov(0), sums);
            });
        }
        let last = k.mov::<B32>(0);
        self.ring.for_each(chunks, bring, |chunk, slot| {
            let turn = k.and_b32(chunk, 1);
            self.decode(slot, turn);
            k.if_then(k.setp_ne_u32(chunk, 0), || {
                self.multiply_chunk(self.ring.before(slot), k.xor_b32(turn, 1), sums);
            });
            k.to(last).mov(slot);
        });
        // The ring's end is a barrier: the last chunk is decoded.
        k.if_then(k.setp_ne_u32(chunks, 0), || {
            let turn = k.and_b32(k.sub_u32(chunks, 1), 1);
            self.multiply_chunk(last, turn, sums);
        });
        k.bar_sync(0);
    }

    fn sources(&self, [row0, col0]: [Reg<B64>; 2]) -> Sources {
        let (k, tid, params) = (self.k, self.tile.tid, &self.params);
        let [m, _, cols] = params.shape;
        let dy = (0..self.spec.rows / 32)
            .map(|i| {
                let (row, bytes, _) = self.tile.inside(row0, k.add_u32(k.shr_u32(tid, 3), 32 * i), m);
                let from = k.offset(params.left, k.shl_b64(k.mul_lo_u64(row, params.left_stride), 1));
                (k.offset(from, k.cvt_u64_u32(k.shl_b32(k.and_b32(tid, 7), 4))), bytes)
            })
            .collect();
        let at = |row: Reg<B32>, col: Reg<B64>| k.mad_lo_u64(k.cvt_u64_u32(row), cols, col);
        let (col, bytes, _) = self.tile.inside(col0, k.shl_b32(k.and_b32(tid, 3), 5), cols);
        let codes = (k.offset(params.codes, k.shr_u64(at(k.shr_u32(tid, 2), col), 1)), bytes);
        let (col, _, inside) = self.tile.inside(col0, k.mul_lo_u32(k.and_b32(tid, 1), SPAN), cols);
        let has_scale = k.and_pred(inside, k.setp_lt_u32(tid, SCALES));
        Sources { dy, codes, element: at(k.shr_u32(tid, 1), col), has_scale }
    }

    /// Starts to bring a chunk: dY, codes, and a constant, which is 0 for columns outside.
    fn bring(&self, sources: &Sources, batch: &Batch<'_>, chunk: Reg<B32>, slot: Reg<B32>) {
        let (k, tid) = (self.k, self.tile.tid);
        let (row, unit) = (k.shr_u32(tid, 3), k.and_b32(tid, 7));
        let place = k.shl_b32(k.xor_b32(unit, k.and_b32(row, 7)), 4);
        let to = k.element(self.pieces.dy.ptr(k), k.mad_lo_u32(row, DY_ROW, place), 1);
        let to = k.element(to, slot, self.spec.rows * DY_ROW);
        let along = k.mul_wide_u32(chunk, DY_ROW);
        for (i, (from, bytes)) in (0..).zip(&sources.dy) {
            batch.copy(to.at((32 * i * DY_ROW) as i32), k.offset(*from, along), *bytes);
        }
        let to = k.element(self.pieces.codes.ptr(k), tid, 16);
        let to = k.element(to, slot, CHUNK * CODES_ROW);
        let elements = k.mul_lo_u64(k.mul_wide_u32(chunk, CHUNK), self.params.shape[2]);
        let (from, bytes) = sources.codes;
        batch.copy(to, k.offset(from, k.shr_u64(elements, 1)), bytes);
        let scale = k.var_f32(0.0);
        k.if_then(sources.has_scale, || {
            let element = k.add_u64(sources.element, elements);
            let block = k.shr_u64(element, self.spec.product.block_size.trailing_zeros());
            k.to(scale).mov(self.params.constants.load(k, block));
        });
        let to = k.element(k.element(self.pieces.scales.ptr(k), tid, 4), slot, 4 * SCALES);
        batch.put(to, scale, k.setp_lt_u32(tid, SCALES));
    }

    /// The power of two at the largest finite constant of a chunk, between 2⁻¹²⁶ and 2¹²⁶, and its reciprocal.
    fn power(&self, slot: Reg<B32>) -> [Reg<F32>; 2] {
        let k = self.k;
        let from = k.element(self.pieces.scales.ptr(k), self.tile.lane, 16);
        let scales = k.ld_shared::<[F32; 4]>(k.element(from, slot, 4 * SCALES));
        let exponent = |scale: Reg<F32>| {
            let exponent = k.and_b32(k.f32_to_bits(scale), 0x7f80_0000);
            k.selp_b32(0, exponent, k.setp_eq_u32(exponent, 0x7f80_0000))
        };
        let mut top = scales.map(exponent).into_iter().reduce(|a, b| k.max_u32(a, b)).expect("four");
        for apart in [16, 8, 4, 2, 1] {
            top = k.max_u32(top, k.shfl_bfly_b32(top, apart, 31, u32::MAX));
        }
        let top = k.min_u32(k.max_u32(top, 1u32 << 23), 253u32 << 23);
        [k.f32_from_bits(top), k.f32_from_bits(k.sub_u32(254u32 << 23, top))]
    }

    /// Decodes a chunk: 32 values a thread.
    fn decode(&self, slot: Reg<B32>, turn: Reg<B32>) {
        let (k, tid, half) = (self.k, self.tile.tid, self.spec.product.half);
        k.comment("decode: value times constant, rounded once");
        let from = k.element(self.pieces.codes.ptr(k), tid, 16);
        let words = k.ld_shared::<[B32; 4]>(k.element(from, slot, CHUNK * CODES_ROW));
        let scale = k.element(self.pieces.scales.ptr(k), k.shr_u32(tid, 1), 4);
        let mut scale = k.ld_shared::<F32>(k.element(scale, slot, 4 * SCALES));
        if half == Half::F16 {
            let [_, reciprocal] = self.power(slot);
            scale = k.mul_rn_f32(scale, reciprocal);
        }
        let (row, quarter) = (k.shr_u32(tid, 2), k.and_b32(tid, 3));
        let to = k.element(self.pieces.w.ptr(k), row, W_ROW);
        let to = k.element(to, turn, CHUNK * W_ROW);
        let swizzle = self.swizzle(row, k.shr_u32(quarter, 1));
        for (unit, word) in (0..).zip(words) {
            let values: Vec<_> = self.decoder.unpack(k, word, 8);
            let pair = |i: usize| {
                let [low, high] = [0, 1].map(|odd| k.mul_rn_f32(values[2 * i + odd], scale));
                half.pack(k, low, high)
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
    fn multiply_chunk(&self, slot: Reg<B32>, turn: Reg<B32>, sums: &[Sums]) {
        let (k, tile, [row, col]) = (self.k, &self.tile, self.tile.corner);
        // Lanes 8i to 8i + 7 give the rows of matrix i of four: 8 rows further down, or 8 columns to the right.
        let (below, right) = (k.and_b32(tile.lane, 15), k.shr_u32(tile.lane, 4));
        let dy = k.element(self.pieces.dy.ptr(k), slot, self.spec.rows * DY_ROW);
        let dy = k.element(dy, k.add_u32(row, below), DY_ROW);
        let dy_place = k.xor_b32(right, k.and_b32(below, 7));
        let w = k.element(self.pieces.w.ptr(k), turn, CHUNK * W_ROW);
        let w = k.element(w, below, W_ROW);
        let unit = k.add_u32(k.shr_u32(col, 3), right);
        let w_place = k.xor_b32(unit, self.swizzle(below, k.shr_u32(unit, 3)));
        let f16 = self.spec.product.half == Half::F16;
        let products = if f16 { &tile.zeros() } else { sums };
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
                        let sum = products[(i * ACROSS + 2 * pair + odd) as usize];
                        let b = [b[2 * odd as usize], b[2 * odd as usize + 1]];
                        self.spec.product.half.add_product(k, a, b, sum);
                    }
                }
            }
        }
        if f16 {
            let [power, _] = self.power(slot);
            for (sum, product) in sums.iter().flatten().zip(products.iter().flatten()) {
                k.to(*sum).fma_rn_f32(*product, power, *sum);
            }
        }
    }

    /// Adds `U·A`.
    fn add_low_rank(&self, low_rank: &LowRank, [row0, col0]: [Reg<B64>; 2], sums: &[Sums]) {
        let (k, tile, [m, _, cols]) = (self.k, &self.tile, self.params.shape);
        k.section("the low-rank term");
        let u_row = |i| low_rank.left_row(k, tile.t, tile.row(row0, i), m);
        let u_rows: Vec<_> = (0..2 * tile.down()).map(u_row).collect();
        let stride = k.shl_b64(low_rank.right_stride, 1);
        let first = k.offset(low_rank.right, k.mul_lo_u64(k.mul_wide_u32(tile.t, 4), stride));
        let columns: Vec<(Ptr<Global>, Reg<Pred>)> = (0..ACROSS)
            .map(|j| {
                let at = tile.col(col0, j);
                (k.offset(first, k.shl_b64(at, 1)), k.setp_lt_u64(at, cols))
            })
            .collect();
        k.for_range(0, low_rank.rank, RANK, |step| {
            let u: Vec<_> = u_rows.iter().map(|row| row.load(k, step)).collect();
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
                for (i, rows) in u.chunks(2).enumerate() {
                    let a = [rows[0][0], rows[1][0], rows[0][1], rows[1][1]];
                    self.spec.product.half.add_product(k, a, b, sums[i * ACROSS as usize + j]);
                }
            }
        });
    }
}

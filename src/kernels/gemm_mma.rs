//! `Y = X·Wᵀ + bias + T·Bᵀ` on tensor cores: X in 16 bits, W quantized, sums in f32, Y rounded once.
//!
//! In tiles as of [`super::mma_tile`], K is walked in chunks of 64, inside which no quantization block ends, through a ring
//! in shared memory: X as it is, W as packed codes. Each warp decodes the codes of its 32 columns of Y in registers and
//! uses them for all its rows.
//!
//! **Fragments.** `ldmatrix` brings X's in the order of registers that `mma` wants them in. Lane `t` of four then needs of a row
//! of W the codes of the elements `2t` and `2t + 1` of every eight: byte t of each of the row's words, which all four lanes
//! read and of which `prmt` takes the byte. (The other way, lanes with codes that are neighbours and X in that order, costs
//! more: 16-byte loads of X give registers in an order that takes a move for each.)
//!
//! **Scale.** The codebook's 16 values are rounded to X's type; the products of a chunk are summed by themselves and then
//! multiplied by the constant, in f32: no rounding of value times constant.
//!
//! **Traffic.** X is read `⌈N/128⌉` times, W `⌈M/rows⌉` times; from L2, where the tiles of a column are made together.

use super::decode::PairDecoder;
use super::mma_tile::{ACROSS, COLS, MmaTile, Sums};
use super::product::{LowRank, ProductParams, ProductSpec, RANK};
use super::ring::{Batch, Ring};
use super::tile::THREADS;
use super::{Spec, Written, dynamic_module};
use ptx_asm::{Array, B32, B64, Error, F32, Global, Kernel, Pred, Ptr, Reg, Target, U8};

/// Elements of K in a chunk.
pub const CHUNK: u32 = 64;
/// Bytes of a chunk of a row of X.
const X_ROW: u32 = 2 * CHUNK;
/// Bytes of a chunk of a row of W's codes.
const W_ROW: u32 = CHUNK / 2;

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmMmaSpec {
    /// Rows of a tile: 32, 64 or 128; before sm_80 no more than 64.
    pub rows: u32,
    /// What is multiplied.
    pub product: ProductSpec,
}

impl Spec for GemmMmaSpec {
    /// Parameters: [`ProductParams`] of X, `T[M, rank]`, `B[N, rank]` and Y. K is a multiple of 64. X and codes are aligned to
    /// 16 bytes, X's rows too; T, B and their rows to 8. Any grid. bf16 needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_mma", THREADS, |k| {
            let (body, shared) = Body::new(k, self);
            body.run();
            shared
        })
    }
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmMmaSpec,
    params: ProductParams,
    ring: Ring<'k>,
    pieces: Pieces,
    decoder: PairDecoder,
    /// Selects byte t of each of two words.
    byte: Reg<B32>,
    tile: MmaTile<'k>,
}

/// The slots of the ring.
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
    /// And the bytes of dynamic shared memory: 20.5 KB a slot for 128 rows, 12.5 for 64, where a block has an SM to itself by
    /// its registers, 8.5 for 32.
    fn new(k: &'k Kernel, spec: &'k GemmMmaSpec) -> (Self, usize) {
        let params = ProductParams::new(k, &spec.product);
        let stages = match spec.rows {
            _ if k.target() < Target::Sm80 => 2,
            32 => 3,
            _ => 4,
        };
        let mut shared = k.dynamic_shared(128);
        let pieces = Pieces {
            x: shared.array_aligned((stages * spec.rows * X_ROW) as usize, 128),
            w: shared.array_aligned((stages * COLS * W_ROW) as usize, 128),
            scales: shared.array((stages * COLS) as usize),
        };
        let values = spec.product.values.map(f32::from_bits);
        let decoder = PairDecoder::in_registers(k, spec.product.half, values, THREADS);
        let (ring, tile) =
            (Ring::new(k, stages, 0), MmaTile::new(k, spec.rows, if spec.rows > 32 { 1 } else { 2 }));
        let byte = k.mad_lo_u32(tile.t, 0x11, 0x40);
        (Self { k, spec, params, ring, pieces, decoder, byte, tile }, shared.bytes())
    }

    fn run(&self) {
        let (k, [m, n, inner]) = (self.k, self.params.shape);
        let chunks = k.cvt_u32_u64(k.shr_u64(inner, CHUNK.trailing_zeros()));
        self.tile.for_each([m, n], |origin| {
            let (sources, sums) = (self.sources(origin), self.tile.zeros());
            self.ring.for_each(
                chunks,
                |batch, chunk, slot| self.bring(&sources, batch, chunk, slot),
                |_, slot| self.multiply_chunk(slot, &sums),
            );
            if let Some(low_rank) = &self.params.low_rank {
                self.add_low_rank(low_rank, origin, &sums);
            }
            self.tile.store(&self.params, self.spec.product.accumulate, [m, n], origin, &sums);
        });
    }

    fn sources(&self, [row0, col0]: [Reg<B64>; 2]) -> Sources {
        let (k, [m, n, inner], params) = (self.k, self.params.shape, &self.params);
        let inside = |first, row, end| self.tile.inside(first, row, end);
        let x = (0..self.spec.rows / 32)
            .map(|i| {
                let (row, bytes, _) = inside(row0, k.add_u32(k.shr_u32(self.tile.tid, 3), 32 * i), m);
                let from = k.offset(params.left, k.shl_b64(k.mul_lo_u64(row, params.left_stride), 1));
                (k.offset(from, k.cvt_u64_u32(k.shl_b32(k.and_b32(self.tile.tid, 7), 4))), bytes)
            })
            .collect();
        let (row, bytes, _) = inside(col0, k.shr_u32(self.tile.tid, 1), n);
        let from = k.offset(params.codes, k.shr_u64(k.mul_lo_u64(row, inner), 1));
        let w = (k.offset(from, k.cvt_u64_u32(k.shl_b32(k.and_b32(self.tile.tid, 1), 4))), bytes);
        let (row, _, inside) = inside(col0, self.tile.tid, n);
        let has_scale = k.and_pred(inside, k.setp_lt_u32(self.tile.tid, COLS));
        Sources { x, w, row: k.mul_lo_u64(row, inner), has_scale }
    }

    /// Starts to bring a chunk: X, codes, and a constant, which is 0 for columns outside.
    fn bring(&self, sources: &Sources, batch: &Batch<'_>, chunk: Reg<B32>, slot: Reg<B32>) {
        let k = self.k;
        // A 16-byte unit u of row r lies at u ^ (r & 7): eight rows' units fill all banks.
        let (row, unit) = (k.shr_u32(self.tile.tid, 3), k.and_b32(self.tile.tid, 7));
        let place = k.shl_b32(k.xor_b32(unit, k.and_b32(row, 7)), 4);
        let to = k.element(self.pieces.x.ptr(k), k.mad_lo_u32(row, X_ROW, place), 1);
        let to = k.element(to, slot, self.spec.rows * X_ROW);
        let along = k.mul_wide_u32(chunk, X_ROW);
        for (i, (from, bytes)) in (0..).zip(&sources.x) {
            batch.copy(to.at((32 * i * X_ROW) as i32), k.offset(*from, along), *bytes);
        }
        let to = k.element(self.pieces.w.ptr(k), self.tile.tid, 16);
        let to = k.element(to, slot, COLS * W_ROW);
        let (from, bytes) = sources.w;
        batch.copy(to, k.offset(from, k.mul_wide_u32(chunk, W_ROW)), bytes);
        let scale = k.var_f32(0.0);
        k.if_then(sources.has_scale, || {
            let element = k.add_u64(sources.row, k.mul_wide_u32(chunk, CHUNK));
            let block = k.shr_u64(element, self.spec.product.block_size.trailing_zeros());
            k.to(scale).mov(self.params.constants.load(k, block));
        });
        let to = k.element(k.element(self.pieces.scales.ptr(k), self.tile.tid, 4), slot, 4 * COLS);
        batch.put(to, scale, k.setp_lt_u32(self.tile.tid, COLS));
    }

    /// Adds the products of a chunk.
    fn multiply_chunk(&self, slot: Reg<B32>, sums: &[Sums]) {
        let (k, tile, [row, col], half) = (self.k, &self.tile, self.tile.corner, self.spec.product.half);
        // Lanes 8i to 8i + 7 give the rows of matrix i of four: 8 rows further down, or 8 elements of K on.
        let (below, right) = (k.and_b32(tile.lane, 15), k.shr_u32(tile.lane, 4));
        let x = k.element(self.pieces.x.ptr(k), slot, self.spec.rows * X_ROW);
        let x = k.element(x, k.add_u32(row, below), X_ROW);
        let x_place = k.xor_b32(right, k.and_b32(below, 7));
        let codes = k.element(self.pieces.w.ptr(k), slot, COLS * W_ROW);
        let codes = k.element(codes, k.add_u32(col, tile.g), W_ROW);
        let mut products = vec![k.splat::<F32, 4>(0.0); (tile.down() * ACROSS) as usize];
        for half_chunk in 0..2 {
            k.comment("decode half of the chunk");
            let b: Vec<[Reg<B32>; 4]> = (0..ACROSS)
                .map(|j| {
                    let words = k.ld_shared::<[B32; 4]>(codes.at((8 * j * W_ROW + 16 * half_chunk) as i32));
                    self.decoder.pairs(k, self.bytes_of_lane(words))
                })
                .collect();
            for step in 0..2 {
                k.comment("multiply sixteen elements of K");
                let from = k.element(x, k.xor_b32(x_place, 2 * (2 * half_chunk + step)), 16);
                for i in 0..tile.down() {
                    let a = k.ldmatrix_x4(from.at((16 * i * X_ROW) as i32));
                    for (j, b) in (0..).zip(&b) {
                        let product = &mut products[(i * ACROSS + j) as usize];
                        let at = 2 * step as usize;
                        *product = half.multiply(k, a, [b[at], b[at + 1]], *product);
                    }
                }
            }
        }
        k.comment("scale");
        let scales = k.element(self.pieces.scales.ptr(k), slot, 4 * COLS);
        let scales = k.element(k.element(scales, col, 4), tile.t, 8);
        for j in 0..ACROSS {
            let scale = k.ld_shared::<[F32; 2]>(scales.at((8 * j * 4) as i32));
            for i in 0..tile.down() {
                let at = (i * ACROSS + j) as usize;
                for (q, sum) in sums[at].into_iter().enumerate() {
                    k.to(sum).fma_rn_f32(products[at][q], scale[q % 2], sum);
                }
            }
        }
    }

    /// Byte t of each of four words.
    fn bytes_of_lane(&self, words: [Reg<B32>; 4]) -> Reg<B32> {
        let (k, [a, b, c, d]) = (self.k, words);
        let [first, second] = [(a, b), (c, d)].map(|(a, b)| k.prmt_b32(a, b, self.byte));
        k.prmt_b32(first, second, 0x5410)
    }

    /// Adds `T·Bᵀ`.
    fn add_low_rank(&self, low_rank: &LowRank, [row0, col0]: [Reg<B64>; 2], sums: &[Sums]) {
        let (k, tile, [m, n, _]) = (self.k, &self.tile, self.params.shape);
        k.section("the low-rank term");
        let t_row = |i| low_rank.left_row(k, tile.t, tile.row(row0, i), m);
        let b_row = |j| low_rank.right_row(k, tile.t, tile.col(col0, j), n);
        let t_rows: Vec<_> = (0..2 * tile.down()).map(t_row).collect();
        let b_rows: Vec<_> = (0..ACROSS).map(b_row).collect();
        k.for_range(0, low_rank.rank, RANK, |step| {
            let t: Vec<_> = t_rows.iter().map(|row| row.load(k, step)).collect();
            for (j, row) in b_rows.iter().enumerate() {
                let b = row.load(k, step);
                for (i, rows) in t.chunks(2).enumerate() {
                    let a = [rows[0][0], rows[1][0], rows[0][1], rows[1][1]];
                    self.spec.product.half.add_product(k, a, b, sums[i * ACROSS as usize + j]);
                }
            }
        });
    }
}

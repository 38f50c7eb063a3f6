//! `Y = X·Wᵀ + bias + T·Bᵀ` by `wgmma`, as `Yᵀ = W·Xᵀ + …`: X in 16 bits, W quantized, sums in f32, Y rounded once.
//!
//! The block, its ring and its tiles are those of [`super::wgmma_pipeline`]; W is the factor in registers. Each consumer decodes
//! a chunk's fragments while the products of the chunk before run, in the other of two sets of registers.
//!
//! **Scale.** With `tokens / 2` sums a thread there is no room for a second set that a constant could multiply at the end of
//! each chunk, so W is scaled before the product: value times constant in f32, rounded once, which is the dequantized weight
//! in X's type, as cuBLAS would be given it (in f16, what exceeds its range is infinite). A row has one constant in a chunk,
//! and so 16 different values: its producing thread computes those, as bytes, and the consumers look codes up in them by
//! `prmt` ([`PairDecoder`]). A table costs 32 instructions for 64 values; the look-up 2.6 a value, no multiplication and no
//! rounding.
//!
//! **Codes.** In step s of a chunk, lane `4g + t` needs of its rows the elements `2t` and `2t + 1` of the units of eight `2s`
//! and `2s + 1`: byte t of each of the row's eight words. The producing thread transposes bytes, so that a lane reads all that
//! it needs of a row in two words.
//!
//! **Places.** In a stage, four planes of 16 bytes a row: low and high bytes of the table, the codes of the first and the last
//! four words. Rows follow each other: a producer's eight threads write 128 consecutive bytes at a time, a consumer reads 8
//! rows, 128 bytes again.
//!
//! **Low-rank term.** `T·Bᵀ` is more chunks of the inner dimension: T comes as X does, B from global memory to registers.
//!
//! **Traffic.** X is read `⌈N/128⌉` times, W and its constants `⌈M/tokens⌉` times; of shared memory, each chunk of 128 x 256
//! takes 512 wavefronts for X's reading by two warpgroups, 256 for its writing and about 200 for W's side, in the 1024 clocks
//! that its products last.

use super::constants::{ConstantsParam, StoredConstant};
use super::decode::PairDecoder;
use super::dense::Dense;
use super::product::ProductSpec;
use super::wgmma_pipeline::{CHUNK, Pipeline, STEPS, Sums, THREADS, Tiles, WARPGROUP, in_turns};
use super::wgmma_store::{self, Store};
use super::{Spec, Written, dynamic_module};
use ptx_asm::{Array, B32, B64, Error, Global, Kernel, Ptr, Reg, Shared, Target, TensorMap, U8};

/// Bytes of a plane of a stage: 16 for each of 128 rows.
const PLANE: u32 = 16 * WARPGROUP;
/// Bytes of W's side of a stage.
const WEIGHTS: u32 = 4 * PLANE;
/// Registers of a producing and of a consuming thread: 65536 in all.
const REGISTERS: [u32; 2] = [56, 224];

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmWgmmaSpec {
    /// Rows of X in a tile: 64, 128 or 256.
    pub tokens: u32,
    /// What is multiplied.
    pub product: ProductSpec,
}

impl Spec for GemmWgmmaSpec {
    /// Parameters: a tensor map of X in boxes of 64 x `tokens` with the 128-byte swizzle; codes and constants; M, N, K (u64), K
    /// a multiple of 64; with a low-rank term a map of `T[M, rank]` like X's, `B[N, rank]`, its row stride (u64), rank (u32), an
    /// even number; the bias if there is one; Y and its row stride. Codes are aligned to 16 bytes, B and its rows to 4.
    /// Any grid; one block an SM is best. Tiles fit 31 bits.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_wgmma", THREADS, |k| Body::emit(k, self))
    }

    fn target(&self, _device: Target) -> Target {
        Target::Sm90a
    }
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmWgmmaSpec,
    x: TensorMap,
    codes: Ptr<Global>,
    constants: ConstantsParam,
    /// M, N, K.
    shape: [Reg<B64>; 3],
    low_rank: Option<LowRank>,
    pipeline: Pipeline<'k>,
    tiles: Tiles<'k>,
    weights: Array<U8>,
    tid: Reg<B32>,
    lane: Reg<B32>,
}

/// `T·Bᵀ`.
struct LowRank {
    t: TensorMap,
    b: Ptr<Global>,
    b_stride: Reg<B64>,
    rank: Reg<B32>,
}

/// A producer's part of a chunk of W on its way: the codes of a row and their constant.
struct Piece {
    codes: [[Reg<B32>; 4]; 2],
    constant: StoredConstant,
}

/// The factor A of a chunk: four registers a step.
type Fragments = [[Reg<B32>; 4]; STEPS as usize];

impl<'k> Body<'k> {
    /// Emits the kernel; returns its dynamic shared memory.
    fn emit(k: &'k Kernel, spec: &'k GemmWgmmaSpec) -> usize {
        k.maxnreg(65536 / THREADS / 8 * 8);
        let (x, codes) = (k.param_tensor_map("x"), k.param_ptr("codes"));
        let product = &spec.product;
        let constants = ConstantsParam::of_block(k, &product.constants, THREADS);
        let shape = ["m", "n", "k"].map(|name| k.param_u64(name));
        let low_rank = product.low_rank.then(|| LowRank {
            t: k.param_tensor_map("t"),
            b: k.param_ptr("b"),
            b_stride: k.param_u64("b_stride"),
            rank: k.param_u32("rank"),
        });
        let bias = product.bias.map(|dtype| Dense { dtype, base: k.param_ptr("bias"), stride: k.mov(0) });
        let out = Dense { dtype: product.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };
        let mut shared = k.dynamic_shared(1024);
        let pipeline = Pipeline::new(k, &mut shared, spec.tokens, WEIGHTS, wgmma_store::SHARED);
        let weights = shared.array_aligned::<U8>((pipeline.stages * WEIGHTS) as usize, 128);
        let turned = shared.array_aligned::<U8>(wgmma_store::SHARED as usize, 128);
        k.bar_sync(0);
        let (tid, [m, n, _]) = (k.tid_x(), shape);
        let tiles = Tiles::new(k, [n, m], spec.tokens);
        let lane = k.and_b32(tid, 31);
        let body =
            Body { k, spec, x, codes, constants, shape, low_rank, pipeline, tiles, weights, tid, lane };
        k.if_else(
            k.setp_lt_u32(tid, WARPGROUP),
            || {
                k.setmaxnreg_dec(REGISTERS[0]);
                body.produce();
            },
            || {
                k.setmaxnreg_inc(REGISTERS[1]);
                let warp = k.shr_u32(k.sub_u32(tid, WARPGROUP), 5);
                let store = Store::new(k, turned.ptr(k), [warp, lane], out, bias, product.accumulate, [n, m]);
                body.consume(warp, &store);
            },
        );
        shared.bytes()
    }

    /// Chunks of the inner dimension, and of the rank.
    fn chunks(&self) -> [Reg<B32>; 2] {
        let k = self.k;
        let rank = self.low_rank.as_ref().map_or(k.mov(0), |low_rank| low_rank.rank);
        let inner = k.cvt_u32_u64(self.shape[2]);
        [inner, rank].map(|len| k.shr_u32(k.add_u32(len, CHUNK - 1), CHUNK.trailing_zeros()))
    }

    /// Where a row of W lies in a stage.
    fn place(&self, stage: Reg<B32>, row: Reg<B32>) -> Ptr<Shared> {
        let k = self.k;
        k.element(k.element(self.weights.ptr(k), stage, WEIGHTS), row, 16)
    }

    fn produce(&self) {
        let (k, pipeline) = (self.k, &self.pipeline);
        k.section("produce: chunk after chunk of this block's tiles");
        let ([chunks, ranks], at) = (self.chunks(), pipeline.producer());
        let first = k.setp_eq_u32(self.tid, 0);
        self.tiles.for_each(|[feature, token]| {
            // Rows beyond the end are those of nobody: any will do.
            let last = k.sub_u64(self.shape[1], 1);
            let row = k.min_u64(k.cvt_u64_u32(k.add_u32(feature, self.tid)), last);
            let element = k.mul_lo_u64(row, self.shape[2]);
            let pieces =
                [(); 2].map(|()| Piece { codes: [k.regs(), k.regs()], constant: StoredConstant::new(k) });
            for (chunk, piece) in (0..).zip(&pieces) {
                self.fetch(element, k.mov(chunk), chunks, piece);
            }
            in_turns(k, chunks, |chunk, copy| {
                pipeline.acquire(&at);
                k.if_then(first, || pipeline.bring(&at, self.x, k.mul_lo_u32(chunk, CHUNK), token));
                self.put(&pieces[copy], at.stage);
                pipeline.publish(&at, self.lane);
                self.fetch(element, k.add_u32(chunk, 2), chunks, &pieces[copy]);
                pipeline.advance(&at);
            });
            if let Some(low_rank) = &self.low_rank {
                k.for_range(0, ranks, 1, |chunk| {
                    pipeline.acquire(&at);
                    k.if_then(first, || pipeline.bring(&at, low_rank.t, k.mul_lo_u32(chunk, CHUNK), token));
                    pipeline.publish(&at, self.lane);
                    pipeline.advance(&at);
                });
            }
        });
    }

    /// Begins to load a row's chunk, which begins at an element of W, if it exists.
    fn fetch(&self, row: Reg<B64>, chunk: Reg<B32>, chunks: Reg<B32>, to: &Piece) {
        let k = self.k;
        k.if_then(k.setp_lt_u32(chunk, chunks), || {
            let element = k.add_u64(row, k.mul_wide_u32(chunk, CHUNK));
            let from = k.offset(self.codes, k.shr_u64(element, 1));
            for (half, words) in (0..).zip(to.codes) {
                k.to(words).ld_global_nc::<[B32; 4]>(from.at(16 * half));
            }
            let block = k.shr_u64(element, self.spec.product.block_size.trailing_zeros());
            self.constants.fetch(k, block, &to.constant);
        });
    }

    /// Writes a row's table and transposed codes to a stage.
    fn put(&self, piece: &Piece, stage: Reg<B32>) {
        let k = self.k;
        let scale = self.constants.decode(k, &piece.constant);
        let table = PairDecoder::scaled(
            k,
            self.spec.product.half,
            self.spec.product.values.map(f32::from_bits),
            scale,
        );
        let place = self.place(stage, self.tid);
        let codes = piece.codes.map(|words| transpose_bytes(k, words));
        for (plane, words) in (0..).zip([table.low, table.high, codes[0], codes[1]]) {
            k.st_shared::<[B32; 4]>(place.at((plane * PLANE) as i32), words);
        }
    }

    fn consume(&self, warp: Reg<B32>, store: &Store<'_>) {
        let (k, pipeline) = (self.k, &self.pipeline);
        k.section("consume: tile after tile");
        let ([chunks, ranks], at) = (self.chunks(), pipeline.consumer());
        let sums = Sums::new(k, self.spec.product.half, self.spec.tokens);
        let sets: [Fragments; 2] = std::array::from_fn(|_| std::array::from_fn(|_| k.regs()));
        let row = k.mul_lo_u32(warp, 16);
        self.tiles.for_each(|[feature, token]| {
            sums.clear();
            pipeline.wait(&at);
            self.decode(row, at.stage, &sets[0]);
            in_turns(k, chunks, |chunk, copy| {
                let stage = k.mov(at.stage);
                self.multiply(&sums, &sets[copy], stage);
                pipeline.advance(&at);
                k.if_then(k.setp_lt_u32(k.add_u32(chunk, 1), chunks), || {
                    pipeline.wait(&at);
                    self.decode(row, at.stage, &sets[1 - copy]);
                });
                k.wgmma_wait_group(0);
                pipeline.release(stage, self.lane);
            });
            if let Some(low_rank) = &self.low_rank {
                let row = k.add_u32(feature, row);
                k.for_range(0, ranks, 1, |chunk| {
                    self.load_adapter(low_rank, row, chunk, &sets[0]);
                    pipeline.wait(&at);
                    self.multiply(&sums, &sets[0], at.stage);
                    k.wgmma_wait_group(0);
                    pipeline.release(at.stage, self.lane);
                    pipeline.advance(&at);
                });
            }
            store.write(&sums, k.add_u32(feature, row), token);
        });
    }

    /// The fragments of the warp's 16 rows from `row` on, out of a stage.
    fn decode(&self, row: Reg<B32>, stage: Reg<B32>, to: &Fragments) {
        let k = self.k;
        k.comment("decode");
        let (g, t) = (k.shr_u32(self.lane, 2), k.and_b32(self.lane, 3));
        let place = self.place(stage, k.add_u32(row, g));
        let codes = k.element(place, t, 4);
        for lower in 0..2 {
            let at = |plane: u32| (plane * PLANE + 8 * 16 * lower as u32) as i32;
            let [low, high] = [0, 1].map(|plane| k.ld_shared::<[B32; 4]>(place.at(at(plane))));
            let table = PairDecoder { low, high };
            for half in 0..2 {
                let word = k.ld_shared::<B32>(codes.at(at(2 + half as u32)));
                let [first, second] = [to[2 * half], to[2 * half + 1]];
                table.pairs_to(k, word, [first[lower], first[lower + 2], second[lower], second[lower + 2]]);
            }
        }
    }

    /// The fragments of 64 columns of B, of the warp's 16 rows from `row` on; zeros beyond the rank.
    fn load_adapter(&self, low_rank: &LowRank, row: Reg<B32>, chunk: Reg<B32>, to: &Fragments) {
        let k = self.k;
        let (g, t) = (k.shr_u32(self.lane, 2), k.and_b32(self.lane, 3));
        let last = k.sub_u64(self.shape[1], 1);
        let col = k.mad_lo_u32(chunk, CHUNK, k.shl_b32(t, 1));
        let rows = [0, 8].map(|lower| {
            let row = k.min_u64(k.cvt_u64_u32(k.add_u32(k.add_u32(row, g), lower)), last);
            let element = k.mad_lo_u64(row, low_rank.b_stride, k.cvt_u64_u32(col));
            k.offset(low_rank.b, k.shl_b64(element, 1))
        });
        for (step, fragment) in (0..).zip(to) {
            for (i, &register) in fragment.iter().enumerate() {
                let along = 16 * step + 8 * (i as u32 / 2);
                k.to(register).mov(0);
                let exists = k.setp_lt_u32(k.add_u32(col, along), low_rank.rank);
                k.to(register).when(exists).ld_global::<B32>(rows[i % 2].at(2 * along as i32));
            }
        }
    }

    /// Starts the products of a chunk, as one group.
    fn multiply(&self, sums: &Sums<'_>, a: &Fragments, stage: Reg<B32>) {
        let (k, b) = (self.k, self.pipeline.factor(stage));
        k.wgmma_fence();
        for (step, &fragment) in (0..).zip(a) {
            sums.add_registers(fragment, k.descriptor_at(b, 32 * step));
        }
        k.wgmma_commit_group();
    }
}

/// Byte i of word t of the result is byte t of word i.
fn transpose_bytes(k: &Kernel, words: [Reg<B32>; 4]) -> [Reg<B32>; 4] {
    let [a, b, c, d] = words;
    let zip = |x, y| [0x5140, 0x7362].map(|selector| k.prmt_b32(x, y, selector));
    let ([ab, ab_upper], [cd, cd_upper]) = (zip(a, b), zip(c, d));
    let join = |x, y| [0x5410, 0x7632].map(|selector| k.prmt_b32(x, y, selector));
    let ([first, second], [third, fourth]) = (join(ab, cd), join(ab_upper, cd_upper));
    [first, second, third, fourth]
}

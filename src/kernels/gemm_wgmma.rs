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
//! and `2s + 1`: byte t of each of the row's eight words. The producers transpose bytes, so that a lane reads all that it needs
//! of a row in two words. Two neighbouring threads load the halves of a row's 32 bytes: whole sectors at a time.
//!
//! **Places.** In a stage, four planes of 16 bytes a row: low and high bytes of the table, the codes of the first and the last
//! four words; rows follow each other, in the last plane row r at `r ^ 4`. So eight threads write 128 consecutive bytes at a time,
//! or twice 64 in different banks, and a consuming warp reads 8 rows, 128 bytes again.
//!
//! **Low-rank term.** `T·Bᵀ` is more chunks of the inner dimension: T comes as X does, B from global memory to registers.
//!
//! **Traffic.** X is read `⌈N/128⌉` times, W and its constants `⌈M/tokens⌉` times; of shared memory, each chunk of 128 x 256
//! takes 512 wavefronts for X's reading by two warpgroups, 256 for its writing and about 200 for W's side, in the 1024 clocks
//! that its products last.

use super::decode::PairDecoder;
use super::product::ProductSpec;
use super::wgmma_block::{self, Cut, LowRank, Output, Piece, Roles, Source, emit};
use super::wgmma_pipeline::{CHUNK, Place, STEPS, Sums, THREADS, WARPGROUP, in_turns};
use super::{Spec, Written, dynamic_module};
use ptx_asm::{B32, B64, Error, Global, Kernel, Ptr, Reg, Shared, Target};

/// Bytes of a plane of a stage: 16 for each of 128 rows.
const PLANE: u32 = 16 * WARPGROUP;
/// Bytes of W's side of a stage.
const WEIGHTS: u32 = 4 * PLANE;

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmWgmmaSpec {
    /// How it is cut.
    pub cut: Cut,
    /// What is multiplied.
    pub product: ProductSpec,
}

impl Spec for GemmWgmmaSpec {
    /// Parameters: those of [`emit`]; the maps are of X and of T, in boxes 64 wide with the 128-byte swizzle; the right
    /// side is `B[N, rank]` and its row stride (u64). K is a multiple of 64, the rank even. Codes are aligned to 16 bytes, B
    /// and its rows to 4. Any grid of whole clusters; one block an SM is best.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_wgmma", THREADS, |k| emit::<Forward>(k, &self.product, self.cut))
    }

    fn target(&self, _device: Target) -> Target {
        Target::Sm90a
    }
}

/// The block.
type Block<'k> = wgmma_block::Block<'k, Right>;
/// B and its row stride.
type Right = (Ptr<Global>, Reg<B64>);
/// The factor A of a chunk: four registers a step.
type Fragments = [[Reg<B32>; 4]; STEPS as usize];

/// The roles.
struct Forward;

impl Roles for Forward {
    const FEATURES: usize = 1;
    const WEIGHTS: u32 = WEIGHTS;
    type Right = Right;

    fn right(k: &Kernel) -> Right {
        (k.param_ptr("b"), k.param_u64("b_stride"))
    }

    fn produce(block: &Block<'_>) {
        let Block { k, ref pipeline, lane, shape: [_, n, inner], .. } = *block;
        let (at, first) = (pipeline.producer(), k.setp_eq_u32(block.tid, 0));
        block.for_each(inner, |item| {
            let Place { feature, token, .. } = item.place;
            let bring = |map, chunk| {
                pipeline.acquire(&at);
                k.if_then(first, || pipeline.bring(&at, map, k.mul_lo_u32(chunk, CHUNK), token));
            };
            // Rows beyond the end are those of nobody: any will do.
            let first_of = |row: Reg<B32>| {
                let row = k.min_u64(k.cvt_u64_u32(k.add_u32(feature, row)), k.sub_u64(n, 1));
                k.mul_lo_u64(row, inner)
            };
            let codes = rows_of_codes(block).map(|row| {
                let codes = block.codes(first_of(row));
                k.offset(codes, k.cvt_u64_u32(k.shl_b32(half_of_codes(block), 4)))
            });
            let own = first_of(block.tid);
            let source = |chunk| Source {
                codes: codes.map(|codes| k.offset(codes, k.mul_wide_u32(chunk, CHUNK / 2))),
                scaled: k.add_u64(own, k.mul_wide_u32(chunk, CHUNK)),
            };
            block.for_each_piece(item, source, |chunk, piece| {
                bring(block.activations, chunk);
                put(block, piece, at.stage);
                pipeline.publish(&at, lane);
                pipeline.advance(&at);
            });
            if let Some(low_rank) = &block.low_rank {
                k.for_range(0, item.ranks, 1, |chunk| {
                    bring(low_rank.left, chunk);
                    pipeline.publish(&at, lane);
                    pipeline.advance(&at);
                });
            }
        });
    }

    fn consume(block: &Block<'_>, warp: Reg<B32>, output: &Output<'_>) {
        let Block { k, ref pipeline, lane, product, .. } = *block;
        let at = pipeline.consumer();
        let sums = Sums::new(k, product.half, pipeline.tokens);
        let sets: [Fragments; 2] = std::array::from_fn(|_| std::array::from_fn(|_| k.regs()));
        let row = k.mul_lo_u32(warp, 16);
        block.for_each(block.shape[2], |item| {
            sums.clear();
            pipeline.wait(&at);
            decode(block, row, at.stage, &sets[0]);
            in_turns(k, 2, item.chunks, |chunk, copy| {
                let stage = k.mov(at.stage);
                multiply(block, &sums, &sets[copy], stage);
                pipeline.advance(&at);
                k.if_then(k.setp_lt_u32(k.add_u32(chunk, 1), item.chunks), || {
                    pipeline.wait(&at);
                    decode(block, row, at.stage, &sets[1 - copy]);
                });
                k.wgmma_wait_group(0);
                pipeline.release(stage, lane);
            });
            let row = k.add_u32(item.place.feature, row);
            if let Some(low_rank) = &block.low_rank {
                k.for_range(0, item.ranks, 1, |chunk| {
                    load_adapter(block, low_rank, row, chunk, &sets[0]);
                    pipeline.wait(&at);
                    multiply(block, &sums, &sets[0], at.stage);
                    k.wgmma_wait_group(0);
                    pipeline.release(at.stage, lane);
                    pipeline.advance(&at);
                });
            }
            output.write(&sums, row, &item.place);
        });
    }
}

/// Where a row of W lies in a stage, in its first plane.
fn place(block: &Block<'_>, stage: Reg<B32>, row: Reg<B32>) -> Ptr<Shared> {
    let k = block.k;
    k.element(k.element(block.weights.ptr(k), stage, WEIGHTS), row, 16)
}

/// The rows whose codes a producing thread brings: two neighbours bring the halves of one.
fn rows_of_codes(block: &Block<'_>) -> [Reg<B32>; 2] {
    let k = block.k;
    [0, WARPGROUP / 2].map(|first| k.add_u32(k.shr_u32(block.tid, 1), first))
}

/// Which half of them.
fn half_of_codes(block: &Block<'_>) -> Reg<B32> {
    block.k.and_b32(block.tid, 1)
}

/// Writes a row's table, and transposed halves of two rows' codes, to a stage.
fn put(block: &Block<'_>, piece: &Piece, stage: Reg<B32>) {
    let k = block.k;
    let table = block.table(block.constant(piece));
    let own = place(block, stage, block.tid);
    for (plane, words) in (0..).zip([table.low, table.high]) {
        k.st_shared::<[B32; 4]>(own.at((plane * PLANE) as i32), words);
    }
    let half = half_of_codes(block);
    for (row, words) in rows_of_codes(block).into_iter().zip(piece.codes) {
        let to = place(block, stage, k.xor_b32(row, k.shl_b32(half, 2)));
        let to = k.element(to, half, PLANE);
        k.st_shared::<[B32; 4]>(to.at((2 * PLANE) as i32), transpose_bytes(k, words));
    }
}

/// The fragments of the warp's 16 rows from `row` on, out of a stage.
fn decode(block: &Block<'_>, row: Reg<B32>, stage: Reg<B32>, to: &Fragments) {
    let Block { k, lane, .. } = *block;
    k.comment("decode");
    let (row, t) = (k.add_u32(row, k.shr_u32(lane, 2)), k.and_b32(lane, 3));
    let places = [0, 4].map(|other| place(block, stage, k.xor_b32(row, other)));
    for lower in 0..2 {
        let at = |plane: u32| (plane * PLANE + 8 * 16 * lower as u32) as i32;
        let [low, high] = [0, 1].map(|plane| k.ld_shared::<[B32; 4]>(places[0].at(at(plane))));
        let table = PairDecoder { low, high };
        for (half, place) in places.into_iter().enumerate() {
            let word = k.ld_shared::<B32>(k.element(place, t, 4).at(at(2 + half as u32)));
            let [first, second] = [to[2 * half], to[2 * half + 1]];
            table.pairs_to(k, word, [first[lower], first[lower + 2], second[lower], second[lower + 2]]);
        }
    }
}

/// The fragments of 64 columns of B, of the warp's 16 rows from `row` on; zeros beyond the rank.
fn load_adapter(
    block: &Block<'_>,
    low_rank: &LowRank<Right>,
    row: Reg<B32>,
    chunk: Reg<B32>,
    to: &Fragments,
) {
    let Block { k, lane, shape: [_, n, _], .. } = *block;
    let (g, t, (b, stride)) = (k.shr_u32(lane, 2), k.and_b32(lane, 3), low_rank.right);
    let last = k.sub_u64(n, 1);
    let col = k.mad_lo_u32(chunk, CHUNK, k.shl_b32(t, 1));
    let rows = [0, 8].map(|lower| {
        let row = k.min_u64(k.cvt_u64_u32(k.add_u32(k.add_u32(row, g), lower)), last);
        let element = k.mad_lo_u64(row, stride, k.cvt_u64_u32(col));
        k.offset(b, k.shl_b64(element, 1))
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
fn multiply(block: &Block<'_>, sums: &Sums<'_>, a: &Fragments, stage: Reg<B32>) {
    let (k, b) = (block.k, block.pipeline.factor(stage));
    k.wgmma_fence();
    for (step, &fragment) in (0..).zip(a) {
        sums.add_registers(fragment, k.descriptor_at(b, 32 * step));
    }
    k.wgmma_commit_group();
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

//! `dX = dY·W + U·A` by `wgmma`, as `dXᵀ = Wᵀ·dYᵀ + Aᵀ·Uᵀ`: dY in 16 bits, W quantized, sums in f32, dX rounded once.
//!
//! The block, its ring and its tiles are those of [`super::wgmma_pipeline`]. W's rows lie across the sum here: in registers a lane
//! would need two codes of each of 16 rows, each with another constant. So the producers decode: a chunk is 64 rows of W by
//! the tile's 128 columns, each of the 128 threads owns 64 columns of a row, which share a constant, and looks its codes up
//! among the 16 values that they can have ([`super::decode::PairDecoder`]), value times constant rounded once. The
//! consumers have both factors in shared memory, W's contiguous along the columns ("M-major"), and keep the products of a
//! chunk under way while they start the next ones.
//!
//! **Places.** A stage has two blocks of 64 rows by 64 columns, one a consumer warpgroup, in 128-byte rows with the 128-byte
//! swizzle: the 16-byte unit u of row r lies at `u ^ (r & 7)`, and eight neighbouring threads, which write the same unit of
//! eight rows, fill all banks.
//!
//! **Ends.** Rows of W beyond its last meet zeros of dY; decoded with the constant 0 they are zeros, too. Columns beyond the last
//! come to nobody.
//!
//! **Low-rank term.** `U·A` is more chunks of the inner dimension: a chunk of A looks like one of the decoded W, and comes by TMA.
//!
//! **Traffic.** dY is read `⌈K/128⌉` times, W and its constants `⌈M/tokens⌉` times; of shared memory, each chunk of 128 x 256 takes
//! 640 wavefronts for the reading of both factors by two warpgroups and 384 for their writing, in the 1024 clocks that its
//! products last. A producing warp issues about 240 instructions for it.

use super::product::ProductSpec;
use super::wgmma_block::{self, Cut, Output, Piece, Roles, Source, emit};
use super::wgmma_pipeline::{CHUNK, Place, ROW, STEPS, Sums, THREADS};
use super::{Spec, Written, dynamic_module};
use ptx_asm::{B32, Descriptor, Error, F32, Kernel, Ptr, Reading, Reg, Shared, Swizzle, Target, TensorMap};

/// Columns of W that share a constant: those of a consumer warpgroup.
pub const SPAN: u32 = 64;
/// Bytes of a span in a chunk.
const BLOCK: u32 = CHUNK * 2 * SPAN;
/// Bytes of W's side of a stage.
const WEIGHTS: u32 = 2 * BLOCK;

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmWgmmaBackwardSpec {
    /// How it is cut.
    pub cut: Cut,
    /// What is multiplied.
    pub product: ProductSpec,
}

impl Spec for GemmWgmmaBackwardSpec {
    /// Parameters: those of [`emit`]; the maps are of dY and of U, in boxes 64 wide with the 128-byte swizzle; the right
    /// side is a map of `A[rank, K]` in boxes of 64 x 64 with the same. N is not 0, K a multiple of 64. Codes are aligned to
    /// 16 bytes. Any grid of whole clusters; one block an SM is best.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_wgmma_backward", THREADS, |k| {
            emit::<Backward>(k, &self.product, self.cut)
        })
    }

    fn target(&self, _device: Target) -> Target {
        Target::Sm90a
    }
}

/// The block.
type Block<'k> = wgmma_block::Block<'k, TensorMap>;

/// The roles.
struct Backward;

impl Roles for Backward {
    const FEATURES: usize = 2;
    const WEIGHTS: u32 = WEIGHTS;
    type Right = TensorMap;

    fn right(k: &Kernel) -> TensorMap {
        k.param_tensor_map("low_rank_right")
    }

    fn produce(block: &Block<'_>) {
        let Block { k, ref pipeline, lane, shape: [_, n, cols], tid, .. } = *block;
        let (at, first) = (pipeline.producer(), k.setp_eq_u32(tid, 0));
        let (row, span) = (k.and_b32(tid, CHUNK - 1), k.mul_lo_u32(k.shr_u32(tid, 6), SPAN));
        let row_of = |chunk| k.cvt_u64_u32(k.mad_lo_u32(chunk, CHUNK, row));
        block.for_each(n, |item| {
            let Place { feature, token, .. } = item.place;
            let bring = |map, chunk| {
                pipeline.acquire(&at);
                k.if_then(first, || pipeline.bring(&at, map, k.mul_lo_u32(chunk, CHUNK), token));
            };
            // Beyond the end any column will do.
            let col = k.cvt_u64_u32(k.add_u32(feature, span));
            let col = k.selp_b64(col, 0, k.setp_lt_u64(col, cols));
            let last = k.sub_u64(n, 1);
            let source = |chunk| {
                let scaled = k.mad_lo_u64(k.min_u64(row_of(chunk), last), cols, col);
                let codes = block.codes(scaled);
                Source { codes: [codes, k.offset(codes, 16)], scaled }
            };
            block.for_each_piece(item, source, |chunk, piece| {
                bring(block.activations, chunk);
                let constant = block.constant(piece);
                let constant = k.selp_f32(constant, 0.0, k.setp_lt_u64(row_of(chunk), n));
                put(block, piece, constant, at.stage);
                k.fence_proxy_async_shared();
                pipeline.publish(&at, lane);
                pipeline.advance(&at);
            });
            if let Some(low_rank) = &block.low_rank {
                k.for_range(0, item.ranks, 1, |chunk| {
                    bring(low_rank.left, chunk);
                    k.if_then(first, || {
                        let (full, rank) = (pipeline.full(&at), k.mul_lo_u32(chunk, CHUNK));
                        k.mbarrier_expect_tx(full, WEIGHTS);
                        for half in 0..2 {
                            let tile = low_rank.right.tile([k.add_u32(feature, half * SPAN), rank]);
                            let to = place(block, at.stage, k.mov(half * SPAN));
                            k.cp_async_bulk_tensor_2d_load(to, tile, full);
                        }
                    });
                    pipeline.publish(&at, lane);
                    pipeline.advance(&at);
                });
            }
        });
    }

    fn consume(block: &Block<'_>, warp: Reg<B32>, output: &Output<'_>) {
        let Block { k, ref pipeline, lane, product, shape: [_, n, _], .. } = *block;
        let at = pipeline.consumer();
        let sums = Sums::new(k, product.half, pipeline.tokens);
        let span = k.mul_lo_u32(k.shr_u32(warp, 2), SPAN);
        block.for_each(n, |item| {
            sums.clear();
            let before = k.var_u32(0);
            k.for_range(0, k.add_u32(item.chunks, item.ranks), 1, |chunk| {
                pipeline.wait(&at);
                let (w, dy) = (weights(block, at.stage, span), pipeline.factor(at.stage));
                k.wgmma_fence();
                for step in 0..STEPS {
                    let w = k.descriptor_at(w, 16 * ROW * step);
                    sums.add_shared((w, Reading::MN_MAJOR), k.descriptor_at(dy, 32 * step));
                }
                k.wgmma_commit_group();
                k.wgmma_wait_group(1);
                k.if_then(k.setp_ne_u32(chunk, 0), || pipeline.release(before, lane));
                k.to(before).mov(at.stage);
                pipeline.advance(&at);
            });
            k.wgmma_wait_group(0);
            pipeline.release(before, lane);
            let feature = k.mad_lo_u32(warp, 16, item.place.feature);
            output.write(&sums, feature, &item.place);
        });
    }
}

/// Where the columns from `col` on of a stage's W lie, `col` being 0 or [`SPAN`].
fn place(block: &Block<'_>, stage: Reg<B32>, col: Reg<B32>) -> Ptr<Shared> {
    let k = block.k;
    k.element(k.element(block.weights.ptr(k), stage, WEIGHTS), col, BLOCK / SPAN)
}

/// Decodes a thread's 64 elements into a stage.
fn put(block: &Block<'_>, piece: &Piece, constant: Reg<F32>, stage: Reg<B32>) {
    let Block { k, tid, .. } = *block;
    let table = block.table(constant);
    // A row is 128 bytes, a block of 64 rows: the threads' rows follow each other.
    let row = k.element(k.element(block.weights.ptr(k), stage, WEIGHTS), tid, ROW);
    let row = k.element(row, k.and_b32(tid, 7), 16);
    for (unit, &word) in (0..).zip(piece.codes.as_flattened()) {
        let place = Ptr::new(k.xor_b32(row.reg(), 16 * unit));
        k.st_shared::<[B32; 4]>(place, table.pairs(k, word));
    }
}

/// A stage's W as the factor A, from column `col` on: rows of 128 bytes along M, 8 of them after 1024 bytes. 64 columns are all
/// of a row. Its steps follow each other by 16 rows.
fn weights(block: &Block<'_>, stage: Reg<B32>, col: Reg<B32>) -> Descriptor {
    block.k.matrix_descriptor(place(block, stage, col), BLOCK, 8 * ROW, Swizzle::Bytes128)
}

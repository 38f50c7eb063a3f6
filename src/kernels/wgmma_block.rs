//! A block of a product by `wgmma`: its parameters, its shared memory, its two roles ([`super::wgmma_pipeline`]), and how a
//! producing thread gets its part of W.

use super::constants::{ConstantsParam, StoredConstant};
use super::decode::PairDecoder;
use super::dense::Dense;
use super::product::ProductSpec;
use super::wgmma_pipeline::{CHUNK, Pipeline, Place, Split, Sums, THREADS, Tiles, WARPGROUP, in_turns};
use super::wgmma_store::{self, Store};
use crate::view::DType;
use ptx_asm::{Array, B32, B64, F32, Global, Kernel, Ptr, Reg, TensorMap, U8};

/// Registers of a thread at launch, as many as three warpgroups can have.
const REGISTERS: u32 = 65536 / THREADS / 8 * 8;
/// Of a consuming one: beside up to 128 sums, two sets of fragments and two tables. The producing ones have what is left.
const CONSUMER_REGISTERS: u32 = 208;

/// Chunks of W that are on their way to a producing thread: 1.4 thousand clocks of latency are no more than 350 a chunk.
const AHEAD: usize = 4;

/// What every thread knows. `R` is the right side of the low-rank term.
pub struct Block<'k, R> {
    /// The kernel.
    pub k: &'k Kernel,
    /// What is multiplied.
    pub product: &'k ProductSpec,
    /// X or dY.
    pub activations: TensorMap,
    codes: Ptr<Global>,
    constants: ConstantsParam,
    /// M, N, K.
    pub shape: [Reg<B64>; 3],
    /// `T·Bᵀ` or `U·A`.
    pub low_rank: Option<LowRank<R>>,
    /// The ring.
    pub pipeline: Pipeline<'k>,
    tiles: Tiles<'k>,
    split: Option<Split>,
    /// W's side of the stages.
    pub weights: Array<U8>,
    /// The thread.
    pub tid: Reg<B32>,
    /// Its lane.
    pub lane: Reg<B32>,
}

/// The sides of the low-rank term.
pub struct LowRank<R> {
    /// `T[M, rank]` or `U[M, rank]`.
    pub left: TensorMap,
    /// `B[N, rank]` or `A[rank, K]`.
    pub right: R,
    /// The rank.
    pub rank: Reg<B32>,
}

/// What a kernel has of its own.
pub trait Roles {
    /// Which of M, N, K the output's features are.
    const FEATURES: usize;
    /// Bytes of W's side of a stage.
    const WEIGHTS: u32;
    /// The right side of the low-rank term.
    type Right;

    /// Declares its parameters.
    fn right(k: &Kernel) -> Self::Right;
    /// What the 128 producing threads do.
    fn produce(block: &Block<'_, Self::Right>);
    /// What the consuming warps do, eight of them.
    fn consume(block: &Block<'_, Self::Right>, warp: Reg<B32>, output: &Output<'_>);
}

/// How a product is cut. All of it makes a difference to the kernel's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cut {
    /// Rows of activations in a tile: 64, 128 or 256.
    pub tokens: u32,
    /// Blocks that share activations: 1 or 2.
    pub cluster: u32,
    /// Whether there are tiles that are made in parts of the inner dimension.
    pub in_parts: bool,
}

/// A tile and the chunks that make it.
pub struct Item {
    /// Which tile, or which part of it.
    pub place: Place,
    /// The first chunk.
    first: Reg<B32>,
    /// How many it has.
    pub chunks: Reg<B32>,
    /// Chunks of the low-rank term: of parts the last one has it.
    pub ranks: Reg<B32>,
}

/// Where a producing thread's part of a chunk of W comes from.
pub struct Source {
    /// Twice 32 codes.
    pub codes: [Ptr<Global>; 2],
    /// An element with the constant that it needs.
    pub scaled: Reg<B64>,
}

/// The same on its way.
pub struct Piece {
    /// Twice 32 codes.
    pub codes: [[Reg<B32>; 4]; 2],
    constant: StoredConstant,
}

/// Where a consuming warp's sums go: those of whole tiles to the output, those of parts to matrices that are added up later.
pub struct Output<'k> {
    k: &'k Kernel,
    whole: Store<'k>,
    /// And the first feature that they have.
    parts: Option<(Store<'k>, Reg<B32>)>,
}

/// The parts of the output's last features: f32, one `[M, features]` after the other, without gaps.
struct Parts {
    base: Ptr<Global>,
    features: Reg<B64>,
}

/// Emits a kernel. The boxes of the maps of activations and of the low-rank term's left side have `tokens / cluster` rows. Its
/// parameters: a map of the activations; codes and constants; M, N, K (u64); with a low-rank term a map of its left side, the
/// right side, the rank (u32); the bias if there is one; the output and its row stride (u64). Where tiles are in parts: how many
/// of a cluster come before those, which are the ones of the output's last features; how many parts, and chunks of 64 in each,
/// of which no part is without (u32); the parts and how many features they have (u64). Returns the bytes of dynamic shared
/// memory.
pub fn emit<R: Roles>(k: &Kernel, product: &ProductSpec, cut: Cut) -> usize {
    k.maxnreg(REGISTERS);
    let (activations, codes) = (k.param_tensor_map("activations"), k.param_ptr("codes"));
    let constants = ConstantsParam::of_block(k, &product.constants, THREADS);
    let shape = ["m", "n", "k"].map(|name| k.param_u64(name));
    let low_rank = product.low_rank.then(|| LowRank {
        left: k.param_tensor_map("low_rank_left"),
        right: R::right(k),
        rank: k.param_u32("rank"),
    });
    let bias = product.bias.map(|dtype| Dense { dtype, base: k.param_ptr("bias"), stride: k.mov(0) });
    let out = Dense { dtype: product.out, base: k.param_ptr("out"), stride: k.param_u64("out_stride") };
    let split = cut.in_parts.then(|| {
        let [whole, parts, chunks] = ["whole", "splits", "per_split"].map(|name| k.param_u32(name));
        Split { whole, parts, chunks }
    });
    let parts =
        cut.in_parts.then(|| Parts { base: k.param_ptr("parts"), features: k.param_u64("parts_features") });
    let mut shared = k.dynamic_shared(1024);
    let cut = (cut.tokens, cut.cluster);
    let pipeline = Pipeline::new(k, &mut shared, cut, R::WEIGHTS, wgmma_store::SHARED);
    let weights = shared.array_aligned((pipeline.stages * R::WEIGHTS) as usize, 1024);
    let turned = shared.array_aligned::<U8>(wgmma_store::SHARED as usize, 128);
    pipeline.meet();
    // The sum of a split product may come beside it, and waits for its end.
    k.griddepcontrol_launch_dependents();
    let size = [shape[R::FEATURES], shape[0]];
    let (tiles, tid) = (Tiles::new(k, size, cut, split), k.tid_x());
    let lane = k.and_b32(tid, 31);
    #[rustfmt::skip]
    let block = Block {
        k, product, activations, codes, constants, shape, low_rank, pipeline, tiles, split, weights, tid, lane,
    };
    k.if_else(
        k.setp_lt_u32(tid, WARPGROUP),
        || {
            k.setmaxnreg_dec(3 * REGISTERS - 2 * CONSUMER_REGISTERS);
            k.section("produce");
            R::produce(&block);
            block.pipeline.leave();
        },
        || {
            k.setmaxnreg_inc(CONSUMER_REGISTERS);
            k.section("consume");
            // The same in all lanes, as ptxas must know for descriptors that depend on it.
            let warp = k.shfl_idx_b32(k.shr_u32(k.sub_u32(tid, WARPGROUP), 5), 0, 31, u32::MAX);
            let thread = (turned.ptr(k), [warp, lane]);
            let whole = Store::new(k, thread, out, bias, product.accumulate, size);
            let parts = parts.map(|Parts { base, features }| {
                let out = Dense { dtype: DType::F32, base, stride: features };
                let first = k.cvt_u32_u64(k.sub_u64(size[0], features));
                (Store::new(k, thread, out, None, false, [features, size[1]]), first)
            });
            R::consume(&block, warp, &Output { k, whole, parts });
            block.pipeline.leave();
        },
    );
    shared.bytes()
}

impl<R> Block<'_, R> {
    /// Emits `body` once, to run for each of this block's tiles, of sums over `inner`.
    pub fn for_each(&self, inner: Reg<B64>, body: impl FnOnce(&Item)) {
        let k = self.k;
        let chunks = |len| k.shr_u32(k.add_u32(len, CHUNK - 1), CHUNK.trailing_zeros());
        let all = chunks(k.cvt_u32_u64(inner));
        let ranks = self.low_rank.as_ref().map_or(k.mov(0), |low_rank| chunks(low_rank.rank));
        self.tiles.for_each(|&place| {
            let (Some(split), Some(part)) = (self.split, place.part) else {
                return body(&Item { place, first: k.mov(0), chunks: all, ranks });
            };
            let whole = k.setp_eq_u32(part, 0);
            let first = k.selp_b32(0, k.mul_lo_u32(k.sub_u32(part, 1), split.chunks), whole);
            let (left, most) = (k.sub_u32(all, first), k.selp_b32(all, split.chunks, whole));
            let ranks = k.selp_b32(ranks, 0, k.setp_le_u32(left, most));
            body(&Item { place, first, chunks: k.min_u32(left, most), ranks });
        });
    }

    /// A producing thread's walk over a tile's chunks: `source` says where its part of one comes from, `work` puts it into a
    /// stage. It is loaded [`AHEAD`] chunks ahead, which hides the latency of memory.
    pub fn for_each_piece(
        &self,
        item: &Item,
        source: impl Fn(Reg<B32>) -> Source,
        work: impl Fn(Reg<B32>, &Piece),
    ) {
        let k = self.k;
        let pieces =
            [(); AHEAD].map(|()| Piece { codes: [k.regs(), k.regs()], constant: StoredConstant::new(k) });
        let fetch = |chunk: Reg<B32>, to: &Piece| {
            k.if_then(k.setp_lt_u32(chunk, item.chunks), || {
                let Source { codes, scaled } = source(k.add_u32(item.first, chunk));
                for (words, from) in to.codes.into_iter().zip(codes) {
                    k.to(words).ld_global_nc::<[B32; 4]>(from);
                }
                let block = k.shr_u64(scaled, self.product.block_size.trailing_zeros());
                self.constants.fetch(k, block, &to.constant);
            })
        };
        for (chunk, piece) in (0..).zip(&pieces) {
            fetch(k.mov(chunk), piece);
        }
        in_turns(k, AHEAD, item.chunks, |chunk, copy| {
            work(k.add_u32(item.first, chunk), &pieces[copy]);
            fetch(k.add_u32(chunk, AHEAD as u32), &pieces[copy]);
        });
    }

    /// Where the codes from an element of W on lie.
    pub fn codes(&self, element: Reg<B64>) -> Ptr<Global> {
        self.k.offset(self.codes, self.k.shr_u64(element, 1))
    }

    /// The constant of a piece that was loaded.
    pub fn constant(&self, piece: &Piece) -> Reg<F32> {
        self.constants.decode(self.k, &piece.constant)
    }

    /// The 16 values that codes can have under a constant.
    pub fn table(&self, constant: Reg<F32>) -> PairDecoder {
        let values = self.product.values.map(f32::from_bits);
        PairDecoder::scaled(self.k, self.product.half, values, constant)
    }
}

impl Output<'_> {
    /// Writes a warp's sums: 16 features from `feature` on, and the tokens of a tile or of a part of one.
    pub fn write(&self, sums: &Sums<'_>, feature: Reg<B32>, place: &Place) {
        let k = self.k;
        let whole = || self.whole.write(sums, [feature, place.token], None);
        let (Some((store, first)), Some(part)) = (&self.parts, place.part) else { return whole() };
        k.if_else(k.setp_eq_u32(part, 0), whole, || {
            let place = [k.sub_u32(feature, *first), place.token];
            store.write(sums, place, Some(k.sub_u32(part, 1)));
        });
    }
}

//! What products by `wgmma` (PTX ISA §9.7.15, sm_90a) share: who does what in a block, the ring of stages between them, the
//! order of the tiles, and the sums.
//!
//! The product is made transposed: with W's side as A and the activations as B, `wgmma` needs the activations in shared
//! memory as TMA puts them there, and W's side may come from registers. A tile is 128 *features*, 64 a consumer warpgroup,
//! by 64, 128 or 256 *tokens*, and `tokens / 2` sums a thread. The inner dimension is walked in chunks of 64.
//!
//! **Roles.** Warpgroup 0 produces: one thread starts the TMA copies of activations, 64 elements of each of the tile's
//! tokens with the 128-byte swizzle, which puts the 16-byte unit u of row r at `u ^ (r & 7)`; all 128 bring W's side.
//! Warpgroups 1 and 2 consume. Registers go from the first to the others (`setmaxnreg`).
//!
//! **Ring.** A stage has two `mbarrier`s. *Full* counts the four producing warps and the bytes of TMA, *empty* the eight
//! consuming warps; each warp synchronizes and then one lane arrives for all. Blocks are persistent, one an SM, and the ring
//! runs on from tile to tile: while the consumers store one, the producers fill the stages for the next.
//!
//! **Cluster.** Two blocks may work side by side, on neighbouring tiles of features of the same tokens. Each then brings half of
//! the activations, to both (`.multicast::cluster`): half as many bytes from L2. So a stage is empty when the consumers of both
//! blocks say so to both, and no block leaves before the other has done.
//!
//! **Order of the tiles.** Groups of `GROUP` tiles of tokens, in them feature after feature: what the blocks work on at a
//! time is nearly a square in bytes, and a group's activations stay in the L2 cache while all of W passes by. Where there are
//! few tiles, or few left after the last that occupy the whole device, these are made in parts of the inner dimension: first the
//! whole tiles, then one part of the others after the other, each with an output of its own to be added up later.

use super::decode::Half;
use ptx_asm::{
    Array, B32, B64, Descriptor, DynamicShared, F32, Kernel, Pred, Ptr, Reading, Reg, Shared, Swizzle,
    TensorMap, U8,
};

/// Threads of a block: three warpgroups.
pub const THREADS: u32 = 3 * WARPGROUP;
/// Threads of a warpgroup.
pub const WARPGROUP: u32 = 128;
/// Features of a tile.
pub const FEATURES: u32 = 128;
/// Elements of the inner dimension in a chunk.
pub const CHUNK: u32 = 64;
/// Steps of a chunk, one `wgmma` each.
pub const STEPS: u32 = CHUNK / 16;
/// Bytes of a chunk of a token's row: as wide as the swizzle.
pub const ROW: u32 = 2 * CHUNK;
/// Tiles of tokens that are made together.
pub const GROUP: u32 = 4;
/// Shared memory of a block at most.
pub const SHARED: u32 = 227 << 10;
/// What static tables take of it.
const STATIC: u32 = 1 << 10;
/// Stages of a ring at most: more hide nothing.
const MOST_STAGES: u32 = 8;

/// Emits `body` so many times, to run for each index below `count` in turn, with the number of the copy: for registers that
/// one step fills while others use other sets.
pub fn in_turns(k: &Kernel, copies: usize, count: Reg<B32>, body: impl Fn(Reg<B32>, usize)) {
    let index = k.var_u32(0);
    k.loop_(|l| {
        for copy in 0..copies {
            l.break_if(k.setp_ge_u32(index, count));
            body(index, copy);
            k.to(index).add_u32(index, 1);
        }
    });
}

/// The ring of stages of a block: their activations, and the barriers.
pub struct Pipeline<'k> {
    k: &'k Kernel,
    /// How many there are.
    pub stages: u32,
    /// Tokens of a tile.
    pub tokens: u32,
    /// Blocks that share activations: 1 or 2.
    cluster: u32,
    activations: Array<U8>,
    full: Array<B64>,
    empty: Array<B64>,
}

/// A stage and the parity of its barriers' phase, to be carried along the chunks.
pub struct Cursor {
    /// The stage.
    pub stage: Reg<B32>,
    parity: Reg<B32>,
}

impl<'k> Pipeline<'k> {
    /// For tiles of `tokens` tokens and clusters of so many blocks: as many stages as fit, with `beside` bytes of W's side each
    /// and `other` bytes beside the ring. [`meet`](Self::meet) must follow.
    pub fn new(
        k: &'k Kernel,
        shared: &mut DynamicShared,
        (tokens, cluster): (u32, u32),
        beside: u32,
        other: u32,
    ) -> Self {
        if cluster > 1 {
            k.reqnctapercluster([cluster, 1, 1]);
        }
        let barriers = 2 * 8 * MOST_STAGES;
        let stages = ((SHARED - STATIC - other - barriers) / (tokens * ROW + beside)).min(MOST_STAGES);
        let activations = shared.array_aligned::<U8>((stages * tokens * ROW) as usize, 1024);
        let [full, empty] = [(); 2].map(|()| shared.array::<B64>(stages as usize));
        k.if_then(k.setp_eq_u32(k.tid_x(), 0), || {
            for stage in 0..stages as usize {
                k.mbarrier_init(full.at(stage), WARPGROUP / 32);
                k.mbarrier_init(empty.at(stage), cluster * 2 * WARPGROUP / 32);
            }
            k.fence_mbarrier_init_release_cluster();
        });
        Self { k, stages, tokens, cluster, activations, full, empty }
    }

    /// All threads of the block, or of the cluster, meet.
    pub fn meet(&self) {
        let k = self.k;
        match self.cluster {
            1 => k.bar_sync(0),
            _ => {
                k.barrier_cluster_arrive();
                k.barrier_cluster_wait();
            }
        }
    }

    /// At the end of a thread: while others of the cluster reach into a block, it must be there.
    pub fn leave(&self) {
        if self.cluster > 1 {
            self.meet();
        }
    }

    /// Where a producer begins: the phase before the first counts as over, so every stage is free.
    pub fn producer(&self) -> Cursor {
        Cursor { stage: self.k.var_u32(0), parity: self.k.var_u32(1) }
    }

    /// Where a consumer begins.
    pub fn consumer(&self) -> Cursor {
        Cursor { stage: self.k.var_u32(0), parity: self.k.var_u32(0) }
    }

    /// Goes on to the next chunk's stage.
    pub fn advance(&self, at: &Cursor) {
        let k = self.k;
        k.to(at.stage).add_u32(at.stage, 1);
        let ends = k.setp_eq_u32(at.stage, self.stages);
        k.to(at.stage).selp_b32(0, at.stage, ends);
        k.to(at.parity).when(ends).xor_b32(at.parity, 1);
    }

    /// A producer waits until its stage is free.
    pub fn acquire(&self, at: &Cursor) {
        let (k, empty) = (self.k, self.empty.element(self.k, at.stage));
        match self.cluster {
            1 => k.mbarrier_wait_parity(empty, at.parity),
            _ => k.do_while(|| !k.mbarrier_try_wait_parity_cluster(empty, at.parity)),
        }
    }

    /// One thread, lane 0 of a producing warp: starts the copy of the block's box of activations, from this inner element and
    /// token on. What lies outside the matrix becomes zeros.
    pub fn bring(&self, at: &Cursor, map: TensorMap, inner: Reg<B32>, token: Reg<B32>) {
        let (k, full) = (self.k, self.full.element(self.k, at.stage));
        let to = self.activations_at(at.stage);
        k.mbarrier_expect_tx(full, self.tokens * ROW);
        if self.cluster == 1 {
            return k.cp_async_bulk_tensor_2d_load(to, map.tile([inner, token]), full);
        }
        let first = k.mul_lo_u32(k.cluster_ctarank(), self.tokens / self.cluster);
        let (to, tile) = (k.element(to, first, ROW), map.tile([inner, k.add_u32(token, first)]));
        let all = (1u16 << self.cluster) - 1;
        k.cp_async_bulk_tensor_2d_load_multicast(to, tile, full, all);
    }

    /// The stage's full barrier: what one thread of the producers may expect more bytes on.
    pub fn full(&self, at: &Cursor) -> Ptr<Shared> {
        self.full.element(self.k, at.stage)
    }

    /// A producer has written its part.
    pub fn publish(&self, at: &Cursor, lane: Reg<B32>) {
        let k = self.k;
        k.bar_warp_sync(u32::MAX);
        k.if_then(k.setp_eq_u32(lane, 0), || {
            k.mbarrier_arrive(self.full.element(k, at.stage));
        });
    }

    /// A consumer waits until its stage is full.
    pub fn wait(&self, at: &Cursor) {
        self.k.mbarrier_wait_parity(self.full.element(self.k, at.stage), at.parity);
    }

    /// A consumer has read its part.
    pub fn release(&self, stage: Reg<B32>, lane: Reg<B32>) {
        let k = self.k;
        k.bar_warp_sync(u32::MAX);
        k.if_then(k.setp_lt_u32(lane, self.cluster), || {
            let empty = self.empty.element(k, stage);
            match self.cluster {
                1 => drop(k.mbarrier_arrive(empty)),
                // A lane for each block.
                _ => k.mbarrier_arrive_remote(k.map_shared(empty, lane)),
            }
        });
    }

    fn activations_at(&self, stage: Reg<B32>) -> Ptr<Shared> {
        let k = self.k;
        k.element(self.activations.ptr(k), stage, self.tokens * ROW)
    }

    /// A stage's activations as the factor B: rows of 128 bytes along K, 8 of them after 1024 bytes. Its steps follow each other
    /// by 32 bytes.
    pub fn factor(&self, stage: Reg<B32>) -> Descriptor {
        self.k.matrix_descriptor(self.activations_at(stage), 16, 8 * ROW, Swizzle::Bytes128)
    }
}

/// The tiles of the output, whole and in parts: all of them together fit 31 bits.
pub struct Tiles<'k> {
    k: &'k Kernel,
    tokens: u32,
    cluster: u32,
    /// Tiles in each direction, of features those of a cluster.
    feature_tiles: Reg<B32>,
    token_tiles: Reg<B32>,
    split: Option<Split>,
}

/// Which tiles are made in parts.
#[derive(Clone, Copy)]
pub struct Split {
    /// How many tiles of a cluster come first, whole. There are more.
    pub whole: Reg<B32>,
    /// How many parts the others have.
    pub parts: Reg<B32>,
    /// Chunks of a part.
    pub chunks: Reg<B32>,
}

/// What a block works on at a time.
#[derive(Clone, Copy)]
pub struct Place {
    /// The tile's first feature.
    pub feature: Reg<B32>,
    /// Its first token.
    pub token: Reg<B32>,
    /// Where tiles are split: 0 for a whole one, from 1 on which part of the inner dimension.
    pub part: Option<Reg<B32>>,
}

impl<'k> Tiles<'k> {
    /// Of an output of so many features and tokens, in tiles of `size` tokens, for clusters of so many blocks.
    pub fn new(
        k: &'k Kernel,
        [features, tokens]: [Reg<B64>; 2],
        (size, cluster): (u32, u32),
        split: Option<Split>,
    ) -> Self {
        let tiles = |len, size: u32| {
            k.cvt_u32_u64(k.shr_u64(k.add_u64(len, u64::from(size - 1)), size.trailing_zeros()))
        };
        let (feature_tiles, token_tiles) = (tiles(features, cluster * FEATURES), tiles(tokens, size));
        Self { k, tokens: size, cluster, feature_tiles, token_tiles, split }
    }

    /// Emits `body` once, to run for each whole tile and each part of one that is this block's. The last may have no feature: a
    /// cluster's blocks make as many.
    pub fn for_each(&self, body: impl FnOnce(&Place)) {
        let (k, alone) = (self.k, self.cluster == 1);
        let (first, step) = match alone {
            true => (k.ctaid_x(), k.nctaid_x()),
            false => (k.clusterid_x(), k.nclusterid_x()),
        };
        let item = k.mov(first);
        let tiles = k.mul_lo_u32(self.feature_tiles, self.token_tiles);
        // How many are in parts.
        let split = self.split.map(|split| (split, k.sub_u32(tiles, split.whole)));
        let total = split.map_or(tiles, |(split, rest)| k.mad_lo_u32(rest, split.parts, split.whole));
        let of_group = k.mul_lo_u32(self.feature_tiles, GROUP);
        k.while_(
            || k.setp_lt_u32(item, total),
            || {
                let (tile, part) = match split {
                    None => (item, None),
                    Some((split, rest)) => {
                        let after = k.sub_u32(item, split.whole);
                        let part = k.div_u32(after, rest);
                        let tile = k.sub_u32(item, k.mul_lo_u32(part, rest));
                        let whole = k.setp_lt_u32(item, split.whole);
                        let part = k.selp_b32(0, k.add_u32(part, 1), whole);
                        (k.selp_b32(item, tile, whole), Some(part))
                    }
                };
                let group = k.div_u32(tile, of_group);
                let within = k.sub_u32(tile, k.mul_lo_u32(group, of_group));
                let first = k.mul_lo_u32(group, GROUP);
                let across = k.min_u32(GROUP, k.sub_u32(self.token_tiles, first));
                let feature = k.div_u32(within, across);
                let token = k.add_u32(first, k.sub_u32(within, k.mul_lo_u32(feature, across)));
                let feature = match alone {
                    true => feature,
                    false => k.mad_lo_u32(feature, self.cluster, k.cluster_ctarank()),
                };
                let (feature, token) = (k.mul_lo_u32(feature, FEATURES), k.mul_lo_u32(token, self.tokens));
                body(&Place { feature, token, part });
                k.to(item).add_u32(item, step);
            },
        );
    }
}

/// What clusters of so many blocks take of an output of `features` by `tokens`, `size` tokens each.
pub fn tiles(features: u64, tokens: u64, size: u32, cluster: u32) -> u64 {
    features.div_ceil((cluster * FEATURES).into()) * tokens.div_ceil(size.into())
}

/// The sums of a consumer warpgroup: 64 features of a tile. Of each 8 tokens lane `4g + t` of warp w holds the tokens `2t` and
/// `2t + 1` of feature `16w + g`, then of feature `16w + g + 8`.
pub struct Sums<'k> {
    k: &'k Kernel,
    half: Half,
    /// One register a sum.
    pub registers: Vec<Reg<F32>>,
    always: Reg<Pred>,
}

impl<'k> Sums<'k> {
    /// Registers without values, for factors of type `half`.
    pub fn new(k: &'k Kernel, half: Half, tokens: u32) -> Self {
        let always = k.setp_eq_u32(0, 0);
        Self { k, half, registers: (0..tokens / 2).map(|_| k.reg()).collect(), always }
    }

    /// Sets them to 0.
    pub fn clear(&self) {
        self.registers.iter().for_each(|&sum| self.k.to(sum).mov(0.0));
    }

    /// Starts to add the products of a step, A from registers.
    pub fn add_registers(&self, a: [Reg<B32>; 4], b: Descriptor) {
        match self.registers.len() {
            32 => self.add_registers_of::<32>(a, b),
            64 => self.add_registers_of::<64>(a, b),
            128 => self.add_registers_of::<128>(a, b),
            sums => unreachable!("tiles of {} tokens", 2 * sums),
        }
    }

    fn add_registers_of<const R: usize>(&self, a: [Reg<B32>; 4], b: Descriptor) {
        let (k, b) = (self.k, (b, Reading::K_MAJOR));
        match self.half {
            Half::F16 => k.wgmma_f32_f16_rs::<R>(self.array(), a.map(|r| r.as_f16x2()), b, self.always),
            Half::Bf16 => k.wgmma_f32_bf16_rs::<R>(self.array(), a.map(|r| r.as_bf16x2()), b, self.always),
        }
    }

    /// Starts to add the products of a step, A from shared memory.
    pub fn add_shared(&self, a: (Descriptor, Reading), b: Descriptor) {
        match self.registers.len() {
            32 => self.add_shared_of::<32>(a, b),
            64 => self.add_shared_of::<64>(a, b),
            128 => self.add_shared_of::<128>(a, b),
            sums => unreachable!("tiles of {} tokens", 2 * sums),
        }
    }

    fn add_shared_of<const R: usize>(&self, a: (Descriptor, Reading), b: Descriptor) {
        let (k, b) = (self.k, (b, Reading::K_MAJOR));
        match self.half {
            Half::F16 => k.wgmma_f32_f16_ss::<R>(self.array(), a, b, self.always),
            Half::Bf16 => k.wgmma_f32_bf16_ss::<R>(self.array(), a, b, self.always),
        }
    }

    fn array<const R: usize>(&self) -> [Reg<F32>; R] {
        self.registers[..].try_into().expect("as many as the product makes")
    }
}

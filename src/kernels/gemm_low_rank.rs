//! The adapter's own products on tensor cores: a long matrix, X or dY, and a narrow one of as many columns as the rank.
//!
//! | product | long | narrow | the sum runs |
//! |---|---|---|---|
//! | `T[M, r] = X·Aᵀ` | X | `A[r, K]` | along the rows of both |
//! | `U[M, r] = dY·B` | dY | `B[N, r]` | along dY's rows and down B |
//! | `dA[r, K] = Uᵀ·X` | X | `U[M, r]` | down both |
//! | `dB[N, r] = dYᵀ·T` | dY | `T[M, r]` | down both |
//!
//! They are bound by memory: the long matrix is streamed once for each 64 ranks. A block makes tiles of 128 elements across
//! it by 32 or 64 ranks, in chunks of 64 terms through a ring ([`super::staged`], with the places). So that there are blocks for
//! the whole device, sums are split: each block writes what its chunks come to, in f32, and a second kernel adds these
//! slices in order ([`super::cast`], [`super::split_sum`]).
//!
//! **Precision.** Products of 16-bit numbers are exact in f32. A narrow matrix that is neither of the long one's type nor bf16
//! comes as two bf16 parts, `n = n₁ + n₂` within 2⁻¹⁶·|n|. f16 has not the range for such parts: a long matrix of f16 beside
//! bf16 is split as well, exactly, when its fragments are in registers, and `x₂·n₂` left out: another 2⁻¹⁶.
//!
//! **Traffic.** Long matrix once, 16 bytes at a time, `cp.async`; the narrow one once for each tile across, from L2; slices
//! of `4·outer·rank` bytes. A chunk of a warp of the wider tile: 8 `ldmatrix.x4` of the long matrix and 8 of each narrow
//! part for 32 `mma` a part.

use super::decode::Half;
use super::mma_tile::Sums;
use super::ring::Ring;
use super::staged::{Cut, DEPTH, Rows, STEP, Staged};
use super::tile::THREADS;
use super::{Spec, Written, dynamic_module};
use ptx_asm::{B32, B64, Error, F32, Global, Kernel, Ptr, Reg, Target};

/// Elements of a tile across the long matrix.
const OUTER: u32 = 128;
/// Ranks of a warp.
const ACROSS: u32 = 32;
/// Fragments of 8 ranks of a warp.
const FRAGMENTS: u32 = ACROSS / 8;

/// What is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AdapterMatrix {
    /// `X·Aᵀ`.
    T,
    /// `dY·B`.
    U,
    /// `Uᵀ·X`.
    GradientA,
    /// `dYᵀ·T`.
    GradientB,
}

impl AdapterMatrix {
    /// Whether the sum runs along the long matrix's rows.
    pub fn is_along(self) -> bool {
        matches!(self, Self::T | Self::U)
    }
}

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GemmLowRankSpec {
    /// Which product.
    pub matrix: AdapterMatrix,
    /// The type of the long matrix.
    pub long: Half,
    /// The type of the narrow one: f16 only if both are.
    pub narrow: Half,
    /// How many of them it is the sum of: 1 or 2.
    pub parts: u32,
    /// Ranks of a tile: 32 or 64.
    pub ranks: u32,
    /// Whether two neighbours of a slice are written at once.
    pub pairs: bool,
    /// Blocks that an SM is to have at once.
    pub blocks: u32,
    /// Slots of the ring, at least 2.
    pub stages: u32,
}

impl GemmLowRankSpec {
    /// For a product of so many columns, the narrow matrix in parts; one block on an SM with the least ring.
    pub fn new(matrix: AdapterMatrix, [long, narrow]: [Half; 2], parts: u32, rank: u64) -> Self {
        let pairs = matrix != AdapterMatrix::GradientA && rank.is_multiple_of(2);
        Self { matrix, long, narrow, parts, ranks: tile_ranks(rank), pairs, blocks: 1, stages: 2 }
    }

    fn long_cut(&self) -> Cut {
        Cut { outer: OUTER, rows_are_inner: self.matrix.is_along(), parts: 1 }
    }

    /// Fragments of 16 elements of a warp.
    fn down(&self) -> u32 {
        self.ranks / ACROSS
    }

    fn narrow_cut(&self) -> Cut {
        Cut { outer: self.ranks, rows_are_inner: self.matrix == AdapterMatrix::T, parts: self.parts }
    }
}

impl Spec for GemmLowRankSpec {
    /// Parameters: the long matrix, its row stride; the narrow one, its row stride, with two parts their distance; the long
    /// matrix's size across the sum and along it; the rank; the number of slices, and of the chunks of each; the slices,
    /// f32 `[slices, outer, rank]` or for dA `[slices, rank, outer]` without gaps. All numbers are u64. Both matrices and
    /// their rows are aligned to 16 bytes, and units of 8 elements exist as a whole. Any grid. bf16 needs sm_80.
    fn write(&self, target: Target) -> Result<Written, Error> {
        dynamic_module(target, "gemm_low_rank", THREADS, |k| {
            let (body, shared) = Body::new(k, self);
            body.run();
            shared
        })
    }
}

/// The kernel's parameters and what a thread knows of its place.
struct Body<'k> {
    k: &'k Kernel,
    spec: &'k GemmLowRankSpec,
    ring: Ring<'k>,
    long: Staged<'k>,
    narrow: Staged<'k>,
    outer: Reg<B64>,
    inner: Reg<B64>,
    rank: Reg<B64>,
    slices: Reg<B64>,
    /// Chunks of a slice.
    each: Reg<B64>,
    out: Ptr<Global>,
    lane: Reg<B32>,
    /// The warp's first element and rank in a tile.
    corner: [Reg<B32>; 2],
    /// The rows of its fragments.
    rows: [Rows; 2],
}

impl<'k> Body<'k> {
    fn new(k: &'k Kernel, spec: &'k GemmLowRankSpec) -> (Self, usize) {
        k.minnctapersm(spec.blocks);
        let ring = Ring::new(k, spec.stages, 0);
        let mut shared = k.dynamic_shared(128);
        let long = Staged::new(k, "long", spec.long_cut(), &mut shared, ring.stages);
        let narrow = Staged::new(k, "narrow", spec.narrow_cut(), &mut shared, ring.stages);
        let [outer, inner, rank, slices, each] =
            ["outer", "inner", "rank", "slices", "each"].map(|name| k.param_u64(name));
        let out = k.param_ptr("out");
        let tid = k.tid_x();
        let (lane, warp) = (k.and_b32(tid, 31), k.shr_u32(tid, 5));
        let (across, down) = (spec.ranks / ACROSS, spec.down());
        let corner = [
            k.mul_lo_u32(k.shr_u32(warp, across.trailing_zeros()), 16 * down),
            k.mul_lo_u32(k.and_b32(warp, across - 1), ACROSS),
        ];
        // Of the four matrices of a fragment the second lies in A below the first, in B further along the sum.
        let [second, third] = [3, 4].map(|bit| k.and_b32(k.shr_u32(lane, bit), 1));
        let rows =
            [long.rows(corner[0], lane, [second, third]), narrow.rows(corner[1], lane, [third, second])];
        let bytes = shared.bytes();
        (
            Self { k, spec, ring, long, narrow, outer, inner, rank, slices, each, out, lane, corner, rows },
            bytes,
        )
    }

    fn run(&self) {
        let k = self.k;
        let tiles = |len, size: u32| k.shr_u64(k.add_u64(len, u64::from(size - 1)), size.trailing_zeros());
        let (down, across) = (tiles(self.outer, OUTER), tiles(self.rank, self.spec.ranks));
        let chunks = tiles(self.inner, DEPTH);
        let total = k.mul_lo_u64(k.mul_lo_u64(down, self.slices), across);
        k.section("this block's tiles and slices; those of the same part of the long matrix together");
        let item = k.cvt_u64_u32(k.ctaid_x());
        k.while_(
            || k.setp_lt_u64(item, total),
            || {
                let rest = k.div_u64(item, across);
                let column = k.sub_u64(item, k.mul_lo_u64(rest, across));
                let row = k.div_u64(rest, self.slices);
                let slice = k.sub_u64(rest, k.mul_lo_u64(row, self.slices));
                let origin = [
                    k.shl_b64(row, OUTER.trailing_zeros()),
                    k.shl_b64(column, self.spec.ranks.trailing_zeros()),
                ];
                let first = k.mul_lo_u64(slice, self.each);
                let count = k.cvt_u32_u64(k.min_u64(self.each, k.sub_u64(chunks, first)));
                let sums = self.multiply(origin, first, count);
                self.store(slice, origin, &sums);
                k.to(item).add_u64(item, k.cvt_u64_u32(k.nctaid_x()));
            },
        );
    }

    /// The sums over `count` chunks: fragment after fragment, across first.
    fn multiply(&self, [row0, rank0]: [Reg<B64>; 2], first: Reg<B64>, count: Reg<B32>) -> Vec<Sums> {
        let k = self.k;
        let sums: Vec<_> = (0..self.spec.down() * FRAGMENTS).map(|_| k.splat::<F32, 4>(0.0)).collect();
        self.ring.for_each(
            count,
            |batch, chunk, slot| {
                let at = k.shl_b64(k.add_u64(first, k.cvt_u64_u32(chunk)), DEPTH.trailing_zeros());
                let inner = [at, self.inner];
                self.long.bring(batch, slot, [row0, self.outer], inner);
                self.narrow.bring(batch, slot, [rank0, self.rank], inner);
            },
            |_, slot| self.multiply_chunk(slot, &sums),
        );
        sums
    }

    /// Adds the products of a chunk.
    fn multiply_chunk(&self, slot: Reg<B32>, sums: &[Sums]) {
        let (long, narrow) =
            (self.long.in_slot(&self.rows[0], slot), self.narrow.in_slot(&self.rows[1], slot));
        for step in 0..DEPTH / STEP {
            self.k.comment("sixteen terms");
            let a: Vec<_> =
                (0..self.spec.down()).map(|i| self.parts(self.long.fragment(&long, 0, i, step))).collect();
            for pair in 0..FRAGMENTS / 2 {
                for part in 0..self.spec.parts {
                    let b = self.narrow.fragment(&narrow, part, pair, step);
                    for (i, a) in (0..).zip(&a) {
                        // The second part of both is as small as what the parts leave out.
                        for a in &a[..a.len().min(2 - part as usize)] {
                            for odd in 0..2 {
                                let sum = sums[(i * FRAGMENTS + 2 * pair + odd) as usize];
                                let b = [b[2 * odd as usize], b[2 * odd as usize + 1]];
                                self.spec.narrow.add_product(self.k, *a, b, sum);
                            }
                        }
                    }
                }
            }
        }
    }

    /// A fragment of the long matrix in the type that is multiplied: as it is, or as two parts with 8 of f16's 11 bits and
    /// the other 3.
    fn parts(&self, fragment: [Reg<B32>; 4]) -> Vec<[Reg<B32>; 4]> {
        let k = self.k;
        if self.spec.long == self.spec.narrow {
            return vec![fragment];
        }
        let split = fragment.map(|pair| self.spec.narrow.split(k, self.spec.long.unpack(k, pair)));
        [0, 1].map(|part| split.map(|parts| parts[part])).to_vec()
    }

    /// Writes a tile of a slice.
    fn store(&self, slice: Reg<B64>, [row0, rank0]: [Reg<B64>; 2], sums: &[Sums]) {
        let (k, transposed) = (self.k, self.spec.matrix == AdapterMatrix::GradientA);
        k.section("store");
        let slice = k.mul_lo_u64(k.mul_lo_u64(slice, self.outer), self.rank);
        let out = k.offset(self.out, k.shl_b64(slice, 2));
        let place = |row, rank| {
            let element = match transposed {
                true => k.mad_lo_u64(rank, self.outer, row),
                false => k.mad_lo_u64(row, self.rank, rank),
            };
            k.offset(out, k.shl_b64(element, 2))
        };
        let (g, t) = (k.shr_u32(self.lane, 2), k.and_b32(self.lane, 3));
        let [row, rank] = self.corner;
        for i in 0..2 * self.spec.down() {
            let row = k.add_u64(row0, k.cvt_u64_u32(k.add_u32(row, k.add_u32(g, 8 * i))));
            let row_exists = k.setp_lt_u64(row, self.outer);
            for j in 0..FRAGMENTS {
                let within = k.add_u32(rank, k.mad_lo_u32(t, 2, 8 * j));
                let rank = k.add_u64(rank0, k.cvt_u64_u32(within));
                let exists = |rank| k.when(k.and_pred(row_exists, k.setp_lt_u64(rank, self.rank)));
                let sum = sums[(i / 2 * FRAGMENTS + j) as usize];
                let [low, high] = [sum[2 * (i as usize % 2)], sum[2 * (i as usize % 2) + 1]];
                match self.spec.pairs {
                    true => exists(rank).st_global::<[F32; 2]>(place(row, rank), [low, high]),
                    false => {
                        exists(rank).st_global::<F32>(place(row, rank), low);
                        let rank = k.add_u64(rank, 1);
                        exists(rank).st_global::<F32>(place(row, rank), high);
                    }
                }
            }
        }
    }
}

/// Ranks of a tile.
fn tile_ranks(rank: u64) -> u32 {
    if rank > 32 { 64 } else { 32 }
}

/// Bytes of a slot of the ring.
pub fn slot_bytes(rank: u64, parts: u32) -> u32 {
    2 * DEPTH * (OUTER + parts * tile_ranks(rank))
}

/// How the sums of a product are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slices {
    /// How many slices.
    pub count: u64,
    /// Chunks of each; the last one may have fewer.
    pub each: u64,
    /// Tiles times slices.
    pub blocks: u64,
}

impl Slices {
    /// The cut that is predicted to be the fastest for a product of `outer` x `rank` sums of `inner` terms, on so many SMs
    /// that have so many blocks each at once, 1 or 2.
    ///
    /// In 1/32 of the time in which an SM, all of them busy, streams a whole chunk: a chunk of fewer rows takes less, down to
    /// 12, the latency that the ring cannot hide. An SM with one block is no faster than that, one with two shares it
    /// between them, and more have to wait for their turn. Filling the ring takes 64; to write a tile of a slice and read
    /// it again, from L2, 1 for each rank; adding a slice to the others 3.
    pub fn new([outer, inner, rank]: [u64; 3], processors: u64, resident: u32) -> Self {
        let ranks = u64::from(tile_ranks(rank));
        let tiles = outer.div_ceil(OUTER.into()).saturating_mul(rank.div_ceil(ranks));
        let chunks = inner.div_ceil(DEPTH.into()).max(1);
        let chunk = u128::from((outer.min(OUTER.into()) / 4).max(12));
        let cut = |count: u64| {
            let each = chunks.div_ceil(count);
            Self { count: chunks.div_ceil(each), each, blocks: tiles.saturating_mul(chunks.div_ceil(each)) }
        };
        let cost = |cut: &Self| {
            let turns = cut.blocks.div_ceil(u64::from(resident) * processors);
            let [tiles, chunks, turns, processors, ranks, count, each, blocks] =
                [tiles, chunks, turns, processors, ranks, cut.count, cut.each, cut.blocks].map(u128::from);
            let streaming = chunk * (tiles * chunks).max(processors * turns * each);
            streaming + ranks * blocks + processors * (64 * turns + 3 * count)
        };
        (1..=chunks.min(processors)).map(cut).min_by_key(cost).expect("there is a chunk")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// K = 4096, rank 64.
    #[test]
    fn slices_fill_the_device() {
        let slices = |m| Slices::new([m, 4096, 64], 132, 2).count;
        // One block for each SM, or nearly; whole sums where there are tiles enough.
        assert_eq!([1024, 2048, 4096, 8192, 16384, 32768].map(slices), [16, 8, 4, 2, 1, 1]);
        // Two blocks share an SM, so that 157 tiles need no slices.
        assert_eq!(slices(20_000), 1);
        // Where two do not fit, whole sums would take two turns, the second one for 25 SMs; four slices take five short ones.
        assert_eq!(Slices::new([20_000, 4096, 64], 132, 1).count, 4);
        // Little work is not worth a slice for each SM.
        assert_eq!([1, 128].map(slices), [16, 22]);
        assert_eq!(Slices::new([100, 100, 8], 132, 2), Slices { count: 2, each: 1, blocks: 2 });
        assert_eq!(Slices::new([100, 1000, 100], 1, 2), Slices { count: 1, each: 16, blocks: 2 });
    }
}

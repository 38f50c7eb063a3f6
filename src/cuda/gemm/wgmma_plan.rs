//! How a product with more than few rows is cut for a Hopper: by counting the clocks of its busiest SM.
//!
//! A chunk of 64 elements of the inner dimension takes the longest of
//!
//! - its products, 4 clocks a row of activations;
//! - its decoding, the same whatever the rows: 240 instructions for a quarter of an SM on units of half rate, of two consuming
//!   warps and a producing one (forward), or of one producing warp alone, which waits for itself (backward);
//! - what it reads from L2: activations, codes and constants.
//!
//! Two blocks side by side in a cluster read activations once. A tile takes some time more to fill the pipeline and to store
//! its rows. Parts of a split inner dimension are written and read as f32, by another launch. The constants are round: they
//! order the choices, no more.

use crate::kernels::wgmma_pipeline::{CHUNK, FEATURES, tiles};

/// Clocks that decoding a chunk takes.
#[derive(Clone, Copy, Debug)]
pub enum Decoding {
    /// By the consumers.
    Forward = 500,
    /// By the producers.
    Backward = 550,
}

/// The cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Rows of a tile.
    pub rows: u32,
    /// Blocks of a cluster.
    pub cluster: u32,
    /// Parts of the inner dimension, at least 1, none of them empty.
    pub splits: u64,
    /// Chunks of a part.
    pub per_split: u64,
    /// Tiles of a cluster times parts.
    pub items: u64,
}

/// Bytes of L2 a clock and SM.
const L2_RATE: u64 = 32;
/// Clocks to fill the pipeline and store a tile, without its rows, and for each row.
const TILE: u64 = 1500;
const TILE_ROW: u64 = 5;
/// Clocks of a second launch.
const LAUNCH: u64 = 2500;

impl Plan {
    /// For an output of `features` by `rows` sums over `inner` on so many SMs; none of the three is 0.
    pub fn new(processors: u64, [features, rows, inner]: [u64; 3], decoding: Decoding) -> Self {
        let chunks = inner.div_ceil(CHUNK.into());
        let of_tiles = |(tile_rows, cluster)| {
            [1, 2, 3, 4, 6, 8].map(|splits| {
                let per_split = chunks.div_ceil(splits);
                let splits = chunks.div_ceil(per_split);
                let items = tiles(features, rows, tile_rows, cluster) * splits;
                Plan { rows: tile_rows, cluster, splits, per_split, items }
            })
        };
        let cuts = [256, 128, 64].into_iter().flat_map(|rows| [(rows, 2), (rows, 1)]);
        let plans = cuts.filter(|&(_, cluster)| u64::from(cluster) <= processors).flat_map(of_tiles);
        plans.min_by_key(|plan| plan.clocks(processors, features * rows, decoding)).expect("there are plans")
    }

    /// Rows that a block brings of the activations.
    pub fn box_rows(&self) -> u32 {
        self.rows / self.cluster
    }

    /// Blocks to launch: one an SM, in whole clusters.
    pub fn blocks(&self, processors: u64) -> u64 {
        self.cluster as u64 * self.items.min(processors / u64::from(self.cluster))
    }

    /// Clocks, as a number that no sizes of matrices overflow.
    fn clocks(&self, processors: u64, outputs: u64, decoding: Decoding) -> u128 {
        let [rows, cluster] = [self.rows, self.cluster].map(u64::from);
        // Codes and constants: a byte at most.
        let bytes = u64::from(CHUNK) * (2 * rows / cluster + u64::from(FEATURES));
        let chunk = (4 * rows).max(decoding as u64).max(bytes / L2_RATE);
        let item = u128::from(self.per_split) * u128::from(chunk) + u128::from(TILE + TILE_ROW * rows);
        let written = 8 * u128::from(self.splits) * u128::from(outputs);
        let parts = match self.splits {
            1 => 0,
            _ => u128::from(LAUNCH) + written / u128::from(L2_RATE * processors),
        };
        u128::from(self.items.div_ceil(processors / cluster)) * item + parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const H100: u64 = 132;

    #[test]
    fn parts_cover_the_sum_and_none_is_empty() {
        for features in [1, 100, 4096, 28672] {
            for rows in [65, 128, 300, 8192] {
                for chunks in [1, 2, 5, 7, 64, 172] {
                    for decoding in [Decoding::Forward, Decoding::Backward] {
                        let plan = Plan::new(H100, [features, rows, 64 * chunks - 3], decoding);
                        assert!(plan.splits * plan.per_split >= chunks, "{plan:?}");
                        assert!((plan.splits - 1) * plan.per_split < chunks, "{plan:?}");
                        assert_eq!(plan.items, tiles(features, rows, plan.rows, plan.cluster) * plan.splits);
                        assert_eq!(plan.blocks(H100) % u64::from(plan.cluster), 0);
                    }
                }
            }
        }
    }

    /// Many tiles are large and whole; few are made more by splitting the sum.
    #[test]
    fn splits_where_tiles_are_few() {
        let plan = |shape| Plan::new(H100, shape, Decoding::Forward);
        let large = plan([4096, 8192, 4096]);
        assert_eq!((large.rows, large.cluster, large.splits), (256, 2, 1));
        let few = plan([4096, 128, 4096]);
        assert!(few.splits > 1 && few.items * u64::from(few.cluster) <= H100, "{few:?}");
    }

    /// Up to 128 rows are one tile, for which W is decoded once; two where there are too few features to occupy the device.
    #[test]
    fn a_tile_may_be_partly_empty() {
        for rows in [65, 96, 127] {
            for (features, tile) in [(28672, 128), (4096, 128), (1024, 64)] {
                let plan = Plan::new(H100, [features, rows, 4096], Decoding::Backward);
                assert_eq!((plan.rows, plan.cluster), (tile, 2), "{rows} rows, {features} features");
            }
        }
    }
}

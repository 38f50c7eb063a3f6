//! How a product with more than few rows is cut for a Hopper: by counting the clocks of its busiest SM, 1.75 thousand a
//! microsecond. `benches/gpu/predict.rs` predicts by the same count.
//!
//! A chunk of 64 elements of the inner dimension takes the longest of
//!
//! - its products, 4.8 clocks a row of activations: 790 TFLOP/s on 132 SMs, what cuBLAS reaches (4.0 at the peak);
//! - its decoding, the same whatever the rows: 240 instructions for a quarter of an SM on units of half rate, of two consuming
//!   warps and a producing one (forward), or of one producing warp alone, which waits for itself (backward);
//! - what it reads from L2, 24 bytes a clock and SM (5.5 TB/s): activations, which two blocks side by side in a cluster read
//!   once, codes and constants.
//!
//! A tile takes some time more to fill the pipeline, and its store the time of its bytes to L2: a block has one tile at a time,
//! and all SMs end theirs together, so no products hide it.
//!
//! **The last turn.** Where the tiles that are left after whole turns of all SMs leave many of these idle, only they are made in
//! parts of the inner dimension. They are the output's last features as long as there are no more tiles of rows than are made
//! together; with more rows there are so many turns that it matters little.
//!
//! **Parts** of a split inner dimension are stored as f32 and added up by a second launch, which can read none of them before the
//! last is there. So their traffic adds to the products' time, it does not overlap it. It stays in L2: cuts with more parts
//! than half of it holds are left out. The second launch is a dependent one where the driver knows those: already set up, its
//! blocks start where blocks of the first end, whose registers and shared memory leave them no room before. What is left are
//! the end of the first grid, its writes visible to all, and one chain of loads from L2; where the driver is older, the set-up
//! comes on top, which no cut depends on.
//!
//! The constants are round, and none of them has been measured on a GPU.

use crate::kernels::wgmma_block::Cut;
use crate::kernels::wgmma_pipeline::{CHUNK, FEATURES, GROUP, tiles};

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
    /// Tiles of a cluster that are made whole, before the others.
    pub whole: u64,
    /// The first feature of the others.
    pub first: u64,
    /// Parts of the inner dimension that these are made in, at least 1, none of them empty.
    pub splits: u64,
    /// Chunks of a part.
    pub per_split: u64,
    /// Chunks of the whole.
    pub chunks: u64,
    /// Whole tiles and parts of tiles.
    pub items: u64,
}

/// Rows of activations from which on it pays: more than the kernels for few rows take. A tile of 128 rows decodes W once for all that
/// there are, as fast as the tensor cores multiply the whole tile; `mma.sync` does neither.
pub const LEAST_ROWS: usize = 65;

/// Clocks of a chunk's products, for each row of activations.
const PRODUCTS_ROW: f64 = 4.8;
/// Bytes of L2 a clock and SM.
const L2_RATE: f64 = 24.0;
/// Bytes of a weight: half a byte of code, an f32 for 64 of them.
const WEIGHT: f64 = 0.5 + 4.0 / 64.0;
/// Bytes of an element of the output, as a rule, and of a part.
const OUTPUT: f64 = 2.0;
const PART: f64 = 4.0;
/// Clocks until a tile's first chunk has come.
const FILL: f64 = 1500.0;
/// Bytes of parts that stay in L2.
const MOST_PARTS: f64 = 25e6;
/// Clocks of a dependent launch.
const LAUNCH: f64 = 1500.0;
/// Clocks that the sum takes to issue the instructions of an element: 165 for four of two or three parts, of which 70 divide.
const SUM: f64 = 0.35;

impl Plan {
    /// For an output of `features` by `rows` sums over `inner` on so many SMs; none of the three is 0.
    pub fn new(processors: u64, [features, rows, inner]: [u64; 3], decoding: Decoding) -> Self {
        let chunks = inner.div_ceil(CHUNK.into());
        let of_tiles = |(tile_rows, cluster)| {
            let (all, down) = (tiles(features, rows, tile_rows, cluster), rows.div_ceil(tile_rows.into()));
            // Whole, so many at a time; none if the others would not be the output's last features.
            let waves = all - all % (processors / u64::from(cluster));
            let waves = if down <= GROUP.into() { waves - waves % down } else { 0 };
            [1, 2, 3, 4, 6, 8].into_iter().flat_map(move |splits| {
                let per_split = chunks.div_ceil(splits);
                let splits = chunks.div_ceil(per_split);
                [0, waves].map(|whole| {
                    let whole = if splits == 1 { all } else { whole };
                    let first = (whole / down * u64::from(cluster * FEATURES)).min(features);
                    let items = whole + (all - whole) * splits;
                    Plan { rows: tile_rows, cluster, whole, first, splits, per_split, chunks, items }
                })
            })
        };
        let cuts = [256, 128, 64].into_iter().flat_map(|rows| [(rows, 2), (rows, 1)]);
        let plans = cuts.filter(|&(_, cluster)| u64::from(cluster) <= processors).flat_map(of_tiles);
        let parts = |plan: &Plan| PART * plan.splits as f64 * (rows * (features - plan.first)) as f64;
        let plans =
            plans.filter(|plan| plan.splits == 1 || plan.first < features && parts(plan) <= MOST_PARTS);
        let clocks = |plan: &Plan| plan.clocks(processors, [features, rows], decoding);
        plans.min_by(|a, b| clocks(a).total_cmp(&clocks(b))).expect("there are plans")
    }

    /// As the kernels take it.
    pub fn cut(&self) -> Cut {
        Cut { tokens: self.rows, cluster: self.cluster, in_parts: self.splits > 1 }
    }

    /// Rows that a block brings of the activations.
    pub fn box_rows(&self) -> u32 {
        self.rows / self.cluster
    }

    /// Blocks to launch: one an SM, in whole clusters.
    pub fn blocks(&self, processors: u64) -> u64 {
        self.cluster as u64 * self.items.min(processors / u64::from(self.cluster))
    }

    /// Clocks from the first launch's first block to the last one's end, for an output of `features` by `rows`.
    pub fn clocks(&self, processors: u64, [features, rows]: [u64; 2], decoding: Decoding) -> f64 {
        let (_, chunk) = self.longest(decoding);
        let item = |chunks: u64, element| {
            chunks as f64 * chunk + FILL + f64::from(self.rows * FEATURES) * element / L2_RATE
        };
        let (whole, part) = (item(self.chunks, OUTPUT), item(self.per_split, PART));
        // A cluster takes the next item that is nobody's in turn: those at the edges of the last turns have most.
        let clusters = processors / u64::from(self.cluster);
        let products = [0, self.whole % clusters, self.items % clusters].map(|cluster| {
            let of = |items: u64| items.saturating_sub(cluster).div_ceil(clusters);
            of(self.whole) as f64 * whole + (of(self.items) - of(self.whole)) as f64 * part
        });
        let products = products.into_iter().fold(0.0, f64::max);
        if self.splits == 1 {
            return products;
        }
        let outputs = (rows * (features - self.first)) as f64;
        let traffic = (self.splits as f64 * PART + OUTPUT) / L2_RATE;
        products + LAUNCH + outputs / processors as f64 * traffic.max(SUM)
    }

    /// What a chunk waits for, and how many clocks.
    pub fn longest(&self, decoding: Decoding) -> (&'static str, f64) {
        let [rows, cluster, features] = [self.rows, self.cluster, FEATURES].map(f64::from);
        let bytes = f64::from(CHUNK) * (2.0 * rows / cluster + WEIGHT * features);
        let parts = [
            ("tensor", PRODUCTS_ROW * rows),
            ("decoding", f64::from(decoding as u32)),
            ("cache", bytes / L2_RATE),
        ];
        parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).expect("there are parts")
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
                        let others = tiles(features, rows, plan.rows, plan.cluster) - plan.whole;
                        assert_eq!(plan.items, plan.whole + others * plan.splits);
                        assert_eq!(plan.splits == 1, others == 0, "{plan:?}");
                        let down = rows.div_ceil(plan.rows.into());
                        assert!(plan.whole.is_multiple_of(down), "{plan:?}");
                        let first = plan.whole / down * u64::from(plan.cluster * FEATURES);
                        assert_eq!(first.min(features), plan.first, "{plan:?}");
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

    /// 86 tiles for 66 clusters: 20 of them in three parts, which leave few of them idle.
    #[test]
    fn splits_the_last_turn_alone() {
        let plan = Plan::new(H100, [11008, 256, 4096], Decoding::Forward);
        let Plan { rows, cluster, whole, first, splits, items, .. } = plan;
        assert_eq!((rows, cluster, whole, first, splits, items), (128, 2, 66, 33 * 256, 3, 126));
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

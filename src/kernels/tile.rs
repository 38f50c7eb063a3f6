//! How the streaming kernels cut a flattened matrix.
//!
//! The wide side of a stream moves 16 bytes a lane and access: a *vector*, 8 elements of 16 bits or 4 of 32. A warp
//! handles 4 vectors a lane at a time, vector after vector across its lanes, so that every access of a warp is 512
//! consecutive bytes and four are in flight. A block of 8 warps handles a *tile*: 8192 or 4096 elements, always whole
//! quantization blocks. Blocks stride over the tiles, so a grid may be as small as the device is.

use super::tensor::Layout;
use crate::view::DType;
use ptx_asm::{B32, B64, Kernel, Reg};

/// Threads a block.
pub const THREADS: u32 = 256;
/// Vectors a lane and tile.
pub const VECTORS: u32 = 4;
/// Bytes a vector.
pub const VECTOR_BYTES: u32 = 16;

/// The tiles of a matrix with elements of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Elements a vector: 8 or 4.
    pub vector: u32,
}

impl Tile {
    /// Vectors of this type.
    pub fn of(dtype: DType) -> Self {
        Self { vector: VECTOR_BYTES / dtype.size() as u32 }
    }

    /// Tiles of `n` elements.
    pub fn count(self, n: u64) -> u64 {
        n.div_ceil(self.elements().into())
    }

    /// Elements that a warp's lanes hold in one vector each.
    pub fn across(self) -> u32 {
        32 * self.vector
    }

    /// Elements of a warp in a tile.
    pub fn warp(self) -> u32 {
        VECTORS * self.across()
    }

    /// Elements of a tile.
    pub fn elements(self) -> u32 {
        THREADS / 32 * self.warp()
    }

    /// Emits `body`, to run for each tile of `n` elements that is this block's.
    pub fn for_each(self, k: &Kernel, n: Reg<B64>, body: impl FnOnce(&Place)) {
        let tid = k.tid_x();
        let (warp, lane) = (k.shr_u32(tid, 5), k.and_b32(tid, 31));
        let within_warp = k.mul_lo_u32(lane, self.vector);
        let within = k.mad_lo_u32(warp, self.warp(), within_warp);
        let start = k.mul_wide_u32(k.ctaid_x(), self.elements());
        let stride = k.mul_wide_u32(k.nctaid_x(), self.elements());
        k.while_(
            || k.setp_lt_u64(start, n),
            || {
                let first = k.add_u64(start, k.cvt_u64_u32(within));
                let whole = k.setp_le_u64(k.add_u64(start, u64::from(self.elements())), n);
                // Elements from the thread's first one on; more than a tile are as good as one.
                let left = k.min_s64(k.sub_s64(n, first), i64::from(self.elements()));
                let left = k.cvt_u32_u64(k.max_s64(left, 0i64));
                body(&Place { tile: self, first, left, warp, lane, within, within_warp, whole });
                k.to(start).add_u64(start, stride);
            },
        );
    }
}

/// Where a thread stands in its tile.
pub struct Place {
    /// The cut.
    pub tile: Tile,
    /// The first element of the thread's vector 0.
    pub first: Reg<B64>,
    /// Elements from `first` on, as far as they matter.
    left: Reg<B32>,
    /// The thread's warp.
    pub warp: Reg<B32>,
    /// The thread's lane.
    pub lane: Reg<B32>,
    /// `first` less the first element of the tile.
    pub within: Reg<B32>,
    /// `first` less the first element of the warp.
    pub within_warp: Reg<B32>,
    /// Whether all elements of the tile exist; the same in all threads of the block.
    pub whole: Reg<ptx_asm::Pred>,
}

impl Place {
    /// The distance of the thread's vector `u` from its vector 0, in elements.
    pub fn apart(&self, u: u32) -> u32 {
        u * self.tile.across()
    }

    /// The number of element `i` of vector `u`.
    pub fn index(&self, k: &Kernel, u: u32, i: u32) -> Reg<B64> {
        k.add_u64(self.first, u64::from(self.apart(u) + i))
    }

    /// Emits `whole` for the tiles that have all elements, if the layout allows whole vectors, and `single`, which looks at
    /// each element, for what is left.
    pub fn whole_or_single(&self, k: &Kernel, layout: Layout, whole: impl FnOnce(), single: impl FnOnce()) {
        match layout {
            Layout::Vectors => k.if_else(self.whole, whole, single),
            Layout::Elements | Layout::Strided => single(),
        }
    }

    /// Whether element `i` of vector `u` exists.
    pub fn exists(&self, k: &Kernel, u: u32, i: u32) -> Reg<ptx_asm::Pred> {
        k.setp_gt_u32(self.left, self.apart(u) + i)
    }
}

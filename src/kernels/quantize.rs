//! Quantization to 4-bit blocks: [`crate::format::blockwise4::quantize`].
//!
//! Traffic: an element is read once (2 or 4 bytes) and written as half a byte and its share of an f32. With 16-bit input
//! that bounds an H100 at about 24 lane-instructions an element; this has about 20 (1 to widen, 2 for the absmax, 1 to
//! scale, 11 to find the rank, 2 to pack, the rest a vector's overhead), 2 of them conflict-free shared loads.

use super::scale::{self, Span};
use super::table::{Encoder, Thresholds};
use super::tensor::{Layout, TensorParam, widen};
use super::tile::{THREADS, Tile, VECTORS};
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{B32, Error, Kernel, Target, U8, U16};

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QuantizeSpec {
    /// The type of the elements.
    pub dtype: DType,
    /// How they lie; for [`Layout::Vectors`] the codes are aligned to 4 bytes.
    pub layout: Layout,
    /// The data type that they are quantized to.
    pub table: Thresholds,
    /// A power of two from 32 to 4096.
    pub block_size: u32,
}

impl Spec for QuantizeSpec {
    /// Parameters: the tensor, codes, absmax (f32, one a block), elements (u64). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "quantize", THREADS, |k| self.body(k))
    }
}

impl QuantizeSpec {
    fn body(&self, k: &Kernel) {
        let x = TensorParam::new(k, "x", self.dtype, self.layout);
        let (codes, absmax, n) = (k.param_ptr("codes"), k.param_ptr("absmax"), k.param_u64("n"));
        let tile = Tile::of(self.dtype);

        k.section("tables");
        let encoder = Encoder::new(k, &self.table, THREADS);
        let span = Span::new(k, self.block_size, tile.vector);
        k.bar_sync(0);

        tile.for_each(k, n, |place| {
            k.section("load");
            let values = x.load(k, place).map(|words| widen(k, self.dtype, words));

            k.section("absmax of each block");
            let largest = std::array::from_fn(|u| scale::largest(k, &values[u]));
            let scales = span.scales(k, place, largest);
            scale::store(k, place, &scales, absmax, self.block_size);

            k.section("codes");
            let words: [_; VECTORS as usize] = std::array::from_fn(|u| {
                let scaled: Vec<_> = values[u].iter().map(|&x| k.mul_rn_f32(x, scales[u].inverse)).collect();
                encoder.pack(k, &scaled)
            });

            k.section("store");
            let first = k.offset(codes, k.shr_u64(place.first, 1));
            let bytes = tile.vector / 2;
            let whole = || {
                for (u, &word) in (0..).zip(&words) {
                    let to = first.at((place.apart(u) / 2) as i32);
                    if bytes == 4 { k.st_global::<B32>(to, word) } else { k.st_global::<U16>(to, word) }
                }
            };
            let single = || {
                for (u, &word) in (0..).zip(&words) {
                    for byte in 0..bytes {
                        let pair = k.bfe_u32(word, 8 * byte, 8);
                        let lone = k.bfi_b32(u32::from(self.table.zero_code), pair, 0, 4);
                        let pair = k.selp_b32(pair, lone, place.exists(k, u, 2 * byte + 1));
                        let to = first.at((place.apart(u) / 2 + byte) as i32);
                        k.when(place.exists(k, u, 2 * byte)).st_global::<U8>(to, pair);
                    }
                }
            };
            place.whole_or_single(k, self.layout, whole, single);
        });
    }
}

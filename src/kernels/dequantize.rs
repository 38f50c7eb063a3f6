//! Dequantization of a whole matrix: [`crate::format::blockwise4::dequantize`].
//!
//! Traffic: half a byte and a share of the constants in, 2 or 4 bytes out. The lanes of a warp read the constants of the
//! warp's part of the tile once, one lane a block, decode them there and hand them round. An element costs 2 instructions
//! for the address of its value, a conflict-free shared load, the product, and half a conversion.

use super::constants::{ConstantsParam, ConstantsSpec, count_blocks};
use super::table::Decoder;
use super::tensor::{Layout, TensorParam, narrow};
use super::tile::{Place, THREADS, Tile, VECTORS};
use super::{Spec, Written, module};
use crate::view::DType;
use ptx_asm::{B32, Error, Global, Kernel, Load, Ptr, Reg, Target, U8, U16};

/// Which kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DequantizeSpec {
    /// The type of the output.
    pub dtype: DType,
    /// How it lies; for [`Layout::Vectors`] the codes are aligned to 4 bytes.
    pub layout: Layout,
    /// The bits of each code's value.
    pub values: [u32; 16],
    /// A power of two from 32 to 4096.
    pub block_size: u32,
    /// How the constants are stored.
    pub constants: ConstantsSpec,
}

impl Spec for DequantizeSpec {
    /// Parameters: the output tensor, codes, the constants, elements (u64). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "dequantize", THREADS, |k| self.body(k))
    }
}

impl DequantizeSpec {
    fn body(&self, k: &Kernel) {
        let out = TensorParam::new(k, "out", self.dtype, self.layout);
        let codes = k.param_ptr("codes");

        k.section("tables");
        let constants = ConstantsParam::new(k, &self.constants);
        let n = k.param_u64("n");
        let decoder = Decoder::new(k, self.values.map(f32::from_bits), THREADS);
        k.bar_sync(0);
        let blocks = count_blocks(k, n, self.block_size);

        let tile = Tile::of(self.dtype);
        tile.for_each(k, n, |place| {
            k.section("codes and constants");
            let words = self.load_codes(k, place, codes);
            let constants = constants.load_warps(k, place, self.block_size, blocks);

            k.section("values");
            let vectors = std::array::from_fn(|u| {
                let absmax = constants.of_vector(k, place, u as u32);
                let values = decoder.unpack(k, words[u], tile.vector);
                let scaled: Vec<_> = values.into_iter().map(|value| k.mul_rn_f32(value, absmax)).collect();
                narrow(k, self.dtype, &scaled)
            });

            k.section("store");
            out.store(k, place, &vectors);
        });
    }

    /// The packed codes of each of the thread's vectors.
    fn load_codes(&self, k: &Kernel, place: &Place, codes: Ptr<Global>) -> [Reg<B32>; VECTORS as usize] {
        let words: [Reg<B32>; VECTORS as usize] = k.regs();
        let first = k.offset(codes, k.shr_u64(place.first, 1));
        let bytes = place.tile.vector / 2;
        let whole = || {
            for (u, &word) in (0..).zip(&words) {
                let from = first.at((place.apart(u) / 2) as i32);
                match bytes {
                    4 => k.to(word).ld_global_with::<B32>(Load::NC, from),
                    _ => k.to(word).ld_global_with::<U16>(Load::NC, from),
                }
            }
        };
        let single = || {
            for (u, &word) in (0..).zip(&words) {
                k.to(word).mov(0);
                for byte in 0..bytes {
                    let pair = k.mov::<B32>(0);
                    let from = first.at((place.apart(u) / 2 + byte) as i32);
                    k.to(pair).when(place.exists(k, u, 2 * byte)).ld_global::<U8>(from);
                    k.to(word).bfi_b32(pair, word, 8 * byte, 8);
                }
            }
        };
        place.whole_or_single(k, self.layout, whole, single);
        words
    }
}

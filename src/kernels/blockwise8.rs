//! 8-bit blocks, there and back: [`crate::format::blockwise8`].

use super::constants::{ConstantsParam, ConstantsSpec, count_blocks};
use super::double_quantize::{rank256, share_thresholds};
use super::scale::{self, Span};
use super::table;
use super::tensor::{Layout, TensorParam, narrow, widen};
use super::tile::{Place, THREADS, Tile};
use super::{Spec, Written, module};
use crate::format::Map256;
use crate::view::DType;
use ptx_asm::{B32, Error, F32, Global, Kernel, Load, Ptr, Reg, Target, U8};

/// To 8 bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Quantize8Spec {
    /// The type of the elements.
    pub dtype: DType,
    /// How they lie; for [`Layout::Vectors`] the codes are aligned to 8 bytes.
    pub layout: Layout,
    /// The bits of the map's values.
    pub map: Box<[u32; 256]>,
    /// A power of two from 32 to 4096.
    pub block_size: u32,
}

/// From 8 bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Dequantize8Spec {
    /// The type of the output.
    pub dtype: DType,
    /// How it lies; for [`Layout::Vectors`] the codes are aligned to 8 bytes.
    pub layout: Layout,
    /// The bits of the map's values.
    pub map: Box<[u32; 256]>,
    /// A power of two from 32 to 4096.
    pub block_size: u32,
}

impl Spec for Quantize8Spec {
    /// Parameters: the tensor, codes, absmax (f32, one a block), elements (u64). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        let map = Map256::new(&self.map.map(f32::from_bits)).expect("checked by ops");
        module(target, "quantize_8bit", THREADS, |k| {
            let x = TensorParam::new(k, "x", self.dtype, self.layout);
            let (codes, absmax, n) = (k.param_ptr("codes"), k.param_ptr("absmax"), k.param_u64("n"));
            let tile = Tile::of(self.dtype);
            k.section("tables");
            let thresholds = share_thresholds(k, &map);
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
                let encode =
                    |&x: &Reg<F32>, u: usize| rank256(k, thresholds, k.mul_rn_f32(x, scales[u].inverse));
                let words: Vec<_> = (0..values.len())
                    .map(|u| {
                        let bytes: Vec<_> = values[u].iter().map(|x| encode(x, u)).collect();
                        bytes.chunks(4).map(|four| join(k, four)).collect()
                    })
                    .collect();
                k.section("store");
                store_bytes(k, place, self.layout, codes, &words);
            });
        })
    }
}

impl Spec for Dequantize8Spec {
    /// Parameters: the output tensor, codes, absmax (f32, one a block), elements (u64). Any grid.
    fn write(&self, target: Target) -> Result<Written, Error> {
        module(target, "dequantize_8bit", THREADS, |k| {
            let out = TensorParam::new(k, "out", self.dtype, self.layout);
            let codes = k.param_ptr("codes");
            let absmax = ConstantsParam::new(k, &ConstantsSpec::Plain);
            let n = k.param_u64("n");
            let (tile, blocks) = (Tile::of(self.dtype), count_blocks(k, n, self.block_size));
            k.section("tables");
            let values = table::share(k, "values", &*self.map, THREADS);
            k.bar_sync(0);

            tile.for_each(k, n, |place| {
                k.section("codes and constants");
                let constants = absmax.load_warps(k, place, self.block_size, blocks);
                let words = load_bytes(k, place, self.layout, codes);
                k.section("values");
                let vectors = std::array::from_fn(|u| {
                    let scale = constants.of_vector(k, place, u as u32);
                    let decode = |i: u32| {
                        let code = k.bfe_u32(words[u][i as usize / 4], 8 * (i % 4), 8);
                        k.mul_rn_f32(k.ld_shared::<F32>(values.element(k, code)), scale)
                    };
                    let decoded: Vec<_> = (0..tile.vector).map(decode).collect();
                    narrow(k, self.dtype, &decoded)
                });
                k.section("store");
                out.store(k, place, &vectors);
            });
        })
    }
}

/// Four bytes as a word, the first lowest.
pub fn join(k: &Kernel, bytes: &[Reg<B32>]) -> Reg<B32> {
    let (low, high) = (k.prmt_b32(bytes[0], bytes[1], 0x0040), k.prmt_b32(bytes[2], bytes[3], 0x0040));
    k.prmt_b32(low, high, 0x5410)
}

/// Writes the codes of the thread's vectors, one byte an element.
fn store_bytes(k: &Kernel, place: &Place, layout: Layout, codes: Ptr<Global>, words: &[Vec<Reg<B32>>]) {
    let first = k.offset(codes, place.first);
    let whole = || {
        for (u, words) in (0..).zip(words) {
            let to = first.at(place.apart(u) as i32);
            match words[..] {
                [word] => k.st_global::<B32>(to, word),
                [low, high] => k.st_global::<[B32; 2]>(to, [low, high]),
                _ => unreachable!("a vector has 4 or 8 elements"),
            }
        }
    };
    let single = || {
        for (u, words) in (0..).zip(words) {
            for i in 0..place.tile.vector {
                let byte = k.bfe_u32(words[i as usize / 4], 8 * (i % 4), 8);
                let to = first.at((place.apart(u) + i) as i32);
                k.when(place.exists(k, u, i)).st_global::<U8>(to, byte);
            }
        }
    };
    place.whole_or_single(k, layout, whole, single);
}

/// Reads the codes of the thread's vectors; what does not exist is 0.
fn load_bytes(k: &Kernel, place: &Place, layout: Layout, codes: Ptr<Global>) -> Vec<Vec<Reg<B32>>> {
    let each = place.tile.vector as usize / 4;
    let words: Vec<Vec<Reg<B32>>> =
        (0..super::tile::VECTORS).map(|_| (0..each).map(|_| k.reg()).collect()).collect();
    let first = k.offset(codes, place.first);
    let whole = || {
        for (u, words) in (0..).zip(&words) {
            let from = first.at(place.apart(u) as i32);
            match words[..] {
                [word] => k.to(word).ld_global_with::<B32>(Load::NC, from),
                [low, high] => k.to([low, high]).ld_global_with::<[B32; 2]>(Load::NC, from),
                _ => unreachable!("a vector has 4 or 8 elements"),
            }
        }
    };
    let single = || {
        for (u, words) in (0..).zip(&words) {
            words.iter().for_each(|&word| k.to(word).mov(0));
            for i in 0..place.tile.vector {
                let byte = k.mov::<B32>(0);
                let from = first.at((place.apart(u) + i) as i32);
                k.to(byte).when(place.exists(k, u, i)).ld_global::<U8>(from);
                let word = words[i as usize / 4];
                k.to(word).bfi_b32(byte, word, 8 * (i % 4), 8);
            }
        }
    };
    place.whole_or_single(k, layout, whole, single);
    words
}

//! 8-bit blockwise quantization.

use super::device::Queue;
use super::launch::{Args, layout};
use super::memory::Address;
use crate::error::Result;
use crate::format::Map256;
use crate::kernels::blockwise8::{Dequantize8Spec, Quantize8Spec};
use crate::kernels::table::bits;
use crate::kernels::tile::Tile;
use crate::view::{Buffer, BufferMut, Tensor, TensorMut};

/// Enqueues the quantization of `x`.
pub fn quantize(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    map: &Map256,
    block_size: u32,
    codes: &BufferMut<'_, u8>,
    absmax: &BufferMut<'_, f32>,
) -> Result<()> {
    let n = (x.rows() * x.cols()) as u64;
    if n == 0 {
        return Ok(());
    }
    let layout = layout(x, codes.address(), 8);
    let map = Box::new(bits(map.values));
    let spec = Quantize8Spec { dtype: x.dtype(), layout, map, block_size };
    let args = Args::new().tensor(x, layout).pointer(codes).pointer(absmax).number(n);
    queue.launch(spec.into(), Tile::of(x.dtype()).count(n), args)
}

/// Enqueues the dequantization into `out`.
pub fn dequantize(
    queue: &Queue<'_>,
    codes: Buffer<'_, u8>,
    absmax: Buffer<'_, f32>,
    map: &Map256,
    block_size: u32,
    out: &TensorMut<'_>,
) -> Result<()> {
    let n = (out.rows() * out.cols()) as u64;
    if n == 0 {
        return Ok(());
    }
    let layout = layout(out, codes.address(), 8);
    let map = Box::new(bits(map.values));
    let spec = Dequantize8Spec { dtype: out.dtype(), layout, map, block_size };
    let args = Args::new().tensor(out, layout).pointer(codes).pointer(absmax).number(n);
    queue.launch(spec.into(), Tile::of(out.dtype()).count(n), args)
}

//! Dequantization of a whole matrix.

use super::device::Queue;
use super::launch::{Args, layout};
use super::memory::Address;
use crate::error::Result;
use crate::format::CodebookTable;
use crate::kernels::constants::ConstantsSpec;
use crate::kernels::dequantize::DequantizeSpec;
use crate::kernels::table::bits;
use crate::kernels::tile::Tile;
use crate::view::{ConstantsView, Quantized, TensorMut};

/// Enqueues the dequantization of `matrix`, which has elements, into `out`.
pub fn dequantize(
    queue: &Queue<'_>,
    matrix: &Quantized<'_>,
    table: &CodebookTable,
    out: &TensorMut<'_>,
) -> Result<()> {
    let n = (out.rows() * out.cols()) as u64;
    let layout = layout(out, matrix.codes.address(), 4);
    let spec = DequantizeSpec {
        dtype: out.dtype(),
        layout,
        values: bits(table.values),
        block_size: matrix.spec.block_size,
        constants: ConstantsSpec::of(&matrix.spec.constants),
    };
    let args = Args::new().tensor(out, layout).pointer(matrix.codes);
    let args = match matrix.constants {
        ConstantsView::F32(absmax) => args.pointer(absmax),
        ConstantsView::Nested { codes, scales, offset } => {
            args.pointer(codes).pointer(scales).pointer(offset)
        }
    };
    let tiles = Tile::of(out.dtype()).count(n);
    queue.launch(spec.into(), tiles, args.number(n))
}

//! Quantization: one kernel for codes and absmax, with double quantization those of [`super::double_quantize`] after it.

use super::device::Queue;
use super::double_quantize;
use super::launch::{Args, layout};
use super::memory::Address;
use crate::error::Result;
use crate::format::CodebookTable;
use crate::kernels::quantize::QuantizeSpec;
use crate::kernels::tile::Tile;
use crate::view::{BufferMut, ConstantsMut, QuantizedMut, Tensor};

/// Bytes of workspace: with double quantization the f32 constants, then what their quantization needs.
pub fn workspace_size(blocks: u64, nested: bool) -> Option<u64> {
    if nested {
        double_quantize::workspace_size(blocks)?.checked_add(blocks.checked_mul(4)?)
    } else {
        Some(0)
    }
}

/// Enqueues the quantization of `x` into `out`.
pub fn quantize(
    queue: &Queue<'_>,
    x: &Tensor<'_>,
    table: &CodebookTable,
    out: QuantizedMut<'_>,
    workspace: BufferMut<'_, u8>,
) -> Result<()> {
    let n = (x.rows() * x.cols()) as u64;
    let blocks = n.div_ceil(u64::from(out.spec.block_size));
    let (absmax, rest) = match &out.constants {
        ConstantsMut::F32(absmax) => (absmax.address(), 0),
        ConstantsMut::Nested { .. } => {
            let start = double_quantize::aligned(workspace.address());
            (start, double_quantize::aligned(start + 4 * blocks))
        }
    };
    let layout = layout(x, out.codes.address(), 4);
    let spec =
        QuantizeSpec { dtype: x.dtype(), layout, table: table.into(), block_size: out.spec.block_size };
    let args = Args::new().tensor(x, layout).pointer(&out.codes).number(absmax).number(n);
    if n > 0 {
        let tiles = Tile::of(x.dtype()).count(n);
        queue.launch(spec.into(), tiles, args)?;
    }
    match &out.constants {
        ConstantsMut::F32(_) => Ok(()),
        ConstantsMut::Nested { codes, scales, offset } => {
            let constants = &out.spec.constants;
            double_quantize::enqueue(
                queue,
                absmax,
                blocks,
                constants,
                [codes.address(), scales.address(), offset.address()],
                rest,
            )
        }
    }
}

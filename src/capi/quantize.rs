//! Sizes, tables, quantization and dequantization.

use super::convert::*;
use super::guard::guard;
use super::types::*;
use crate::error::{Error, Result, ensure};
use crate::format::{Map256, dynamic};
use crate::ops;
use std::ffi::c_void;

/// Writes how many bytes a matrix [rows, cols] takes in a format to `*sizes`, whose struct_size the caller has set.
/// Zero rows or columns are allowed.
///
/// Errors: QLK_STATUS_INVALID_ARGUMENT for a bad spec; QLK_STATUS_TOO_LARGE where a size does not fit 64 bits.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_quantized_sizes(
    spec: *const qlk_quant_spec,
    rows: u64,
    cols: u64,
    sizes: *mut qlk_sizes,
) -> qlk_status {
    guard(|| {
        let (spec, out) = unsafe { (super::convert::spec(spec, "spec")?, out_struct(sizes, "sizes")?) };
        spec.check_block_size().map_err(|message| Error::invalid(format!("spec.{message}")))?;
        spec.codebook.table().map_err(Error::invalid)?;
        let sizes = spec.sizes(rows, cols).map_err(Error::too_large)?;
        *out = qlk_sizes {
            struct_size: out.struct_size,
            reserved: 0,
            elements: sizes.elements,
            blocks: sizes.blocks,
            code_bytes: sizes.code_bytes,
            absmax_bytes: sizes.absmax_len * 4,
            absmax_codes_bytes: sizes.absmax_codes_len,
            absmax_scales_bytes: sizes.absmax_scales_len * 4,
            total_bytes: sizes.total_bytes,
        };
        Ok(())
    })
}

/// Writes the values of a format's 16 codes to `values[0..16]`, in the order of the codes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_codebook_values(spec: *const qlk_quant_spec, values: *mut f32) -> qlk_status {
    guard(|| {
        let table =
            unsafe { super::convert::spec(spec, "spec")? }.codebook.table().map_err(Error::invalid)?;
        *unsafe { out(values.cast::<[f32; 16]>(), "values")? } = table.values;
        Ok(())
    })
}

/// Writes bitsandbytes' dynamic 8-bit map to `values[0..256]`: the signed one if `is_signed` is not 0, else the unsigned.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_dynamic_map(is_signed: u32, values: *mut f32) -> qlk_status {
    guard(|| {
        *unsafe { out(values.cast::<[f32; 256]>(), "values")? } = dynamic::dynamic_map(is_signed != 0);
        Ok(())
    })
}

/// Writes to `*size` how many bytes of workspace qlk_quantize needs, at any alignment.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_quantize_workspace_size(
    context: *const qlk_context,
    spec: *const qlk_quant_spec,
    rows: u64,
    cols: u64,
    size: *mut u64,
) -> qlk_status {
    guard(|| {
        let (context, spec, out) = unsafe {
            (super::convert::context(context)?, super::convert::spec(spec, "spec")?, out(size, "size")?)
        };
        let (rows, cols) = (super::convert::size(rows, "rows")?, super::convert::size(cols, "cols")?);
        *out = ops::quantize_workspace_size(context, &spec, rows, cols)? as u64;
        Ok(())
    })
}

/// Quantizes `x` [rows, cols], of any dtype, into `q`, which has its shape.
///
/// Block by block, in f32: absmax = max|x|; the code is the number of midpoints between neighbouring values that
/// x * (1 / absmax) exceeds. A block of zeros, or one so small that 1 / absmax overflows, has absmax 0 and the codes of
/// zero. A NaN or infinity makes its own block non-finite (with QLK_CONSTANTS_MAP, whose map has no NaN, the 256 blocks
/// that share its scale). All devices give the same bits.
///
/// `workspace` holds qlk_quantize_workspace_size bytes. Memory of `x`, `q` and `workspace` must not overlap. `stream` is
/// ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_quantize(
    context: *const qlk_context,
    x: *const qlk_tensor,
    q: *const qlk_quantized,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let context = context_on_stream(context, stream)?;
        let (x, q) = (tensor(x, "x")?, QuantizedArg::read(q, "q")?);
        ops::quantize(&context, x, q.view_mut()?, super::convert::workspace(workspace, workspace_size)?)
    })
}

/// Dequantizes `q` into `y`, of any dtype, which has its shape: `value[code] * absmax` in f32, rounded once. The memory of
/// the two must not overlap. `stream` is ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_dequantize(
    context: *const qlk_context,
    q: *const qlk_quantized,
    y: *const qlk_tensor,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let context = context_on_stream(context, stream)?;
        let (q, y) = (QuantizedArg::read(q, "q")?, tensor_mut(y, "y")?);
        ops::dequantize(&context, q.view()?, y)
    })
}

/// Writes to `*size` how many bytes of workspace qlk_double_quantize needs for as many constants, at any alignment; 0 on a
/// CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_double_quantize_workspace_size(
    context: *const qlk_context,
    blocks: u64,
    size: *mut u64,
) -> qlk_status {
    guard(|| {
        let (context, out) = unsafe { (super::convert::context(context)?, out(size, "size")?) };
        *out = ops::double_quantize_workspace_size(context, super::convert::size(blocks, "blocks")?)? as u64;
        Ok(())
    })
}

/// Quantizes the f32 constants `absmax`, one a block of `q`, into `q`'s absmax_codes, absmax_scales and absmax_offset;
/// q's spec says how (QLoRA, section 3: the mean is subtracted, the differences go to 8 bits in blocks of 256). `codes`
/// is not used. `workspace` holds qlk_double_quantize_workspace_size bytes. `stream` is ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_double_quantize(
    context: *const qlk_context,
    absmax: *const f32,
    q: *const qlk_quantized,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let context = context_on_stream(context, stream)?;
        let q = QuantizedArg::read(q, "q")?;
        let sizes = q.sizes()?;
        check_nested(&q)?;
        let absmax = buffer(absmax, sizes.blocks, "absmax")?;
        let workspace = super::convert::workspace(workspace, workspace_size)?;
        ops::double_quantize(&context, absmax, &q.spec.constants, q.constants_mut(&sizes)?, workspace)
    })
}

/// Writes the constants of `q`, read back from their 8-bit form, to `absmax`, one f32 a block:
/// `value[code] * scale + offset`, product and sum each rounded. `codes` is not used. `stream` is ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_double_dequantize(
    context: *const qlk_context,
    q: *const qlk_quantized,
    absmax: *mut f32,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let context = context_on_stream(context, stream)?;
        let q = QuantizedArg::read(q, "q")?;
        let sizes = q.sizes()?;
        check_nested(&q)?;
        let absmax = buffer_mut(absmax, sizes.blocks, "absmax")?;
        ops::double_dequantize(&context, q.constants(&sizes)?, &q.spec.constants, absmax)
    })
}

fn check_nested(q: &QuantizedArg) -> Result<()> {
    ensure!(
        q.spec.is_double_quantized(),
        "q.spec.constants is QLK_CONSTANTS_F32; double quantization needs QLK_CONSTANTS_FP8 or QLK_CONSTANTS_MAP"
    );
    Ok(())
}

/// Quantizes `x`, flattened, to 8 bits in blocks (8-bit optimizer states, arXiv 2110.02861): `codes` gets one byte an
/// element, `absmax` one f32 per `block_size` elements (a power of two from 32 to 4096). `map` has 256 finite ascending
/// values in host memory; null stands for the signed dynamic map. `stream` is ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_quantize_8bit(
    context: *const qlk_context,
    x: *const qlk_tensor,
    map: *const f32,
    block_size: u32,
    codes: *mut u8,
    absmax: *mut f32,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (context, x, map) = (context_on_stream(context, stream)?, tensor(x, "x")?, map256(map)?);
        let (elements, blocks) = eight_bit_sizes(x.rows(), x.cols(), block_size);
        let (codes, absmax) = (buffer_mut(codes, elements, "codes")?, buffer_mut(absmax, blocks, "absmax")?);
        ops::quantize_8bit(&context, x, &map, block_size, codes, absmax)
    })
}

/// Writes `map[code] * absmax`, rounded once, to `y`, of any dtype. Arguments as for qlk_quantize_8bit.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_dequantize_8bit(
    context: *const qlk_context,
    codes: *const u8,
    absmax: *const f32,
    map: *const f32,
    block_size: u32,
    y: *const qlk_tensor,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (context, y, map) = (context_on_stream(context, stream)?, tensor_mut(y, "y")?, map256(map)?);
        let (elements, blocks) = eight_bit_sizes(y.rows(), y.cols(), block_size);
        let (codes, absmax) = (buffer(codes, elements, "codes")?, buffer(absmax, blocks, "absmax")?);
        ops::dequantize_8bit(&context, codes, absmax, &map, block_size, y)
    })
}

/// Elements and blocks; the operation refuses a bad block size.
fn eight_bit_sizes(rows: usize, cols: usize, block_size: u32) -> (u64, u64) {
    let elements = (rows * cols) as u64;
    (elements, elements.div_ceil(u64::from(block_size.max(1))))
}

/// # Safety
/// `map` is null or points to 256 values.
unsafe fn map256(map: *const f32) -> Result<Map256> {
    if map.is_null() {
        return Ok(Map256::dynamic_signed());
    }
    check_pointer(map, "map")?;
    Map256::new(unsafe { &*map.cast() }).map_err(Error::invalid)
}

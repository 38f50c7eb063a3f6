//! The products of 16-bit activations and a quantized weight by the warpgroups of Hopper, for many rows.

use super::low_rank::down_projection;
use super::workspace::Workspace;
use super::{Weight, product, whole};
use crate::cuda::device::Queue;
use crate::cuda::driver::check;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::decode::Half;
use crate::kernels::gemm_wgmma::GemmWgmmaSpec;
use crate::kernels::wgmma_pipeline::{CHUNK, SHARED, tiles};
use crate::view::{DType, Lora, Tensor, TensorMut};
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType_enum as Type, CUtensorMapFloatOOBfill_enum as Fill,
    CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as Promotion,
    CUtensorMapSwizzle_enum as Swizzle,
};
use std::ffi::c_void;
use std::mem::MaybeUninit;

/// Rows of activations from which on it pays: a tile of at least so many decodes fast enough for the tensor cores.
const ROWS: usize = 128;

/// The type to compute in, if the device and the kernel take these arguments: Hopper and its shared memory, 16-bit X that a tensor map describes, rows
/// of W in whole chunks, blocks that do not end inside one, a low-rank T that a tensor map describes.
pub fn takes(queue: &Queue<'_>, x: &Tensor<'_>, w: Weight<'_>, lora: Option<&Lora<'_>>) -> Option<Half> {
    let half = half_of(x.dtype())?;
    let adapter_fits = lora.is_none_or(|lora| {
        lora.rank().is_multiple_of(8)
            && lora.b.dtype() == x.dtype()
            && whole((&lora.b).address(), 2 * lora.b.row_stride(), 4)
    });
    let fits = queue.is_hopper()
        && queue.shared_per_block() >= SHARED
        && x.rows() >= ROWS
        && fits_map(x)
        && w.view.rows < 1 << 31
        && tiles(w.view.rows as u64, x.rows() as u64, 64) < 1 << 31
        && w.view.cols > 0
        && w.view.cols.is_multiple_of(CHUNK as usize)
        && w.view.spec.block_size >= CHUNK
        && w.view.codes.address().is_multiple_of(16)
        && adapter_fits;
    fits.then_some(half)
}

fn half_of(dtype: DType) -> Option<Half> {
    match dtype {
        DType::F32 => None,
        DType::F16 => Some(Half::F16),
        DType::Bf16 => Some(Half::Bf16),
    }
}

/// Whether a tensor map can describe a matrix: 16-byte pieces, coordinates of 31 bits.
fn fits_map(x: &Tensor<'_>) -> bool {
    whole(x.address(), 2 * x.row_stride(), 16)
        && [x.rows(), x.cols()].iter().all(|&len| len < 1 << 31)
        && x.row_stride() < 1 << 38
}

/// Rows of a tile: what takes the least time. A chunk's products take `4 · tokens` clocks of an SM, its decoding 400 whatever the
/// tile; filling the pipeline and storing take about 8 clocks a row and 1500.
fn tile_tokens(queue: &Queue<'_>, [m, n, inner]: [u64; 3]) -> u32 {
    let clocks = |tokens: u32| {
        let waves = tiles(n, m, tokens).div_ceil(queue.processors());
        waves * (inner / u64::from(CHUNK) * u64::from(4 * tokens).max(400) + u64::from(8 * tokens) + 1500)
    };
    [256, 128, 64].into_iter().min_by_key(|&tokens| clocks(tokens)).expect("there are tiles")
}

/// Enqueues `Y = X·Wᵀ + bias + T·Bᵀ` with `T = s·X·Aᵀ`, rounded to X's type.
pub fn forward(
    queue: &Queue<'_>,
    half: Half,
    x: &Tensor<'_>,
    w: Weight<'_>,
    bias: Option<&Tensor<'_>>,
    lora: Option<&Lora<'_>>,
    y: &TensorMut<'_>,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let shape = [x.rows() as u64, w.view.rows as u64, w.view.cols as u64];
    let tokens = tile_tokens(queue, shape);
    let args = w.args(Args::new().tensor_map(tensor_map(x, tokens)?));
    let mut args = shape.into_iter().fold(args, Args::number);
    if let Some(lora) = lora {
        let t = down_projection(queue, x, lora, x.dtype(), workspace)?;
        args = args.tensor_map(tensor_map(&t.as_tensor(), tokens)?);
        args = args.pointer(&lora.b).number(lora.b.row_stride() as u64).number(lora.rank() as u64);
    }
    let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
    let args = args.pointer(y).number(Matrix::row_stride(&y));
    let [m, n, _] = shape;
    let product = product(half, w, y, bias, lora, false);
    let blocks = tiles(n, m, tokens).min(queue.processors());
    queue.launch(GemmWgmmaSpec { tokens, product }.into(), blocks, args)
}

/// The map of a matrix of 16-bit elements in boxes of `rows` rows, 64 elements wide, permuted by the 128-byte swizzle. What lies
/// outside the matrix reads as zeros.
fn tensor_map(x: &Tensor<'_>, rows: u32) -> Result<CUtensorMap> {
    let dtype = match x.dtype() {
        DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        _ => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    let size = [x.cols() as u64, x.rows() as u64];
    let (stride, tile, ones) = (2 * x.row_stride() as u64, [CHUNK, rows], [1; 2]);
    let address = std::ptr::without_provenance_mut::<c_void>(x.address() as usize);
    let mut map = MaybeUninit::uninit();
    // SAFETY: as many dimensions as said, the pointers valid; `fits_map` holds.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            map.as_mut_ptr(),
            dtype,
            2,
            address,
            size.as_ptr(),
            &stride,
            tile.as_ptr(),
            ones.as_ptr(),
            Interleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            Promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            Fill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(result, "cuTensorMapEncodeTiled")?;
    // SAFETY: the driver has written it.
    Ok(unsafe { map.assume_init() })
}

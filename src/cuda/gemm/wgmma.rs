//! The products of 16-bit activations and a quantized weight by the warpgroups of Hopper, for more than few rows.

use super::cast::Slices;
use super::cast::aligned;
use super::low_rank::Term;
use super::split_sum::{self, sum};
use super::wgmma_plan::{Decoding, LEAST_ROWS, Plan};
use super::workspace::Workspace;
use super::{Weight, product};
use crate::cuda::device::{Cuda, Queue};
use crate::cuda::driver::check;
use crate::cuda::launch::{Args, Matrix};
use crate::cuda::memory::Address;
use crate::error::Result;
use crate::kernels::KernelSpec;
use crate::kernels::decode::Half;
use crate::kernels::gemm_wgmma::GemmWgmmaSpec;
use crate::kernels::gemm_wgmma_backward::{GemmWgmmaBackwardSpec, SPAN};
use crate::kernels::wgmma_pipeline::{CHUNK, SHARED, tiles};
use crate::view::{DType, Lora, Tensor, TensorMut};
use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType_enum as Type, CUtensorMapFloatOOBfill_enum as Fill,
    CUtensorMapInterleave_enum as Interleave, CUtensorMapL2promotion_enum as Promotion,
    CUtensorMapSwizzle_enum as Swizzle,
};
use std::ffi::c_void;
use std::mem::MaybeUninit;

/// The type to compute in, if the kernels take these arguments, forward or backward: Hopper and its shared memory, enough rows,
/// 16-bit activations that a tensor map describes, rows of W in whole spans of 64 that share a constant.
pub fn takes(queue: &Queue<'_>, activations: &Tensor<'_>, w: Weight<'_>) -> Option<Half> {
    let half = match activations.dtype() {
        DType::F32 => return None,
        DType::F16 => Half::F16,
        DType::Bf16 => Half::Bf16,
    };
    let [rows, cols] = [w.view.rows, w.view.cols];
    let fits = queue.is_hopper()
        && queue.shared_per_block() >= SHARED
        && activations.rows() >= LEAST_ROWS
        && fits_map(activations)
        && rows > 0
        && cols > 0
        && cols.is_multiple_of(SPAN as usize)
        && [rows, cols].into_iter().all(|len| len < 1 << 31)
        && tiles(rows.max(cols) as u64, activations.rows() as u64, 64, 1) < 1 << 28
        && w.view.spec.block_size >= SPAN
        && w.view.codes.address().is_multiple_of(16);
    fits.then_some(half)
}

/// Whether a tensor map can describe a matrix: 16-byte pieces, coordinates of 31 bits.
fn fits_map(x: &Tensor<'_>) -> bool {
    aligned(x) && [x.rows(), x.cols()].iter().all(|&len| len < 1 << 31) && x.row_stride() < 1 << 38
}

/// Bytes of workspace for the parts of a split product at most, forward or backward.
pub fn bytes(cuda: &Cuda, [m, n, k]: [usize; 3]) -> Option<usize> {
    if !cuda.is_hopper() || m < LEAST_ROWS || [n, k].contains(&0) {
        return Some(0);
    }
    let parts = |features: usize, inner: usize, decoding| {
        let shape = [features, m, inner].map(|len| len as u64);
        let plan = Plan::new(cuda.processors.into(), shape, decoding);
        split_sum::bytes(plan.splits, [m, features - plan.first as usize])
    };
    Some(parts(n, k, Decoding::Forward)?.max(parts(k, n, Decoding::Backward)?))
}

/// Enqueues `Y = X·Wᵀ + bias + T·Bᵀ` with `T = s·X·Aᵀ` rounded to X's type.
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
    let [m, n, k] = shape(x, w);
    let plan = Plan::new(queue.processors(), [n, m, k], Decoding::Forward);
    let mut args = operands(x, w, plan.box_rows())?;
    if let Some(lora) = lora {
        let Term { low, matrix } = Term::forward(queue, x, lora, half, workspace)?;
        args = args.tensor_map(tensor_map(&low, plan.box_rows())?);
        args = args.pointer(&matrix).number(matrix.row_stride() as u64).number(low.cols() as u64);
    }
    let args = bias.into_iter().fold(args, |args, bias| args.pointer(bias));
    let spec = GemmWgmmaSpec { cut: plan.cut(), product: product(half, w, y, bias, lora, false) };
    start(queue, spec.into(), &plan, args, bias, y, false, workspace)
}

/// Enqueues `dX = dY·W + U·A` with `U = s·dY·B` rounded to dY's type; written or added to what is there.
pub fn backward(
    queue: &Queue<'_>,
    half: Half,
    dy: &Tensor<'_>,
    w: Weight<'_>,
    lora: Option<&Lora<'_>>,
    dx: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let [m, n, k] = shape(dy, w);
    let plan = Plan::new(queue.processors(), [k, m, n], Decoding::Backward);
    let mut args = operands(dy, w, plan.box_rows())?;
    if let Some(lora) = lora {
        let Term { low, matrix } = Term::backward(queue, dy, lora, half, workspace)?;
        args = args.tensor_map(tensor_map(&low, plan.box_rows())?).tensor_map(tensor_map(&matrix, CHUNK)?);
        args = args.number(low.cols() as u64);
    }
    let spec =
        GemmWgmmaBackwardSpec { cut: plan.cut(), product: product(half, w, dx, None, lora, accumulate) };
    start(queue, spec.into(), &plan, args, None, dx, accumulate, workspace)
}

/// Launches a kernel whose arguments are complete but for the output and the cut, and the sum of what it makes in parts.
fn start(
    queue: &Queue<'_>,
    spec: KernelSpec,
    plan: &Plan,
    args: Args,
    bias: Option<&Tensor<'_>>,
    out: &TensorMut<'_>,
    accumulate: bool,
    workspace: &mut Workspace<'_>,
) -> Result<()> {
    let blocks = plan.blocks(queue.processors());
    let args = args.pointer(out).number(Matrix::row_stride(&out));
    if plan.splits == 1 {
        return queue.launch(spec, blocks, args);
    }
    let features = out.cols() - plan.first as usize;
    let parts = workspace.matrix(DType::F32, plan.splits as usize * out.rows(), features)?;
    let args = [plan.whole, plan.splits, plan.per_split].into_iter().fold(args, Args::number);
    queue.launch(spec, blocks, args.pointer(&parts).number(features as u64))?;
    sum(queue, &Slices::stacked(parts, plan.splits), bias, out, accumulate)
}

/// M, N and K.
fn shape(activations: &Tensor<'_>, w: Weight<'_>) -> [u64; 3] {
    [activations.rows(), w.view.rows, w.view.cols].map(|len| len as u64)
}

/// The activations, in boxes of `rows` rows, the weight, M, N and K.
fn operands(activations: &Tensor<'_>, w: Weight<'_>, rows: u32) -> Result<Args> {
    let args = w.args(Args::new().tensor_map(tensor_map(activations, rows)?));
    Ok(shape(activations, w).into_iter().fold(args, Args::number))
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

//! The types and constants of the header.

use std::ffi::{c_char, c_void};

/// What a function returns: QLK_STATUS_OK, or what kind of thing went wrong.
pub type qlk_status = u32;
/// Done.
pub const QLK_STATUS_OK: qlk_status = 0;
/// An argument is wrong; nothing was written.
pub const QLK_STATUS_INVALID_ARGUMENT: qlk_status = 1;
/// A size does not fit 64 bits or the address space; nothing was written.
pub const QLK_STATUS_TOO_LARGE: qlk_status = 2;
/// The workspace is smaller than the matching `*_workspace_size` says; nothing was written.
pub const QLK_STATUS_WORKSPACE_TOO_SMALL: qlk_status = 3;
/// The request is valid, but this library or device cannot serve it; nothing was written.
pub const QLK_STATUS_UNSUPPORTED: qlk_status = 4;
/// The system refused memory or threads.
pub const QLK_STATUS_OUT_OF_RESOURCES: qlk_status = 5;
/// A bug in this library. Outputs may be partly written.
pub const QLK_STATUS_INTERNAL: qlk_status = 6;

/// There is no device of this kind, or no driver for it, or one that is too old.
pub const QLK_STATUS_NO_DEVICE: qlk_status = 7;
/// The device's driver reports an error: of this call, or of work that was enqueued before it. Outputs may be partly
/// written.
pub const QLK_STATUS_DEVICE: qlk_status = 8;

/// The kind of device of a context.
pub type qlk_device_kind = u32;
/// The processor: all its cores, its widest instruction set.
pub const QLK_DEVICE_CPU: qlk_device_kind = 0;
/// An NVIDIA GPU, Turing or later.
pub const QLK_DEVICE_CUDA: qlk_device_kind = 1;

/// The type of a tensor's elements.
pub type qlk_dtype = u32;
/// IEEE binary32.
pub const QLK_DTYPE_F32: qlk_dtype = 0;
/// IEEE binary16.
pub const QLK_DTYPE_F16: qlk_dtype = 1;
/// bfloat16.
pub const QLK_DTYPE_BF16: qlk_dtype = 2;

/// A 4-bit data type.
pub type qlk_codebook = u32;
/// 4-bit NormalFloat (QLoRA, arXiv 2305.14314, section 3).
pub const QLK_CODEBOOK_NF4: qlk_codebook = 0;
/// FP4 with 2 exponent bits and 1 mantissa bit: {0, 1/2, 1, 3/2, 2, 3, 4, 6} / 6 and a sign in bit 3.
pub const QLK_CODEBOOK_FP4_E2M1: qlk_codebook = 1;
/// FP4 with 3 exponent bits: {0, 2^-6, 2^-5 ... 1} and a sign in bit 3.
pub const QLK_CODEBOOK_FP4_E3M0: qlk_codebook = 2;
/// bitsandbytes' "fp4": {0, 1/16, 8, 12, 4, 6, 2, 3} / 12 and a sign in bit 3.
pub const QLK_CODEBOOK_FP4_BNB: qlk_codebook = 3;
/// Symmetric integers -7 ... 7, over 7, stored with an offset of 8.
pub const QLK_CODEBOOK_INT4: qlk_codebook = 4;
/// The 16 finite, strictly ascending values at `codebook_values`; the code is the index.
pub const QLK_CODEBOOK_USER: qlk_codebook = 5;

/// How the scales ("constants") of the 4-bit blocks are stored.
pub type qlk_constants = u32;
/// As they are: an f32 absmax a block.
pub const QLK_CONSTANTS_F32: qlk_constants = 0;
/// Double quantization to FP8 E4M3 (the paper's).
pub const QLK_CONSTANTS_FP8: qlk_constants = 1;
/// Double quantization to an 8-bit map: the signed dynamic map (bitsandbytes' default), or `constants_map`.
pub const QLK_CONSTANTS_MAP: qlk_constants = 2;

/// A device and its threads. Made by qlk_context_create, freed by qlk_context_destroy; any number of threads may use
/// it at once.
pub struct qlk_context {
    pub(super) inner: crate::ops::Context,
}

/// A row-major matrix: element (r, c) is at `data` + (r * row_stride + c) elements. The caller owns the memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_tensor {
    /// sizeof(qlk_tensor).
    pub struct_size: u32,
    /// QLK_DTYPE_*.
    pub dtype: qlk_dtype,
    /// Aligned to the element's size; may be null when there is no element. Inputs are only read.
    pub data: *mut c_void,
    /// Number of rows.
    pub rows: u64,
    /// Number of columns.
    pub cols: u64,
    /// Elements from one row's start to the next one's, at least `cols`; 0 stands for `cols`.
    pub row_stride: u64,
}

/// The format of a quantized matrix. All zero but for struct_size and block_size is NF4 with f32 constants.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_quant_spec {
    /// sizeof(qlk_quant_spec).
    pub struct_size: u32,
    /// QLK_CODEBOOK_*.
    pub codebook: qlk_codebook,
    /// Consecutive elements that share a scale: a power of two from 32 to 4096. The paper's is 64.
    pub block_size: u32,
    /// QLK_CONSTANTS_*.
    pub constants: qlk_constants,
    /// QLK_CODEBOOK_USER: 16 values in host memory. Else null. On a GPU every table gets kernels of its own, kept as long as
    /// the device: a table for each layer costs a compilation each.
    pub codebook_values: *const f32,
    /// QLK_CONSTANTS_MAP: 256 finite, ascending values in host memory, or null for the signed dynamic map. Else null.
    pub constants_map: *const f32,
}

/// A quantized matrix [rows, cols]; a weight is [N, K] = [out_features, in_features]. The matrix is flattened row after
/// row; `block_size` consecutive elements share a scale; two codes a byte, the earlier element in the high nibble (the
/// storage of bitsandbytes). The caller owns the memory; qlk_quantized_sizes says how much.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_quantized {
    /// sizeof(qlk_quantized).
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// The format.
    pub spec: *const qlk_quant_spec,
    /// Number of rows.
    pub rows: u64,
    /// Number of columns.
    pub cols: u64,
    /// Packed codes: `code_bytes`.
    pub codes: *mut u8,
    /// QLK_CONSTANTS_F32: `absmax_bytes`, one f32 a block. Else null.
    pub absmax: *mut f32,
    /// Double quantization: `absmax_codes_bytes`, one code a block. Else null.
    pub absmax_codes: *mut u8,
    /// Double quantization: `absmax_scales_bytes`, one f32 per 256 blocks. Else null.
    pub absmax_scales: *mut f32,
    /// Double quantization: one f32, the mean absmax. Else null. A constant is `value[code] * scale + offset`.
    pub absmax_offset: *mut f32,
}

/// How many bytes the parts of a quantized matrix take.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct qlk_sizes {
    /// sizeof(qlk_sizes); set it before the call.
    pub struct_size: u32,
    /// 0.
    pub reserved: u32,
    /// rows * cols.
    pub elements: u64,
    /// 4-bit blocks.
    pub blocks: u64,
    /// Bytes of `codes`.
    pub code_bytes: u64,
    /// Bytes of `absmax`.
    pub absmax_bytes: u64,
    /// Bytes of `absmax_codes`.
    pub absmax_codes_bytes: u64,
    /// Bytes of `absmax_scales`.
    pub absmax_scales_bytes: u64,
    /// Everything, `absmax_offset` included.
    pub total_bytes: u64,
}

/// A low-rank adapter (LoRA, arXiv 2106.09685) of a weight [N, K]: it adds scale * B * A to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_lora {
    /// sizeof(qlk_lora).
    pub struct_size: u32,
    /// Usually alpha / rank; finite.
    pub scale: f32,
    /// [rank, K].
    pub a: *const qlk_tensor,
    /// [N, rank].
    pub b: *const qlk_tensor,
}

/// What an optimizer computes. With g the gradient times grad_scale, t the step, mhat = m / (1 - beta1^t), vhat =
/// v / (1 - beta2^t), all in f32:
pub type qlk_rule = u32;
/// States m, v (arXiv 1412.6980): g += weight_decay * p; m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2;
/// p -= lr * mhat / (sqrt(vhat) + eps).
pub const QLK_RULE_ADAM: qlk_rule = 0;
/// States m, v (arXiv 1711.05101): m, v as Adam, without decay in g; p = p * (1 - lr * weight_decay)
/// - lr * mhat / (sqrt(vhat) + eps).
pub const QLK_RULE_ADAMW: qlk_rule = 1;
/// States m, m2, v (arXiv 2409.03137): m, v as AdamW; m2 = beta3 * m2 + (1 - beta3) * g; p = p * (1 - lr * weight_decay)
/// - lr * (mhat + alpha * m2) / (sqrt(vhat) + eps).
pub const QLK_RULE_ADEMAMIX: qlk_rule = 2;
/// State m (arXiv 2302.06675): p = p * (1 - lr * weight_decay) - lr * sign(beta1 * m + (1 - beta1) * g);
/// m = beta2 * m + (1 - beta2) * g.
pub const QLK_RULE_LION: qlk_rule = 3;
/// State m, as torch.optim.SGD: g += weight_decay * p; m = beta1 * m + g; p -= lr * m.
pub const QLK_RULE_SGD: qlk_rule = 4;
/// State m, as torch.optim.SGD with nesterov: m as SGD; p -= lr * (g + beta1 * m).
pub const QLK_RULE_NESTEROV: qlk_rule = 5;
/// State v, as torch.optim.RMSprop: g += weight_decay * p; v = beta2 * v + (1 - beta2) * g^2; p -= lr * g / (sqrt(v) + eps).
pub const QLK_RULE_RMSPROP: qlk_rule = 6;
/// State v, as torch.optim.Adagrad: g += weight_decay * p; v += g^2; p -= lr * g / (sqrt(v) + eps).
pub const QLK_RULE_ADAGRAD: qlk_rule = 7;
/// States m, v (arXiv 1904.00962): m, v as AdamW; u = mhat / (sqrt(vhat) + eps) + weight_decay * p; p -= lr * |p| / |u| * u.
pub const QLK_RULE_LAMB: qlk_rule = 8;
/// State m (arXiv 1708.03888): m = beta1 * m + lr * trust * |p| / (|g| + weight_decay * |p|) * (g + weight_decay * p); p -= m.
pub const QLK_RULE_LARS: qlk_rule = 9;

/// An optimizer at one of its steps. qlk_optimizer_init fills it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct qlk_optimizer {
    /// sizeof(qlk_optimizer).
    pub struct_size: u32,
    /// QLK_RULE_*.
    pub rule: qlk_rule,
    /// Learning rate, at least 0.
    pub lr: f32,
    /// In [0, 1).
    pub beta1: f32,
    /// In [0, 1).
    pub beta2: f32,
    /// In [0, 1).
    pub beta3: f32,
    /// At least 0.
    pub alpha: f32,
    /// At least 0.
    pub eps: f32,
    /// At least 0.
    pub weight_decay: f32,
    /// The trust coefficient of LARS, at least 0.
    pub trust: f32,
    /// Multiplies the gradients first: 1, or the inverse of a loss scale.
    pub grad_scale: f32,
    /// Greater than 0: the gradients of all parameters of one call are scaled together so that their norm is at most this, as
    /// torch.nn.utils.clip_grad_norm_ does. 0: they are not.
    pub max_norm: f32,
    /// 1: bf16 parameters are rounded at random, from `seed` on (Philox4x32-10 of seed, step, the parameter's number in the call
    /// and the element). 0: to nearest, as all others.
    pub stochastic_rounding: u32,
    /// 0.
    pub reserved: u32,
    /// Of stochastic rounding.
    pub seed: u64,
    /// t, the number of this step, from 1 on.
    pub step: u64,
}

/// A parameter with its gradient and its optimizer states. The caller owns the memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_parameter {
    /// sizeof(qlk_parameter).
    pub struct_size: u32,
    /// 32: states are f32. 8: states are codes of the dynamic maps, signed for m and m2, unsigned for v, in blocks of 256
    /// elements with a scale each.
    pub state_bits: u32,
    /// The parameter; f32, f16 or bf16.
    pub param: *const qlk_tensor,
    /// Its gradient, of the same shape; f32, f16 or bf16. qlk_optimizer_states_* do not look at it: there it may be null.
    pub grad: *const qlk_tensor,
    /// The states of the rule in its order, of the parameter's elements in row-major order: f32, or a byte an element. Zeros
    /// before the first step (of 8-bit states `absmax` alone need be).
    pub states: [*mut c_void; 3],
    /// 8-bit states: f32 scales, one for 256 elements or a part of as many. Else not looked at.
    pub absmax: [*mut f32; 3],
}

/// How memory is paged.
pub type qlk_pager_kind = u32;
/// QLK_PAGER_FILE on a CPU context, QLK_PAGER_STREAMED on a CUDA context.
pub const QLK_PAGER_AUTO: qlk_pager_kind = 0;
/// Unified memory of a GPU, prefetched. Where the device has no concurrent access to it (Windows, WSL, most Jetsons) it works as far
/// as the device's memory goes, without hints, and the host must not touch any of it while work is under way on the device.
pub const QLK_PAGER_MANAGED: qlk_pager_kind = 1;
/// Page-locked memory of the host, as much as the system lets be locked (WSL limits it), copied to a GPU and back while other parts
/// are used. Between steps the GPU may have newer states than this memory: qlk_pager_evict.
pub const QLK_PAGER_STREAMED: qlk_pager_kind = 2;
/// A file without a name, mapped, on a CPU. What leaves the budget is in the system's file cache or on disk.
pub const QLK_PAGER_FILE: qlk_pager_kind = 3;

/// Where paged memory wants to be.
pub type qlk_advice = u32;
/// In the budget as far as it goes, first come, first served.
pub const QLK_ADVICE_NORMAL: qlk_advice = 0;
/// In the budget before others.
pub const QLK_ADVICE_STAY: qlk_advice = 1;
/// Out of the budget as soon as it has been used.
pub const QLK_ADVICE_PASS: qlk_advice = 2;

/// Paged memory. Made by qlk_pager_create, freed by qlk_pager_destroy; any number of threads may use it at once, one after another.
pub struct qlk_pager {
    pub(super) inner: crate::ops::Pager,
}

/// What a pager is made of.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_pager_options {
    /// sizeof(qlk_pager_options).
    pub struct_size: u32,
    /// QLK_PAGER_*.
    pub kind: qlk_pager_kind,
    /// Bytes that paged memory may take where it is used, at least 262144: of the GPU's memory, or of resident memory. The latter is
    /// held on Linux and asked of Windows; for macOS it is a hint.
    pub budget: u64,
    /// QLK_PAGER_FILE: the folder of the file, zero-terminated (UTF-8 on Windows), or null for the system's one for temporary files,
    /// which may be memory itself. Else null. A folder on ext4 or XFS is best: there what was allocated stays the file's. A file
    /// system that copies on write (Btrfs, ZFS) or is another machine's may find no room for what is written again, if others fill
    /// the disk meanwhile; the system then ends the process by a signal (SIGBUS).
    pub folder: *const c_char,
}

/// What a pager has done so far.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct qlk_pager_statistics {
    /// sizeof(qlk_pager_statistics); set it before the call.
    pub struct_size: u32,
    /// QLK_PAGER_*, never QLK_PAGER_AUTO.
    pub kind: qlk_pager_kind,
    /// As it was made.
    pub budget: u64,
    /// Allocations that there are.
    pub allocations: u64,
    /// Their bytes.
    pub allocated_bytes: u64,
    /// Bytes that stay within the budget from step to step, of parameters in whatever call.
    pub staying_bytes: u64,
    /// Windows that the rest of the last step passed through.
    pub windows: u64,
    /// Bytes brought to where they are used.
    pub bytes_in: u64,
    /// Bytes taken from there.
    pub bytes_out: u64,
    /// Steps taken.
    pub steps: u64,
}

/// What a context is.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct qlk_device_info {
    /// sizeof(qlk_device_info); set it before the call.
    pub struct_size: u32,
    /// QLK_DEVICE_*.
    pub device_kind: qlk_device_kind,
    /// Threads that an operation may use; 1 on a GPU.
    pub threads: u32,
    /// Cores that the process may use; the streaming multiprocessors of a GPU.
    pub cores: u32,
    /// The code path in use, zero-terminated: "portable", "avx2", "avx512" or "avx512_bf16"; on a GPU the kernels' target, such as "sm_80".
    pub instruction_set: [c_char; 32],
    /// "CPU", or the GPU's name as its driver has it, zero-terminated.
    pub name: [c_char; 64],
}

//! Optimizer steps.

use super::convert::*;
use super::guard::guard;
use super::types::*;
use crate::ops;
use std::ffi::c_void;

/// One AdamW step in place: m = beta1 * m + (1 - beta1) * g; v = beta2 * v + (1 - beta2) * g^2;
/// param = param * (1 - lr * weight_decay) - lr * mhat / (sqrt(vhat) + eps), with g = grad * grad_scale,
/// mhat = m / (1 - beta1^step), vhat = v / (1 - beta2^step).
///
/// `param` and `grad` have one shape and are f32, f16 or bf16, independently; `m` and `v` have as many f32 elements, in
/// row-major order, all zero before the first step. The arithmetic is f32; a 16-bit parameter is rounded once. The four
/// must not overlap. `stream` is ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_adamw_step(
    context: *const qlk_context,
    hyper: *const qlk_adamw,
    param: *const qlk_tensor,
    grad: *const qlk_tensor,
    m: *mut f32,
    v: *mut f32,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (context, hyper) = (context_on_stream(context, stream)?, read(hyper, "hyper")?);
        check_reserved(hyper.reserved, "hyper")?;
        let (param, grad) = (tensor_mut(param, "param")?, tensor(grad, "grad")?);
        let elements = (param.rows() * param.cols()) as u64;
        let (m, v) = (buffer_mut(m, elements, "m")?, buffer_mut(v, elements, "v")?);
        let hyper = ops::AdamW {
            lr: hyper.lr,
            beta1: hyper.beta1,
            beta2: hyper.beta2,
            eps: hyper.eps,
            weight_decay: hyper.weight_decay,
            step: hyper.step,
            grad_scale: hyper.grad_scale,
        };
        ops::adamw_step(&context, &hyper, param, grad, m, v)
    })
}

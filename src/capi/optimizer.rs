//! Optimizer steps.

use super::convert::{self, *};
use super::guard::guard;
use super::pager;
use super::types::*;
use crate::error::{Error, Result, ensure};
use crate::format::optimizer::blocks::BLOCK;
use crate::ops::{self, Hyper, Optimizer, Parameter, Rule, State};
use crate::view::BufferMut;
use std::ffi::c_void;

/// Fills `*optimizer`, whose struct_size the caller has set, with a rule at its first step: the hyperparameters of its paper, or
/// of torch where it has the optimizer; no clipping, rounding to nearest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_init(rule: qlk_rule, optimizer: *mut qlk_optimizer) -> qlk_status {
    guard(|| {
        let out = unsafe { out_struct(optimizer, "optimizer")? };
        let h = Hyper::of(self::rule(rule)?);
        *out = qlk_optimizer {
            struct_size: out.struct_size,
            rule,
            lr: h.lr,
            beta1: h.beta1,
            beta2: h.beta2,
            beta3: h.beta3,
            alpha: h.alpha,
            eps: h.eps,
            weight_decay: h.weight_decay,
            trust: h.trust,
            grad_scale: h.grad_scale,
            step: h.step,
            ..Default::default()
        };
        Ok(())
    })
}

/// Writes to `*size` how many bytes of workspace a step of these parameters needs, paged or not, at any alignment: 0 on a CPU context.
/// Pointers in the parameters must be those of the step, whose alignment counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_workspace_size(
    context: *const qlk_context,
    optimizer: *const qlk_optimizer,
    parameters: *const qlk_parameter,
    count: u64,
    size: *mut u64,
) -> qlk_status {
    guard(|| unsafe {
        let (context, optimizer) = (convert::context(context)?, self::optimizer(optimizer)?);
        let parameters = self::parameters(parameters, count, optimizer.rule, Gradients::Needed)?;
        let size = out(size, "size")?;
        *size = ops::optimizer_workspace_size(context, &optimizer, &parameters)? as u64;
        Ok(())
    })
}

/// One step of an optimizer on `count` parameters of any sizes, in place; on a GPU, a launch for all that have the same types
/// and layout. All backends give the same bits: every operation is f32 and rounded by itself, bias corrections are computed in
/// f64 on the host, norms are added in one order; a 16-bit parameter is rounded once.
///
/// No parameter and no state may overlap anything else; gradients may be shared. An element whose new states would not be
/// finite, as with a gradient that is infinite or NaN, keeps its parameter and states (8-bit ones but for the rounding of
/// their block). How many did is added to `*kept`, where it is not null: memory of the context's device. With clipping, a norm
/// of the gradients that is not finite keeps everything, and all elements count.
///
/// `workspace` has `workspace_size` bytes, at least what qlk_optimizer_workspace_size says. `stream` is ignored on a CPU context.
/// A captured call repeats its step number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_step(
    context: *const qlk_context,
    optimizer: *const qlk_optimizer,
    parameters: *const qlk_parameter,
    count: u64,
    kept: *mut u64,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (context, optimizer) = (context_on_stream(context, stream)?, self::optimizer(optimizer)?);
        let mut parameters = self::parameters(parameters, count, optimizer.rule, Gradients::Needed)?;
        let kept = if kept.is_null() { None } else { Some(buffer_mut(kept, 1, "kept")?) };
        let workspace = self::workspace(workspace, workspace_size)?;
        ops::optimizer_step(&context, &optimizer, &mut parameters, kept, workspace)
    })
}

/// qlk_optimizer_step of parameters that have states, or some of them, in a pager's memory: the same bits, whatever its budget. A
/// call has one pager: parameters with states of another one are another call's. qlk_optimizer_step takes such states, too, but uses
/// what is at their addresses, which with QLK_PAGER_STREAMED may be older than on the GPU unless it was evicted before.
///
/// What fits the budget stays where it is used from step to step; the rest comes and goes window by window, while others are used.
/// Parameters may be stepped in several calls, by groups or by layers: they share the budget, first come, first served, and keep what
/// they have. On a GPU all of it is ordered with the stream, which waits for the last call's work on another one; it cannot be
/// captured (QLK_STATUS_UNSUPPORTED). LAMB and LARS go through all windows twice.
///
/// Nothing is allocated, so nothing can run out half-way: a status other than QLK_STATUS_DEVICE and QLK_STATUS_INTERNAL has left
/// everything as it was.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_step_paged(
    context: *const qlk_context,
    pager: *mut qlk_pager,
    optimizer: *const qlk_optimizer,
    parameters: *const qlk_parameter,
    count: u64,
    kept: *mut u64,
    workspace: *mut c_void,
    workspace_size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (context, optimizer) = (context_on_stream(context, stream)?, self::optimizer(optimizer)?);
        let pager = pager::pager(pager)?;
        let mut parameters = self::parameters(parameters, count, optimizer.rule, Gradients::Needed)?;
        let kept = if kept.is_null() { None } else { Some(buffer_mut(kept, 1, "kept")?) };
        let workspace = self::workspace(workspace, workspace_size)?;
        ops::optimizer_step_paged(&context, pager, &optimizer, &mut parameters, kept, workspace)
    })
}

/// Writes to `*size` how many bytes qlk_optimizer_states_save writes for these parameters.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_states_size(
    optimizer: *const qlk_optimizer,
    parameters: *const qlk_parameter,
    count: u64,
    size: *mut u64,
) -> qlk_status {
    guard(|| unsafe {
        let optimizer = self::optimizer(optimizer)?;
        let parameters = self::parameters(parameters, count, optimizer.rule, Gradients::Ignored)?;
        let size = out(size, "size")?;
        *size = ops::optimizer_states_size(&optimizer, &parameters)?;
        Ok(())
    })
}

/// Saves the states of parameters, and the optimizer's step as the last one taken, to `buffer` in host memory, of `size` bytes, as
/// many as qlk_optimizer_states_size says. Parameters and gradients are not read; `grad` may be null.
///
/// The buffer must not overlap the states. Where they exceed memory it may be a file that is mapped, or some parameters are saved at
/// a time. The bytes are the same for all devices and pagers, and checked by a CRC.
///
/// `pager` is that of the states that are paged, one a call, or null. Without it the states of QLK_PAGER_STREAMED that are saved may
/// be older than on the GPU, unless they were evicted before. On a GPU the call waits for the stream; `stream` is ignored on a CPU
/// context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_states_save(
    context: *const qlk_context,
    pager: *mut qlk_pager,
    optimizer: *const qlk_optimizer,
    parameters: *const qlk_parameter,
    count: u64,
    buffer: *mut c_void,
    size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let (context, optimizer) = (context_on_stream(context, stream)?, self::optimizer(optimizer)?);
        let parameters = self::parameters(parameters, count, optimizer.rule, Gradients::Ignored)?;
        let buffer = buffer_mut(buffer.cast::<u8>(), size, "buffer")?.into_slice();
        ops::optimizer_states_save(&context, optional(pager)?, &optimizer, &parameters, buffer)
    })
}

/// Restores the states of parameters from what qlk_optimizer_states_save wrote for as many of the same sizes, in the same order, with
/// the same state_bits, on whatever device and pager; `optimizer->step` becomes the step that was saved, so that the one after it
/// continues, bit for bit. Nothing is written if something does not match or is damaged (QLK_STATUS_INVALID_ARGUMENT). Parameters and
/// gradients are not looked at; `grad` may be null.
///
/// `pager` is that of the states that are paged, one a call, or null. Without it the GPU may still have older states of
/// QLK_PAGER_STREAMED than were restored, unless they were evicted before. On a GPU the call waits for the stream; `stream` is
/// ignored on a CPU context.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qlk_optimizer_states_restore(
    context: *const qlk_context,
    pager: *mut qlk_pager,
    optimizer: *mut qlk_optimizer,
    parameters: *const qlk_parameter,
    count: u64,
    buffer: *const c_void,
    size: u64,
    stream: *mut c_void,
) -> qlk_status {
    guard(|| unsafe {
        let context = context_on_stream(context, stream)?;
        let mut restored = self::optimizer(optimizer)?;
        let mut parameters = self::parameters(parameters, count, restored.rule, Gradients::Ignored)?;
        let buffer = convert::buffer::<u8>(buffer.cast(), size, "buffer")?.as_slice();
        ops::optimizer_states_restore(&context, optional(pager)?, &mut restored, &mut parameters, buffer)?;
        out_struct(optimizer, "optimizer")?.step = restored.hyper.step;
        Ok(())
    })
}

/// # Safety
/// As for [`pager::pager`].
unsafe fn optional<'a>(pager: *const qlk_pager) -> Result<Option<&'a ops::Pager>> {
    if pager.is_null() { Ok(None) } else { unsafe { pager::pager(pager).map(Some) } }
}

fn rule(value: qlk_rule) -> Result<Rule> {
    // The numbers are in the order of the list.
    let rule = Rule::ALL.get(value as usize).copied();
    rule.ok_or_else(|| Error::invalid(format!("rule is {value}; it must be a QLK_RULE_* value, 0 to 9")))
}

/// # Safety
/// `ptr` is null or an optimizer.
unsafe fn optimizer(ptr: *const qlk_optimizer) -> Result<Optimizer> {
    let o = unsafe { read(ptr, "optimizer")? };
    check_reserved(o.reserved, "optimizer")?;
    let flag = o.stochastic_rounding;
    ensure!(flag <= 1, "stochastic_rounding is {flag}; it must be 0 or 1");
    let hyper = Hyper {
        lr: o.lr,
        beta1: o.beta1,
        beta2: o.beta2,
        beta3: o.beta3,
        alpha: o.alpha,
        eps: o.eps,
        weight_decay: o.weight_decay,
        trust: o.trust,
        grad_scale: o.grad_scale,
        step: o.step,
    };
    let (max_norm, seed) = ((o.max_norm != 0.0).then_some(o.max_norm), (flag == 1).then_some(o.seed));
    Ok(Optimizer { rule: rule(o.rule)?, hyper, max_norm, seed })
}

/// What a function does with the gradients of parameters.
#[derive(Clone, Copy)]
enum Gradients {
    Needed,
    /// It does not look at them, and takes whatever is in their place.
    Ignored,
}

/// # Safety
/// `ptr` is null or `count` parameters whose memory may be used for `'a`, and nothing else uses it.
unsafe fn parameters<'a>(
    ptr: *const qlk_parameter,
    count: u64,
    rule: Rule,
    gradients: Gradients,
) -> Result<Vec<Parameter<'a>>> {
    if count == 0 {
        return Ok(Vec::new());
    }
    check_pointer(ptr, "parameters")?;
    let count = size(count, "count")?;
    (0..count).map(|i| unsafe { parameter(ptr.wrapping_add(i), i, rule, gradients) }).collect()
}

/// # Safety
/// As for [`parameters`].
unsafe fn parameter<'a>(
    ptr: *const qlk_parameter,
    i: usize,
    rule: Rule,
    gradients: Gradients,
) -> Result<Parameter<'a>> {
    let name = format!("parameters[{i}]");
    // SAFETY: as promised by the caller.
    unsafe {
        let raw = read(ptr, &name)?;
        let of = |error: Error| error.of(&name);
        let param = tensor_mut(raw.param, "param").map_err(of)?;
        let grad = match gradients {
            Gradients::Needed => tensor(raw.grad, "grad"),
            Gradients::Ignored => tensor(raw.param, "param"), // which has the shape of one
        };
        let grad = grad.map_err(of)?;
        let elements = (param.rows() * param.cols()) as u64;
        let state = |s: usize| -> Result<State<'a>> {
            Ok(match raw.state_bits {
                32 => State::F32(state_buffer(raw.states[s].cast(), elements, s, "states")?),
                8 => State::Blocks {
                    codes: state_buffer(raw.states[s].cast(), elements, s, "states")?,
                    absmax: state_buffer(raw.absmax[s], elements.div_ceil(BLOCK as u64), s, "absmax")?,
                },
                bits => return Err(Error::invalid(format!("state_bits is {bits}; it must be 8 or 32"))),
            })
        };
        let states = (0..rule.states().len()).map(state).collect::<Result<_>>().map_err(of)?;
        Ok(Parameter { param, grad, states })
    }
}

/// # Safety
/// As for [`buffer_mut`].
unsafe fn state_buffer<'a, T>(ptr: *mut T, len: u64, state: usize, name: &str) -> Result<BufferMut<'a, T>> {
    let named = if len == 0 || (!ptr.is_null() && ptr.is_aligned()) {
        String::new()
    } else {
        format!("{name}[{state}]")
    };
    unsafe { buffer_mut(ptr, len, &named) }
}

//! Optimizer steps.

use super::context::{Context, Device};
use super::{check_shape, check_workspace, shape, workspace_extent};
use crate::error::{Error, Result, ensure};
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::{Optimizer, Rule};
use crate::view::{BufferMut, Extent, Parameter, State};
use crate::{cpu, cuda};

/// Bytes of workspace that [`optimizer_step`] needs for these parameters, at any alignment: 0 on a CPU.
pub fn optimizer_workspace_size(
    context: &Context,
    optimizer: &Optimizer,
    parameters: &[Parameter<'_>],
) -> Result<usize> {
    match &context.device {
        Device::Cpu(_) => Ok(0),
        Device::Cuda(_) => {
            for (i, parameter) in parameters.iter().enumerate() {
                check(optimizer.rule, parameter).map_err(|error| error.of(&format!("parameters[{i}]")))?;
            }
            let size = cuda::optimizer::workspace_size(optimizer, parameters);
            let size = size.and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| Error::too_large("the workspace does not fit the address space"))
        }
    }
}

/// One step of an optimizer on any number of parameters, in place: [`crate::format::optimizer`] has the equations. All
/// backends give the same bits.
///
/// Parameters and gradients are f32, f16 or bf16, independently of each other; states are f32 or 8-bit, parameter by
/// parameter. The arithmetic is f32; a 16-bit parameter is rounded once. No parameter and no state may overlap anything else of
/// the call; gradients may be shared.
///
/// Elements whose new states would not be finite, as with a gradient that is infinite or NaN, keep their parameter and states
/// (8-bit ones but for the rounding of their block). Their number is added to `kept`, where it is given: memory of the
/// context's device. With clipping, a gradient norm that is not finite keeps everything, and all elements count.
pub fn optimizer_step<'a>(
    context: &Context,
    optimizer: &Optimizer,
    parameters: &mut [Parameter<'_>],
    kept: Option<BufferMut<'_, u64>>,
    workspace: impl Into<BufferMut<'a, u8>>,
) -> Result<()> {
    let workspace = workspace.into();
    optimizer.check().map_err(Error::invalid)?;
    check_workspace(workspace.len(), optimizer_workspace_size(context, optimizer, parameters)?)?;
    for (i, parameter) in parameters.iter().enumerate() {
        check(optimizer.rule, parameter).map_err(|error| error.of(&format!("parameters[{i}]")))?;
    }
    let kept_extent = kept.as_ref().map(|kept| kept.extent());
    if let Some(kept) = &kept {
        ensure!(kept.len() == 1, "kept has {} elements; it must have 1", kept.len());
    }
    let areas = areas(parameters, kept_extent, workspace_extent(&workspace).1);
    check_areas(&areas)?;
    match &context.device {
        Device::Cpu(cpu) => {
            let count = cpu::optimizer::step(cpu, optimizer, parameters);
            if let Some(kept) = kept {
                // SAFETY: a CPU context's memory is host memory.
                unsafe { kept.into_slice()[0] += count };
            }
            Ok(())
        }
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            for Area { extent, place, .. } in &areas {
                // Its name is made when it is needed.
                let named = |name: &str| queue.check_memory(&[&[(name, *extent)]]);
                named("").or_else(|_| named(&place.to_string()))?;
            }
            cuda::optimizer::step(&queue, optimizer, parameters, kept.as_ref(), &workspace)
        }
    }
}

fn check(rule: Rule, parameter: &Parameter<'_>) -> Result<()> {
    let Parameter { param, grad, states } = parameter;
    check_shape("grad", shape(grad), "param's rows x cols", [param.rows(), param.cols()])?;
    let (elements, count) = (param.rows() * param.cols(), rule.states().len());
    ensure!(states.len() == count, "states has {} entries; {rule:?} has {count} states", states.len());
    let blocks = elements.div_ceil(BLOCK);
    for (i, state) in states.iter().enumerate() {
        match state {
            State::F32(values) => ensure!(
                values.len() == elements,
                "states[{i}] has {} elements; param has {elements}",
                values.len()
            ),
            State::Blocks { codes, absmax } => {
                ensure!(
                    codes.len() == elements,
                    "states[{i}] has {} codes; param has {elements} elements",
                    codes.len()
                );
                ensure!(
                    absmax.len() == blocks,
                    "absmax[{i}] has {} elements; {elements} elements in blocks of {BLOCK} need {blocks}",
                    absmax.len()
                );
            }
        }
    }
    let kinds = states.iter().filter(|state| matches!(state, State::F32(_))).count();
    ensure!(kinds == 0 || kinds == count, "states are f32 and 8-bit ones; they must be of one kind");
    Ok(())
}

/// A part of the memory of a call.
struct Area {
    extent: Extent,
    /// Whether it is written.
    written: bool,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Param(usize),
    Grad(usize),
    State(usize, usize),
    Absmax(usize, usize),
    Kept,
    Workspace,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Param(i) => write!(f, "parameters[{i}].param"),
            Self::Grad(i) => write!(f, "parameters[{i}].grad"),
            Self::State(i, state) => write!(f, "parameters[{i}].states[{state}]"),
            Self::Absmax(i, state) => write!(f, "parameters[{i}].absmax[{state}]"),
            Self::Kept => f.write_str("kept"),
            Self::Workspace => f.write_str("workspace"),
        }
    }
}

fn areas(parameters: &[Parameter<'_>], kept: Option<Extent>, workspace: Extent) -> Vec<Area> {
    let mut areas = Vec::with_capacity(4 * parameters.len() + 2);
    let mut add = |extent: Extent, written, place| areas.push(Area { extent, written, place });
    add(workspace, true, Place::Workspace);
    kept.into_iter().for_each(|kept| add(kept, true, Place::Kept));
    for (i, Parameter { param, grad, states }) in parameters.iter().enumerate() {
        add(param.extent(), true, Place::Param(i));
        add(grad.extent(), false, Place::Grad(i));
        for (s, state) in states.iter().enumerate() {
            match state {
                State::F32(values) => add(values.extent(), true, Place::State(i, s)),
                State::Blocks { codes, absmax } => {
                    add(codes.extent(), true, Place::State(i, s));
                    add(absmax.extent(), true, Place::Absmax(i, s));
                }
            }
        }
    }
    areas.retain(|area| !area.extent.is_empty());
    areas
}

/// Refuses what is written and overlaps anything else. In order of their starts, an area can only overlap those that have
/// begun and not ended, which are few: thousands of parameters are checked in about the time that it takes to sort them.
fn check_areas(areas: &[Area]) -> Result<()> {
    let mut order: Vec<&Area> = areas.iter().collect();
    order.sort_by_key(|area| area.extent.start());
    let mut open: Vec<&Area> = Vec::new();
    for area in order {
        open.retain(|other| other.extent.end() > area.extent.start());
        let touches = |other: &&&Area| (area.written || other.written) && area.extent.overlaps(&other.extent);
        if let Some(other) = open.iter().find(touches) {
            let (output, other) = if area.written { (area, *other) } else { (*other, area) };
            let message =
                format!("{} overlaps {}; outputs need memory of their own", output.place, other.place);
            return Err(Error::invalid(message));
        }
        open.push(area);
    }
    Ok(())
}

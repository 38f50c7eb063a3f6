//! Optimizer steps.

use super::context::{Context, Device};
use super::pager::{Memory, Pager};
use super::{check_shape, check_workspace, shape, workspace_extent};
use crate::cpu::file_memory::FileWindows;
use crate::error::{Error, Result, ensure};
use crate::float_environment::StandardModes;
use crate::format::optimizer::blocks::BLOCK;
use crate::format::optimizer::{Optimizer, Rule};
use crate::view::window::Plan;
use crate::view::{BufferMut, Extent, Parameter, State};
use crate::{cpu, cuda};

/// Bytes of workspace that [`optimizer_step`] and [`optimizer_step_paged`] need for these parameters, at any alignment: 0 on a CPU.
pub fn optimizer_workspace_size(
    context: &Context,
    optimizer: &Optimizer,
    parameters: &[Parameter<'_>],
) -> Result<usize> {
    check_parameters(optimizer, parameters)?;
    workspace_size(context, optimizer, parameters)
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
    let _modes = StandardModes::set();
    let workspace = workspace.into();
    check_parameters(optimizer, parameters)?;
    let areas = check_call(context, optimizer, parameters, kept.as_ref(), &workspace)?;
    let plan = Plan::whole(parameters);
    match &context.device {
        Device::Cpu(cpu) => add(kept, cpu::optimizer::step(cpu, optimizer, parameters, &plan, &())),
        Device::Cuda(cuda) => {
            let queue = cuda.queue(context.stream)?;
            queue.check_many(areas.iter().map(|area| (area.place, &area.extent)))?;
            cuda::optimizer::step(&queue, optimizer, parameters, &plan, &mut (), kept.as_ref(), &workspace)?;
        }
    }
    Ok(())
}

/// [`optimizer_step`] of parameters that have states, or some of them, in a pager's memory: the same bits, whatever its budget. A
/// call has one pager: parameters with states of another one are another call's. [`optimizer_step`] takes such states, too, but uses
/// what is at their addresses: [`Pager`].
///
/// What fits the budget stays where it is used from step to step; the rest comes and goes window by window, while others are used.
/// Parameters may be stepped in several calls, by groups or by layers: they share the budget, first come, first served, and keep what
/// they have. On a GPU all of it is ordered with the context's stream, which waits for the last call's work on another one; it cannot
/// be captured. Rules with norms, LAMB and LARS, go through all windows twice.
///
/// Nothing is allocated, so nothing can run out half-way: an error that is not of the device's driver has left everything as it was.
pub fn optimizer_step_paged<'a>(
    context: &Context,
    pager: &Pager,
    optimizer: &Optimizer,
    parameters: &mut [Parameter<'_>],
    kept: Option<BufferMut<'_, u64>>,
    workspace: impl Into<BufferMut<'a, u8>>,
) -> Result<()> {
    let _modes = StandardModes::set();
    let workspace = workspace.into();
    let cuda = pager.device_of(context)?;
    check_parameters(optimizer, parameters)?;
    let areas = check_call(context, optimizer, parameters, kept.as_ref(), &workspace)?;
    let queue = cuda.map(|cuda| cuda.queue(context.stream)).transpose()?;
    if let Some(queue) = &queue {
        queue.check_many(areas.iter().map(|area| (area.place, &area.extent)))?;
    }
    let mut book = pager.book();
    let book = &mut *book;
    let plan = pager.plan(book, parameters);
    let (parts, gone, held) = (book.parts(&plan, parameters), book.take_gone(), book.held());
    /// On the pages of a kind of memory.
    macro_rules! step {
        ($memory:expr, $queue:expr) => {{
            let begun = $memory.begin($queue, &parts, &gone, cuda::optimizer::passes(optimizer));
            let mut pages = match begun {
                Ok(pages) => pages,
                Err(error) => {
                    book.put_back(gone);
                    return Err(error);
                }
            };
            let step = cuda::optimizer::step(
                $queue,
                optimizer,
                parameters,
                &plan,
                &mut pages,
                kept.as_ref(),
                &workspace,
            );
            step.and(pages.finish())?
        }};
    }
    match (&mut book.memory, &context.device, &queue) {
        (Memory::File(memory), Device::Cpu(cpu), _) => {
            let pages = FileWindows::new(memory, &parts, &held);
            add(kept, cpu::optimizer::step(cpu, optimizer, parameters, &plan, &pages));
        }
        (Memory::Streamed(memory), _, Some(queue)) => step!(memory, queue),
        (Memory::Managed(memory), _, Some(queue)) => step!(memory, queue),
        _ => unreachable!("the context is the pager's"),
    }
    book.windows = plan.passing.len() as u64;
    book.steps += 1;
    Ok(())
}

/// Adds to the count of kept elements, on a CPU.
fn add(kept: Option<BufferMut<'_, u64>>, count: u64) {
    if let Some(kept) = kept {
        // SAFETY: a CPU context's memory is host memory.
        unsafe { kept.into_slice()[0] += count };
    }
}

fn workspace_size(context: &Context, optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Result<usize> {
    match &context.device {
        Device::Cpu(_) => Ok(0),
        Device::Cuda(_) => {
            let size = cuda::optimizer::workspace_size(optimizer, parameters);
            let size = size.and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| Error::too_large("the workspace does not fit the address space"))
        }
    }
}

/// Checks all but the parameters themselves; the memory of the call.
fn check_call(
    context: &Context,
    optimizer: &Optimizer,
    parameters: &[Parameter<'_>],
    kept: Option<&BufferMut<'_, u64>>,
    workspace: &BufferMut<'_, u8>,
) -> Result<Vec<Area>> {
    optimizer.check().map_err(Error::invalid)?;
    check_workspace(workspace.len(), workspace_size(context, optimizer, parameters)?)?;
    if let Some(kept) = kept {
        ensure!(kept.len() == 1, "kept has {} elements; it must have 1", kept.len());
    }
    let areas = areas(parameters, kept.map(BufferMut::extent), workspace_extent(workspace).1);
    check_areas(&areas)?;
    Ok(areas)
}

pub(super) fn check_parameters(optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Result<()> {
    for (i, parameter) in parameters.iter().enumerate() {
        check(optimizer.rule, parameter).map_err(|error| error.of(&format!("parameters[{i}]")))?;
    }
    Ok(())
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
    Buffer,
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
            Self::Buffer => f.write_str("buffer"),
        }
    }
}

fn areas(parameters: &[Parameter<'_>], kept: Option<Extent>, workspace: Extent) -> Vec<Area> {
    let mut areas = Vec::with_capacity(4 * parameters.len() + 2);
    let mut add = |extent: Extent, written, place| areas.push(Area { extent, written, place });
    add(workspace, true, Place::Workspace);
    kept.into_iter().for_each(|kept| add(kept, true, Place::Kept));
    for (i, Parameter { param, grad, .. }) in parameters.iter().enumerate() {
        add(param.extent(), true, Place::Param(i));
        add(grad.extent(), false, Place::Grad(i));
    }
    add_states(parameters, true, &mut add);
    areas.retain(|area| !area.extent.is_empty());
    areas
}

fn add_states(parameters: &[Parameter<'_>], written: bool, mut add: impl FnMut(Extent, bool, Place)) {
    for (i, parameter) in parameters.iter().enumerate() {
        for (s, state) in parameter.states.iter().enumerate() {
            match state {
                State::F32(values) => add(values.extent(), written, Place::State(i, s)),
                State::Blocks { codes, absmax } => {
                    add(codes.extent(), written, Place::State(i, s));
                    add(absmax.extent(), written, Place::Absmax(i, s));
                }
            }
        }
    }
}

/// Refuses states that cannot be copied to a buffer in host memory, or from there.
pub(super) fn check_states(
    context: &Context,
    parameters: &[Parameter<'_>],
    buffer: &[u8],
    to_buffer: bool,
) -> Result<()> {
    let mut areas = Vec::new();
    let mut add = |extent: Extent, written, place| areas.push(Area { extent, written, place });
    add_states(parameters, !to_buffer, &mut add);
    areas.retain(|area| !area.extent.is_empty());
    if let Device::Cuda(cuda) = &context.device {
        let queue = cuda.queue(context.stream)?;
        queue.check_many(areas.iter().map(|area| (area.place, &area.extent)))?;
    }
    let extent = Extent::of_bytes(buffer.as_ptr(), buffer.len(), true);
    areas.push(Area { extent, written: to_buffer, place: Place::Buffer });
    check_areas(&areas)
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

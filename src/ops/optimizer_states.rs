//! Saving and restoring the states of optimizers.

use super::context::{Context, Device};
use super::optimizer::{check_parameters, check_states};
use super::pager::{Memory, Pager};
use crate::cuda::device::Queue;
use crate::error::{Error, Result, Status, ensure};
use crate::format::optimizer::Optimizer;
use crate::format::optimizer::saved::Saved;
use crate::view::{Parameter, State};
use std::ops::Range;

/// Bytes that are copied before their pages are dropped.
const AT_ONCE: usize = 8 << 20;

/// Bytes of the states of these parameters, saved.
pub fn optimizer_states_size(optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Result<u64> {
    check_parameters(optimizer, parameters)?;
    places(&saved(optimizer, parameters)).map(|(_, len)| len)
}

/// Saves the states of parameters, and the number of the optimizer's step as the last one taken, to host memory of
/// [`optimizer_states_size`] bytes: [`crate::format::optimizer::saved`]. Parameters and gradients are not looked at.
///
/// `pager` is that of the states that are paged, if there are any. On a GPU the call waits for the context's stream.
pub fn optimizer_states_save(
    context: &Context,
    pager: Option<&Pager>,
    optimizer: &Optimizer,
    parameters: &[Parameter<'_>],
    bytes: &mut [u8],
) -> Result<()> {
    check_parameters(optimizer, parameters)?;
    let saved = saved(optimizer, parameters);
    let (places, len) = places(&saved)?;
    ensure!(bytes.len() as u64 == len, "size is {}; these states take {len} bytes", bytes.len());
    check_states(context, parameters, bytes, true)?;
    let areas: Vec<Range<usize>> =
        parameters.iter().flat_map(Parameter::areas).map(|area| area.extent()).collect();
    Mover::new(context, pager)?.save(&areas, &places, bytes)?;
    saved.write(bytes, &places);
    Saved::seal(bytes);
    Ok(())
}

/// Restores the states of parameters from what [`optimizer_states_save`] wrote for as many parameters of the same sizes, in the
/// same order, with states of the same kinds, on whatever device and in whatever memory; the optimizer's step becomes the one that
/// was saved, so that the next one continues. Nothing is written if something does not match or is damaged.
///
/// `pager` is that of the states that are paged, if there are any. On a GPU the call waits for the context's stream.
pub fn optimizer_states_restore(
    context: &Context,
    pager: Option<&Pager>,
    optimizer: &mut Optimizer,
    parameters: &mut [Parameter<'_>],
    bytes: &[u8],
) -> Result<()> {
    check_parameters(optimizer, parameters)?;
    let found = Saved::read(bytes).map_err(|what| Error::invalid(format!("buffer {what}")))?;
    let expected = saved(optimizer, parameters);
    ensure!(
        found.rule == expected.rule,
        "buffer has states of {:?}; rule is {:?}",
        found.rule,
        expected.rule
    );
    let (count, own) = (found.parameters.len(), expected.parameters.len());
    ensure!(count == own, "buffer has states of {count} parameters; count is {own}");
    for (i, (found, own)) in found.parameters.iter().zip(&expected.parameters).enumerate() {
        let of = |&(elements, eight_bits): &(u64, bool)| {
            format!("{elements} elements with states of {} bits", if eight_bits { 8 } else { 32 })
        };
        ensure!(found == own, "parameters[{i}] has {}; it was saved with {}", of(own), of(found));
    }
    check_states(context, parameters, bytes, false)?;
    let (places, _) = places(&found)?;
    let areas: Vec<Range<usize>> =
        parameters.iter().flat_map(Parameter::areas).map(|area| area.extent()).collect();
    Mover::new(context, pager)?.restore(&areas, &places, bytes)?;
    optimizer.hyper.step = found.step;
    Ok(())
}

fn saved(optimizer: &Optimizer, parameters: &[Parameter<'_>]) -> Saved {
    let kind = |parameter: &Parameter<'_>| {
        (parameter.elements() as u64, matches!(parameter.states[0], State::Blocks { .. }))
    };
    Saved {
        rule: optimizer.rule,
        step: optimizer.hyper.step,
        parameters: parameters.iter().map(kind).collect(),
    }
}

fn places(saved: &Saved) -> Result<(Vec<Range<u64>>, u64)> {
    let places = saved.places().filter(|(_, len)| isize::try_from(*len).is_ok());
    places.ok_or_else(|| Error::new(Status::TooLarge, "the states do not fit the address space"))
}

/// What copies between states, wherever they are, and host memory.
struct Mover<'a> {
    context: &'a Context,
    pager: Option<&'a Pager>,
}

impl<'a> Mover<'a> {
    fn new(context: &'a Context, pager: Option<&'a Pager>) -> Result<Self> {
        pager.map_or(Ok(None), |pager| pager.device_of(context))?;
        Ok(Self { context, pager })
    }

    fn save(&self, areas: &[Range<usize>], places: &[Range<u64>], bytes: &mut [u8]) -> Result<()> {
        self.with_queue(areas, true, |queue| {
            for (area, place) in areas.iter().zip(places).filter(|(area, _)| !area.is_empty()) {
                let bytes = &mut bytes[place.start as usize..place.end as usize];
                match queue {
                    Some(queue) if !self.is_host(area) => queue.copy_to_host(area.start as u64, bytes)?,
                    _ => self.for_each_part(area, |part, from| {
                        // SAFETY: an area of the states, in host memory.
                        let from = unsafe {
                            std::slice::from_raw_parts(std::ptr::with_exposed_provenance(from), part.len())
                        };
                        bytes[part].copy_from_slice(from);
                    }),
                }
            }
            Ok(())
        })
    }

    fn restore(&self, areas: &[Range<usize>], places: &[Range<u64>], bytes: &[u8]) -> Result<()> {
        self.with_queue(areas, false, |queue| {
            for (area, place) in areas.iter().zip(places).filter(|(area, _)| !area.is_empty()) {
                let bytes = &bytes[place.start as usize..place.end as usize];
                match queue {
                    Some(queue) if !self.is_host(area) => queue.copy_to_device(area.start as u64, bytes)?,
                    _ => self.for_each_part(area, |part, to| {
                        // SAFETY: as above; the caller gave the states to be written.
                        let to = unsafe {
                            std::slice::from_raw_parts_mut(
                                std::ptr::with_exposed_provenance_mut(to),
                                part.len(),
                            )
                        };
                        to.copy_from_slice(&bytes[part]);
                    }),
                }
            }
            Ok(())
        })
    }

    /// Calls `work` with the areas' memory up to date, and waits for the copies that it enqueues.
    fn with_queue(
        &self,
        areas: &[Range<usize>],
        reads: bool,
        work: impl FnOnce(Option<&Queue<'_>>) -> Result<()>,
    ) -> Result<()> {
        let Device::Cuda(cuda) = &self.context.device else { return work(None) };
        let queue = cuda.queue(self.context.stream)?;
        if let Some(pager) = self.pager {
            match &mut pager.book().memory {
                Memory::Streamed(memory) => {
                    memory.write_back(&queue, areas, !reads)?;
                }
                Memory::Managed(memory) => memory.ready(&queue)?,
                Memory::File(_) => {}
            }
        }
        queue.synchronize()?;
        work(Some(&queue))?;
        queue.synchronize()
    }

    /// Whether memory of a CUDA context is copied by the host.
    fn is_host(&self, area: &Range<usize>) -> bool {
        self.pager.is_some_and(|pager| {
            let book = pager.book();
            matches!(book.memory, Memory::Streamed(_)) && book.holds(area)
        })
    }

    /// Calls `copy` with parts of an area and their addresses, and drops those of a file again.
    fn for_each_part(&self, area: &Range<usize>, mut copy: impl FnMut(Range<usize>, usize)) {
        for start in area.clone().step_by(AT_ONCE) {
            let end = area.end.min(start + AT_ONCE);
            copy(start - area.start..end - area.start, start);
            if let Some(pager) = self.pager
                && let Memory::File(memory) = &pager.book().memory
            {
                memory.drop_pages(&(start..end));
            }
        }
    }
}

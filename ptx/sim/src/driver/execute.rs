//! Doing the work of streams.

use std::ffi::c_void;
use std::sync::Arc;

use super::launch::KernelLaunch;
use super::state::this_thread;
use super::{Driver, Outcome, Status};
use crate::counters::{Launch as LaunchRecord, Stats};
use crate::exec::{self, Checks};
use crate::fault::Fault;
use crate::log::{Location, Way, Work};
use crate::memory::memory;

/// Something for a stream to do.
#[derive(Clone)]
pub enum Operation {
    Kernel(Arc<KernelLaunch>),
    /// Rows of bytes; plain copies have one row.
    Copy(Arc<Copy>),
    Set(Set),
    /// Frees memory in stream order.
    Free(u64),
    /// Completes an event's recording of this number.
    Record {
        event: usize,
    },
    /// Waits for work of another stream.
    Wait {
        stream: usize,
        sequence: u64,
    },
    HostFunction(unsafe extern "C" fn(*mut c_void), usize),
    Graph(Arc<Vec<Operation>>),
    /// Moves managed memory; checked when it was submitted.
    Prefetch {
        address: u64,
        len: usize,
        to: Location,
    },
}

/// A copy.
pub struct Copy {
    pub way: Way,
    pub dst: u64,
    pub src: u64,
    pub width: usize,
    pub rows: usize,
    pub dst_pitch: usize,
    pub src_pitch: usize,
    /// Pageable host memory is read when the copy is submitted: rows of `width` bytes.
    pub staged: Option<Vec<u8>>,
}

/// A memset: rows of `count` elements.
#[derive(Clone, Copy)]
pub struct Set {
    pub dst: u64,
    pub pattern: [u8; 4],
    pub element: usize,
    pub count: usize,
    pub rows: usize,
    pub pitch: usize,
}

impl Operation {
    /// The operation as the log has it before it is executed.
    pub fn describe(&self) -> Work {
        match self {
            Self::Kernel(launch) => kernel_work(&launch.function.kernel.name, &Stats::default()),
            Self::Copy(copy) => Work::Copy { way: copy.way, bytes: (copy.width * copy.rows) as u64 },
            Self::Set(set) => Work::Set { bytes: (set.count * set.element * set.rows) as u64 },
            Self::Free(_) => Work::Free,
            Self::Record { event } => Work::Record { event: *event },
            Self::Wait { stream, sequence } => Work::Wait { stream: *stream, sequence: *sequence },
            Self::HostFunction(..) => Work::HostFunction,
            Self::Graph(operations) => Work::Graph(operations.iter().map(Self::describe).collect()),
            Self::Prefetch { len, to, .. } => Work::Prefetch { to: *to, bytes: *len as u64, moved: 0 },
        }
    }
}

fn kernel_work(name: &str, stats: &Stats) -> Work {
    Work::Kernel {
        name: name.to_owned(),
        read: stats.global_loads.bytes + stats.global_atomics.bytes,
        written: stats.global_stores.bytes + stats.global_atomics.bytes,
        faults: stats.managed_faults,
    }
}

impl Driver {
    /// Does one operation, and logs what came of it. A fault ends the context.
    pub fn execute(&mut self, context: usize, thread: u64, sequence: u64, operation: &Operation) -> Outcome {
        self.check_context(context)?;
        self.executed += 1;
        let executed = Some(self.executed);
        let mut work = operation.describe();
        let outcome = self.perform(thread, operation, &mut work);
        if let Some(entry) = self.counters_of(thread).entry(sequence) {
            (entry.work, entry.executed) = (work, executed);
        }
        if let Err(status) = outcome
            && let Some(context) = self.contexts.get_mut(&context)
        {
            context.poisoned = Some(status);
        }
        outcome
    }

    /// Does the operation that `work` describes, and completes the description.
    fn perform(&mut self, thread: u64, operation: &Operation, work: &mut Work) -> Outcome {
        match operation {
            Operation::Kernel(launch) => *work = self.execute_kernel(thread, launch)?,
            Operation::Copy(copy) => self.execute_copy(copy)?,
            Operation::Set(set) => self.execute_set(*set)?,
            Operation::Free(address) => self.release(*address),
            Operation::Record { event } => self.event_reached(*event),
            Operation::Wait { .. } => {}
            // SAFETY: the program's promise when it submitted the function.
            Operation::HostFunction(function, data) => unsafe { function(*data as *mut c_void) },
            Operation::Graph(operations) => {
                let Work::Graph(parts) = work else { unreachable!("a graph's description") };
                for (operation, part) in operations.iter().zip(parts) {
                    self.perform(thread, operation, part)?;
                }
            }
            // Memory that was freed since has no pages to move.
            &Operation::Prefetch { address, len, to } if memory().residence(address).is_some() => {
                let moved = self.migrate(address, len, to, thread);
                *work = Work::Prefetch { to, bytes: len as u64, moved };
            }
            Operation::Prefetch { .. } => {}
        }
        Ok(())
    }

    fn execute_kernel(&mut self, thread: u64, launch: &KernelLaunch) -> Outcome<Work> {
        let kernel = &launch.function.kernel;
        let context = self.contexts.get(&launch.function.context).ok_or(Status::CONTEXT_IS_DESTROYED)?;
        let device = context.device;
        let checks = Checks {
            device,
            races: self.config.check_races,
            uninitialized: self.config.check_uninitialized,
            instruction_limit: self.config.instruction_limit,
            first_block: self.config.first_block,
            overlaps: launch.manner.overlaps,
        };
        let run = exec::Launch::new(
            kernel,
            launch.grid,
            launch.block,
            launch.dynamic_shared,
            &launch.params,
            self.config.sm_count,
            checks,
        );
        match exec::run(&run, self.config.threads()) {
            Ok(stats) => {
                let work = kernel_work(&kernel.name, &stats);
                let record = LaunchRecord {
                    kernel: kernel.name.clone(),
                    grid: launch.grid,
                    block: launch.block,
                    shared: run.shared_size,
                    overlaps: launch.manner.overlaps,
                    stats,
                };
                self.counters_of(thread).launches.push(record);
                if !matches!(work, Work::Kernel { faults: 0, .. }) {
                    self.note_faults(device, thread);
                }
                Ok(work)
            }
            Err(fault) => Err(self.report(thread, *fault)),
        }
    }

    /// Keeps the fault for whoever asks.
    fn report(&mut self, thread: u64, fault: Fault) -> Status {
        if self.config.print_faults {
            eprintln!("ptx-sim: {fault}");
        }
        let status = Status(fault.code());
        for thread in [thread, this_thread()] {
            self.faults.insert(thread, fault.clone());
        }
        status
    }

    fn execute_copy(&mut self, copy: &Copy) -> Outcome {
        // The memory may have been freed since the copy was submitted.
        for row in 0..copy.rows {
            let dst = copy.dst + (row * copy.dst_pitch) as u64;
            let src = match &copy.staged {
                Some(staged) => staged[row * copy.width..].as_ptr() as u64,
                None => copy.src + (row * copy.src_pitch) as u64,
            };
            for address in [dst, src] {
                if memory().locate(address).is_some() && memory().find_range(address, copy.width).is_none() {
                    return Err(Status::ILLEGAL_ADDRESS);
                }
            }
            // SAFETY: device ranges were checked just now; host ranges are the program's promise.
            unsafe { memory().copy(dst, src, copy.width) };
        }
        Ok(())
    }

    fn execute_set(&mut self, set: Set) -> Outcome {
        for row in 0..set.rows {
            let dst = set.dst + (row * set.pitch) as u64;
            if memory().find_range(dst, set.count * set.element).is_none() {
                return Err(Status::ILLEGAL_ADDRESS);
            }
            // SAFETY: just checked.
            unsafe { memory().fill(dst, &set.pattern[..set.element], set.count) };
        }
        Ok(())
    }
}

//! Doing the work of streams.

use std::ffi::c_void;
use std::sync::Arc;

use super::launch::KernelLaunch;
use super::state::this_thread;
use super::{Driver, Outcome, Status};
use crate::counters::Launch as LaunchRecord;
use crate::exec::{self, Checks};
use crate::fault::Fault;
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
    /// A hint (prefetch), checked when it was submitted.
    Hint,
}

/// A copy.
pub struct Copy {
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

impl Driver {
    /// Does one operation. A fault ends the context.
    pub fn execute(&mut self, context: usize, thread: u64, operation: Operation) -> Outcome {
        self.check_context(context)?;
        let outcome = match operation {
            Operation::Kernel(launch) => self.execute_kernel(thread, &launch),
            Operation::Copy(copy) => self.execute_copy(&copy),
            Operation::Set(set) => self.execute_set(set),
            Operation::Free(address) => {
                self.release(address);
                Ok(())
            }
            Operation::Record { event } => {
                self.event_reached(event);
                Ok(())
            }
            Operation::Wait { .. } | Operation::Hint => Ok(()),
            Operation::HostFunction(function, data) => {
                // SAFETY: the program's promise when it submitted the function.
                unsafe { function(data as *mut c_void) };
                Ok(())
            }
            Operation::Graph(operations) => {
                for operation in operations.iter() {
                    self.execute(context, thread, operation.clone())?;
                }
                Ok(())
            }
        };
        if let Err(status) = outcome
            && let Some(context) = self.contexts.get_mut(&context)
        {
            context.poisoned = Some(status);
        }
        outcome
    }

    fn execute_kernel(&mut self, thread: u64, launch: &KernelLaunch) -> Outcome {
        let kernel = &launch.function.kernel;
        let context = self.contexts.get(&launch.function.context).ok_or(Status::CONTEXT_IS_DESTROYED)?;
        let checks = Checks {
            device: context.device,
            races: self.config.check_races,
            uninitialized: self.config.check_uninitialized,
            instruction_limit: self.config.instruction_limit,
            first_block: self.config.first_block,
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
                let record = LaunchRecord {
                    kernel: kernel.name.clone(),
                    grid: launch.grid,
                    block: launch.block,
                    shared: run.shared_size,
                    stats,
                };
                self.counters_of(thread).launches.push(record);
                Ok(())
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

//! Paged memory: for states of optimizers that may be larger than the memory that they are used in.

mod book;
mod buffer;
mod holds;

pub use buffer::PagedBuffer;

use super::context::{Context, Device};
use crate::cpu::file_memory::FileMemory;
use crate::cuda::device::Cuda;
use crate::cuda::paging::managed::Managed;
use crate::cuda::paging::streamed::Streamed;
use crate::error::{Error, Result, ensure};
use crate::format::optimizer::norms::CHUNK;
use crate::view::Parameter;
use crate::view::window::{ALIGN, Area, LEAST_BUDGET, Paged, Plan, Wish, window_bytes};
pub(crate) use book::{Book, Memory};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

/// How memory is paged; the numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum PagerKind {
    /// What serves the context best: [`Self::File`] on a CPU, [`Self::Streamed`] on a GPU.
    Auto = 0,
    /// Unified memory of a GPU, prefetched. Where the device has no concurrent access to it (Windows, WSL, most Jetsons) it works as
    /// far as the device's memory goes, without hints, and the host must not touch any of it while work is under way on the device.
    Managed = 1,
    /// Page-locked memory of the host, as much as the system lets be locked (WSL limits it), copied to a GPU and back.
    Streamed = 2,
    /// A file without a name, mapped, on a CPU.
    File = 3,
}

/// What a pager is made of.
#[derive(Clone, Debug)]
pub struct PagerOptions {
    /// How.
    pub kind: PagerKind,
    /// Bytes that paged memory may take where it is used, at least 256 KiB: of the GPU's memory, or of resident memory. The latter
    /// is held on Linux and asked of Windows; for macOS it is a hint.
    pub budget: u64,
    /// Where [`PagerKind::File`] makes its file; `None` is the system's folder of temporary files, which may be memory itself.
    ///
    /// A folder on ext4 or XFS is best: there what was allocated stays the file's. A file system that copies on write (Btrfs, ZFS)
    /// or is another machine's may find no room for what is written again, if others fill the disk meanwhile; the system then ends
    /// the process by a signal (SIGBUS).
    pub folder: Option<PathBuf>,
}

/// Where a range wants to be; the numbers are those of the C ABI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Advice {
    /// In the budget as far as it goes, first come, first served.
    Normal = 0,
    /// In the budget before others.
    Stay = 1,
    /// Out of the budget as soon as it has been used.
    Pass = 2,
}

/// What a pager has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagerStatistics {
    /// As it was made.
    pub budget: u64,
    /// Allocations that there are, and their bytes.
    pub allocations: u64,
    /// As above.
    pub allocated_bytes: u64,
    /// Bytes that stay within the budget from step to step, of parameters in whatever call.
    pub staying_bytes: u64,
    /// Windows that the rest of the last step passed through.
    pub windows: u64,
    /// Bytes brought to where they are used, and taken from there.
    pub bytes_in: u64,
    /// As above.
    pub bytes_out: u64,
    /// Steps taken.
    pub steps: u64,
}

/// Memory that is where it is used only while it is used, within a budget. It may be shared between threads; clones share it.
///
/// What it gives is ordinary memory of the host with an address: every operation takes it, and all that the budget does is done by
/// [`optimizer_step_paged`](super::optimizer_step_paged), window by window. Between steps memory of [`PagerKind::Streamed`] may be
/// older than what the GPU has of it: [`Self::evict`] it before somebody else reads it; what others write to it, they do before the
/// first step, or after it was evicted. Memory of the other kinds is never old.
///
/// So states in a pager's memory are stepped, saved and restored with that pager, one a call.
///
/// Memory is freed with the pager or before, when the work of calls with this pager is done; other work on it is the caller's to wait
/// for. A process that ends, however it does, leaves nothing behind.
#[derive(Clone)]
pub struct Pager(Arc<Shared>);

struct Shared {
    device: Device,
    kind: PagerKind,
    budget: usize,
    state: Mutex<Book>,
}

impl Pager {
    /// Bytes of the least budget: its windows hold a chunk of any states.
    pub const LEAST_BUDGET: u64 = LEAST_BUDGET as u64;

    /// Paged memory for a context's device.
    ///
    /// [`PagerKind::Streamed`] takes the whole budget of the GPU's memory now; [`PagerKind::File`] makes its file.
    ///
    /// Errors: [`InvalidArgument`](crate::Status::InvalidArgument) for a budget below 256 KiB, a kind of the other device, a folder
    /// that is given and not used or where no file can be made; [`OutOfResources`](crate::Status::OutOfResources) where the memory
    /// is not there; [`Unsupported`](crate::Status::Unsupported) for [`PagerKind::Managed`] on a GPU without it.
    pub fn new(context: &Context, options: &PagerOptions) -> Result<Self> {
        let PagerOptions { kind, budget, folder } = options;
        let least = Self::LEAST_BUDGET;
        ensure!(*budget >= least, "budget is {budget} bytes; it must be at least {least}");
        let budget = usize::try_from(*budget).ok().filter(|&budget| isize::try_from(budget).is_ok());
        let budget = budget.ok_or_else(|| Error::too_large("budget does not fit the address space"))?;
        let kind = match (kind, &context.device) {
            (PagerKind::Auto, Device::Cpu(_)) => PagerKind::File,
            (PagerKind::Auto, Device::Cuda(_)) => PagerKind::Streamed,
            (kind, _) => *kind,
        };
        ensure!(
            folder.is_none() || kind == PagerKind::File,
            "folder is given; only pagers of files have one, and this one is {kind:?}"
        );
        let memory = match (kind, &context.device) {
            (PagerKind::File, Device::Cpu(_)) => {
                Memory::File(FileMemory::create(&folder.clone().unwrap_or_else(std::env::temp_dir))?)
            }
            (PagerKind::Managed, Device::Cuda(cuda)) => Memory::Managed(Managed::new(cuda)?),
            (PagerKind::Streamed, Device::Cuda(cuda)) => Memory::Streamed(Streamed::new(cuda, budget)?),
            (_, device) => {
                let (name, valid) = match device {
                    Device::Cpu(_) => ("CPU", "Auto or File"),
                    Device::Cuda(_) => ("GPU", "Auto, Managed or Streamed"),
                };
                return Err(Error::invalid(format!("kind is {kind:?}; on a {name} it must be {valid}")));
            }
        };
        let state = Mutex::new(Book::new(memory));
        Ok(Self(Arc::new(Shared { device: context.device.clone(), kind, budget, state })))
    }

    /// How it pages: never [`PagerKind::Auto`].
    pub fn kind(&self) -> PagerKind {
        self.0.kind
    }

    /// The address of `bytes` bytes, all zero, aligned to at least 256. Allocations take whole pages of the system's: one for all
    /// states is better than one for each. What follows each other there without gaps, in the order in which a step takes the
    /// parameters, is moved as one: thousands of small states then cost what one large state does.
    ///
    /// The call may wait for the device, and must not be made while the thread captures a stream.
    ///
    /// Errors: [`InvalidArgument`](crate::Status::InvalidArgument) for zero bytes; [`TooLarge`](crate::Status::TooLarge) for more
    /// than the address space has; [`OutOfResources`](crate::Status::OutOfResources) where there is no such memory, or no such room
    /// on disk. Everything is as before then.
    pub fn alloc(&self, bytes: u64) -> Result<usize> {
        ensure!(bytes > 0, "bytes is 0; it must be at least 1");
        let len = usize::try_from(bytes).ok().filter(|&len| isize::try_from(len).is_ok());
        let len = len.ok_or_else(|| {
            Error::too_large(format!("bytes is {bytes}; it does not fit the address space"))
        })?;
        let mut book = self.book();
        let address = match &mut book.memory {
            Memory::Managed(memory) => memory.alloc(len)?,
            Memory::Streamed(memory) => memory.alloc(len)?,
            Memory::File(memory) => memory.alloc(len)?,
        };
        book.allocations.insert(address, len);
        Ok(address)
    }

    /// Frees an allocation, when the work that was enqueued by calls with this pager is done.
    ///
    /// Errors: [`InvalidArgument`](crate::Status::InvalidArgument) for an address that is no allocation.
    ///
    /// # Safety
    /// Nothing else uses the memory any more.
    pub unsafe fn free(&self, address: usize) -> Result<()> {
        let mut book = self.book();
        let Some(&len) = book.allocations.get(&address) else {
            return Err(Error::invalid(format!("ptr is {address:#x}, which is no allocation of this pager")));
        };
        let range = address..address + len;
        match &mut book.memory {
            Memory::Managed(memory) => memory.free(&range)?,
            Memory::Streamed(memory) => memory.free(&range)?,
            Memory::File(memory) => memory.free(address),
        }
        book.forget(range);
        Ok(())
    }

    /// Brings memory nearer, before a step needs it, on the context's stream: unified memory to the GPU; what stays on the GPU and
    /// was evicted back there; a file's memory from disk. A hint: it need not be, and takes no part of the budget by itself.
    ///
    /// Errors: [`InvalidArgument`](crate::Status::InvalidArgument) for zero bytes, a range that does not lie in one allocation, or
    /// a context of another device; [`Unsupported`](crate::Status::Unsupported) for a stream that is captured.
    pub fn prefetch(&self, context: &Context, address: usize, bytes: u64) -> Result<()> {
        let mut book = self.book();
        let range = book.range(address, bytes)?;
        match (&mut book.memory, self.device_of(context)?) {
            (Memory::File(memory), _) => memory.read_ahead(&range),
            (Memory::Managed(memory), Some(cuda)) => {
                memory.prefetch(&cuda.queue(context.stream)?, &range, true)?;
            }
            (Memory::Streamed(memory), Some(cuda)) => {
                memory.prefetch(&cuda.queue(context.stream)?, &range)?
            }
            _ => unreachable!("the context is the pager's"),
        }
        Ok(())
    }

    /// Sends memory away from where it is used, on the context's stream: to the host, where it is as new as anywhere when the stream
    /// has passed; a file's memory to disk, at once.
    ///
    /// Errors: those of [`Self::prefetch`]; [`OutOfResources`](crate::Status::OutOfResources) where the disk refuses it. The memory
    /// stays as it is.
    pub fn evict(&self, context: &Context, address: usize, bytes: u64) -> Result<()> {
        let mut book = self.book();
        let range = book.range(address, bytes)?;
        match (&mut book.memory, self.device_of(context)?) {
            (Memory::File(memory), _) => {
                memory.write_out(&range)?;
                memory.drop_pages(&range);
            }
            (Memory::Managed(memory), Some(cuda)) => {
                memory.prefetch(&cuda.queue(context.stream)?, &range, false)?;
            }
            (Memory::Streamed(memory), Some(cuda)) => {
                memory.write_back(&cuda.queue(context.stream)?, &[range], true)?;
            }
            _ => unreachable!("the context is the pager's"),
        }
        Ok(())
    }

    /// Says where a range wants to be, from the next step on. A parameter follows the advice at the starts of its states; if they
    /// differ, [`Advice::Pass`] counts before [`Advice::Stay`].
    ///
    /// Errors: [`InvalidArgument`](crate::Status::InvalidArgument) for zero bytes, or a range that does not lie in one allocation.
    pub fn advise(&self, address: usize, bytes: u64, advice: Advice) -> Result<()> {
        let mut book = self.book();
        let range = book.range(address, bytes)?;
        let wish = match advice {
            Advice::Normal => Wish::None,
            Advice::Stay => Wish::Stay,
            Advice::Pass => Wish::Pass,
        };
        book.advise(range, wish);
        Ok(())
    }

    /// What it has done so far.
    pub fn statistics(&self) -> PagerStatistics {
        let book = self.book();
        let [bytes_in, bytes_out] = match &book.memory {
            Memory::Managed(memory) => memory.counts(),
            Memory::Streamed(memory) => memory.counts(),
            Memory::File(memory) => memory.counts(),
        };
        PagerStatistics {
            budget: self.0.budget as u64,
            allocations: book.allocations.len() as u64,
            allocated_bytes: book.allocations.values().map(|&len| len as u64).sum(),
            staying_bytes: book.held().iter().map(|range| range.len() as u64).sum(),
            windows: book.windows,
            bytes_in,
            bytes_out,
            steps: book.steps,
        }
    }

    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.0.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The GPU of a context that must be the pager's.
    pub(crate) fn device_of<'a>(&self, context: &'a Context) -> Result<Option<&'a Arc<Cuda>>> {
        match (&context.device, &self.0.device) {
            (Device::Cpu(_), Device::Cpu(_)) => Ok(None),
            (Device::Cuda(cuda), Device::Cuda(own)) if Arc::ptr_eq(cuda, own) => Ok(Some(cuda)),
            _ => Err(Error::invalid("context is of another device than the pager")),
        }
    }

    /// How the step of these parameters that comes is taken.
    pub(crate) fn plan(&self, book: &mut Book, parameters: &[Parameter<'_>]) -> Plan {
        // The last item of an area may be a short block's; and in slots of its own a part may start later than the last one ends.
        let slack = size_of::<f32>() + if self.0.kind == PagerKind::Streamed { ALIGN } else { 0 };
        let paged = |parameter: &Parameter<'_>| {
            let areas = || parameter.areas().filter(|area| book.has(area));
            let bytes = |area: Area| area.bytes(&(0..CHUNK)).len();
            Paged {
                key: areas().next().map_or(0, |area| area.extent().start),
                elements: parameter.elements(),
                chunk_bytes: areas().map(bytes).sum(),
                piece_bytes: slack * areas().count(),
                wish: areas().map(|area| book.wish(area.extent().start)).max().unwrap_or_default(),
            }
        };
        let paged: Vec<Paged> = parameters.iter().map(paged).collect();
        let stays = book.choose(&paged, parameters, self.0.budget);
        Plan::new(&paged, &stays, window_bytes(self.0.budget))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let book = self.state.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (&address, &len) in &book.allocations {
            let range = address..address + len;
            let _ = match &mut book.memory {
                Memory::Managed(memory) => memory.free(&range),
                Memory::Streamed(memory) => memory.free(&range),
                Memory::File(_) => Ok(()), // with its maps
            };
        }
    }
}

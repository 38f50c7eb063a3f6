//! What of a mapped file is resident, as far as a system lets itself be told. Contents never change by it, so errors do not matter.
//!
//! | | read ahead | make resident | drop |
//! |---|---|---|---|
//! | Linux | `MADV_WILLNEED` | `MADV_POPULATE_READ`, `_WRITE` | `MADV_DONTNEED` |
//! | other Unix | `MADV_WILLNEED` | by faults | `MADV_DONTNEED`, a hint |
//! | Windows | `PrefetchVirtualMemory` | by faults | `VirtualUnlock`, which takes what is not locked from the working set |

use memmap2::MmapMut;
use std::ops::Range;

/// Hints that these bytes will be used: what is on disk only is read, while the caller goes on (on Unix).
pub fn read_ahead(memory: &MmapMut, at: Range<usize>) {
    #[cfg(unix)]
    let _ = memory.advise_range(memmap2::Advice::WillNeed, at.start, at.len());
    #[cfg(windows)]
    {
        use windows_sys::Win32::System::Memory::{PrefetchVirtualMemory, WIN32_MEMORY_RANGE_ENTRY};
        use windows_sys::Win32::System::Threading::GetCurrentProcess;
        let range = WIN32_MEMORY_RANGE_ENTRY {
            VirtualAddress: memory.as_ptr().wrapping_add(at.start).cast_mut().cast(),
            NumberOfBytes: at.len(),
        };
        // SAFETY: one range, of memory that is mapped.
        unsafe { PrefetchVirtualMemory(GetCurrentProcess(), 1, &range, 0) };
    }
    #[cfg(not(any(unix, windows)))]
    let _ = (memory, at);
}

/// Makes the pages of these bytes resident, all at once. By faults, of which a page that is read before it is written has two, a
/// step takes twice as long. What a system refuses (Linux before 5.14) is left to them.
pub fn bring(memory: &MmapMut, at: Range<usize>, written: bool) {
    #[cfg(target_os = "linux")]
    {
        use memmap2::Advice::{PopulateRead, PopulateWrite};
        let advice = if written { PopulateWrite } else { PopulateRead };
        let _ = memory.advise_range(advice, at.start, at.len());
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (memory, at, written);
}

/// Makes the pages of these bytes non-resident.
pub fn drop_pages(memory: &MmapMut, at: Range<usize>) {
    #[cfg(unix)]
    // SAFETY: pages of a shared map of a file are read from the file again, which has what was written to them.
    let _ = unsafe { memory.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at.start, at.len()) };
    #[cfg(windows)]
    {
        use windows_sys::Win32::System::Memory::VirtualUnlock;
        let from = memory.as_ptr().wrapping_add(at.start).cast_mut().cast();
        // SAFETY: the memory is mapped, and nobody locks any of it.
        unsafe { VirtualUnlock(from, at.len()) };
    }
    #[cfg(not(any(unix, windows)))]
    let _ = (memory, at);
}

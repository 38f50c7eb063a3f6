//! The tests of the CPU's operations once more, with every allocation between pages that may not be touched. Half of them, the
//! caller's buffers and the library's own, end where their pages end, half start where they start, and over many cases each buffer
//! does: reading or writing beyond one ends the process by a signal, and so does a use after free.

#![cfg(target_os = "linux")]
#![allow(clippy::duplicate_mod)] // each of these files has `mod common`

#[path = "blockwise.rs"]
mod blockwise;
#[path = "gemm.rs"]
mod gemm;
#[path = "optimizer.rs"]
mod optimizer;
#[path = "paged.rs"]
mod paged;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicUsize, Ordering};

#[global_allocator]
static FENCES: Fences =
    Fences { arena: AtomicUsize::new(0), used: AtomicUsize::new(0), live: AtomicUsize::new(0) };

/// Bytes of address space. None is used twice, so that what was freed stays out of reach.
const ARENA: usize = 1 << 44;

/// A process has 65,530 mappings by default, of which an allocation takes two. What is more goes to the system's allocator.
const MOST: usize = 30_000;

/// Gives every allocation pages of its own, with one that cannot be touched before them and one behind. Half of the allocations
/// end where their pages end, half start where they start.
struct Fences {
    /// Its address, once there is one.
    arena: AtomicUsize,
    /// Bytes of it that were given.
    used: AtomicUsize,
    /// Allocations.
    live: AtomicUsize,
}

impl Fences {
    fn arena(&self) -> Option<usize> {
        let arena = self.arena.load(Ordering::Acquire);
        if arena != 0 {
            return Some(arena);
        }
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping wherever there is room. Two threads that meet here make two, one of which stays unused.
        let new = unsafe { mmap_anonymous(null_mut(), ARENA, ProtFlags::empty(), flags) }.ok()?.addr();
        let other = self.arena.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire);
        Some(other.err().unwrap_or(new))
    }
}

/// Bytes of a page, and of the pages of an allocation without its fences.
fn pages(layout: Layout) -> (usize, usize) {
    let page = rustix::param::page_size();
    (page, layout.size().max(1).next_multiple_of(page))
}

// SAFETY: allocations are of different pages, or the system's; they have the size and the alignment asked for.
unsafe impl GlobalAlloc for Fences {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let (page, pages) = pages(layout);
        let Some(arena) = self.arena() else { return null_mut() };
        if self.live.load(Ordering::Relaxed) >= MOST || layout.align() > page {
            // SAFETY: as the caller promises.
            return unsafe { System.alloc(layout) };
        }
        let used = self.used.fetch_add(pages + page, Ordering::Relaxed);
        if used + pages + 2 * page > ARENA {
            return null_mut();
        }
        // What is behind one allocation is before the next.
        let start = (arena + used + page) as *mut u8;
        let access = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: these pages of the arena are nobody's.
        if unsafe { mprotect(start.cast(), pages, access) }.is_err() {
            return null_mut();
        }
        self.live.fetch_add(1, Ordering::Relaxed);
        // As good as random.
        let at_end = (used / page).count_ones().is_multiple_of(2);
        let offset = if at_end { (pages - layout.size()) / layout.align() * layout.align() } else { 0 };
        start.wrapping_add(offset)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        let arena = self.arena.load(Ordering::Acquire);
        if !(arena..arena + ARENA).contains(&at.addr()) {
            // SAFETY: as the caller promises.
            return unsafe { System.dealloc(at, layout) };
        }
        // Allocations start in the first of their pages, wherever they end.
        let (page, pages) = pages(layout);
        let start = at.wrapping_sub(at.addr() % page);
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the pages are this allocation's, which nobody uses any more.
        let _ = unsafe { mmap_anonymous(start.cast(), pages, ProtFlags::empty(), flags) };
        self.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the tests above rely on. Run by the test below, in a process of its own.
#[test]
#[ignore = "the test below starts it"]
fn beyond() {
    let beyond = std::env::var("QLK_BEYOND").map_or(0, |at| at.parse().unwrap());
    let buffers = std::hint::black_box([(); 64].map(|()| vec![1u8; 100]));
    for buffer in &buffers {
        // SAFETY: some of these have nothing before them and some have nothing behind them: this ends the process.
        std::hint::black_box(unsafe { buffer.as_ptr().offset(beyond).read_volatile() });
    }
}

#[test]
fn a_byte_beyond_ends_the_process() {
    use std::os::unix::process::ExitStatusExt;
    for (at, signal) in [(0, None), (99, None), (-1, Some(11)), (100, Some(11))] {
        let mut command = std::process::Command::new(std::env::current_exe().unwrap());
        let output = command
            .args(["--exact", "beyond", "--ignored", "--test-threads=1"])
            .env("QLK_BEYOND", at.to_string())
            .output()
            .unwrap();
        assert_eq!(output.status.signal(), signal, "{at}: {output:?}");
    }
}

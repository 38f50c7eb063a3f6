//! A reserved range of addresses with, for each byte, what is known about it.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::residence::Residence;
use crate::log::Location;
use crate::race::Shadow;

/// Bytes that share a lock and a shadow.
pub const PAGE: usize = 4096;

/// What is known about a byte of memory.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not part of any allocation.
    Free = 0,
    /// Allocated, never written.
    Unwritten = 1,
    /// Written.
    Written = 2,
}

/// A range of addresses. Memory behind it comes from the system when it is first touched.
pub struct Arena {
    /// The first address as programs see it.
    pub base: u64,
    pub size: usize,
    /// Where the contents really are; for memory that the host may touch, at `base`.
    data: *mut u8,
    /// One [`State`] a byte.
    state: *mut u8,
    pages: *mut Page,
}

// SAFETY: the pointers are to mappings that live as long as the process; who may touch what is the callers' business:
// kernels hold a page's lock, the driver its own.
unsafe impl Send for Arena {}
unsafe impl Sync for Arena {}

/// The lock of a page, where it is, and the shadow of its accesses by the running kernel. All zeros is its first state.
#[repr(C)]
pub struct Page {
    lock: AtomicBool,
    pub residence: Residence,
    shadow: UnsafeCell<Option<Box<Shadow>>>,
}

/// Maps `size` bytes; without access the range is only reserved.
fn map(size: usize, access: bool) -> *mut u8 {
    let protection = if access { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_NONE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the system's choice.
    let address = unsafe { libc::mmap(std::ptr::null_mut(), size, protection, flags, -1, 0) };
    assert!(address != libc::MAP_FAILED, "cannot reserve {size} bytes of address space");
    address.cast()
}

impl Arena {
    /// Reserves a range. If not `host_visible`, its addresses are good for nothing on the host, as a device's are.
    pub fn new(size: usize, host_visible: bool) -> Self {
        let data = map(size, true);
        let base = if host_visible { data } else { map(size, false) };
        let pages = map(size / PAGE * size_of::<Page>(), true).cast();
        Self { base: base as u64, size, data, state: map(size, true), pages }
    }

    /// The offset of an address inside.
    #[inline(always)]
    pub fn offset(&self, address: u64) -> Option<usize> {
        let offset = address.wrapping_sub(self.base);
        (offset < self.size as u64).then_some(offset as usize)
    }

    /// The contents at an offset.
    #[inline(always)]
    pub fn data(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.size);
        // SAFETY: inside the mapping.
        unsafe { self.data.add(offset) }
    }

    /// The states at an offset.
    #[inline(always)]
    pub fn state(&self, offset: usize) -> *mut u8 {
        debug_assert!(offset < self.size);
        // SAFETY: inside the mapping.
        unsafe { self.state.add(offset) }
    }

    /// The page of an offset.
    #[inline(always)]
    pub fn page(&self, offset: usize) -> &Page {
        // SAFETY: inside the mapping, and zeros are a valid page.
        unsafe { &*self.pages.add(offset / PAGE) }
    }

    /// Makes whole pages the memory of a device.
    pub fn set_owner(&self, offset: usize, len: usize, device: i32) {
        for page in 0..len / PAGE {
            self.page(offset + page * PAGE).residence.move_to(Location::Device(device));
        }
    }

    /// Sets the state of a range.
    pub fn fill_state(&self, offset: usize, len: usize, state: State) {
        assert!(offset + len <= self.size);
        // SAFETY: inside the mapping.
        unsafe { self.state.add(offset).write_bytes(state as u8, len) }
    }

    /// Gives the memory of whole pages back to the system.
    pub fn release(&self, offset: usize, len: usize) {
        assert!(offset.is_multiple_of(PAGE) && len.is_multiple_of(PAGE) && offset + len <= self.size);
        for page in 0..len / PAGE {
            let page = self.page(offset + page * PAGE);
            page.residence.clear();
            page.lock().drop_shadow();
        }
        // SAFETY: whole pages of the mappings; both read as zeros afterwards, which is `State::Free`.
        unsafe {
            libc::madvise(self.data.add(offset).cast(), len, libc::MADV_DONTNEED);
            libc::madvise(self.state.add(offset).cast(), len, libc::MADV_DONTNEED);
        }
    }
}

impl Page {
    /// Waits for the lock. It is held for one instruction of one warp.
    #[inline]
    pub fn lock(&self) -> PageGuard<'_> {
        while self.lock.compare_exchange_weak(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
            std::hint::spin_loop();
        }
        PageGuard { page: self }
    }
}

/// A locked page.
pub struct PageGuard<'a> {
    pub page: &'a Page,
}

impl PageGuard<'_> {
    /// The page's accesses in the launch so far.
    #[inline]
    pub fn shadow(&mut self, launch: u64) -> &mut Shadow {
        // SAFETY: the lock is held.
        let shadow = unsafe { &mut *self.page.shadow.get() };
        let shadow = shadow.get_or_insert_with(|| Box::new(Shadow::new(PAGE, launch)));
        shadow.begin(launch);
        shadow
    }

    fn drop_shadow(self) {
        // SAFETY: the lock is held.
        unsafe { *self.page.shadow.get() = None };
    }
}

impl Drop for PageGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.page.lock.store(false, Ordering::Release);
    }
}

/// The least state of some bytes, a power of two of them and at most 32.
///
/// # Safety
/// The bytes are readable.
#[inline(always)]
pub unsafe fn all_at_least(states: *const u8, bytes: usize, wanted: State) -> bool {
    // States are 0, 1, 2: at least 1 is "bit 0 or 1", at least 2 is "bit 1".
    let mask =
        if wanted as u8 == State::Written as u8 { 0x0202_0202_0202_0202u64 } else { 0x0303_0303_0303_0303 };
    // SAFETY: the caller's promise.
    unsafe {
        let word = |at: usize| states.add(at).cast::<u64>().read_unaligned();
        let full = |word: u64| {
            let bits = word & mask;
            (bits | bits >> 1) & 0x0101_0101_0101_0101 == 0x0101_0101_0101_0101
        };
        match bytes {
            1 => full(u64::from(*states) * 0x0101_0101_0101_0101),
            2 => full(u64::from(states.cast::<u16>().read_unaligned()) * 0x0001_0001_0001_0001),
            4 => full(u64::from(states.cast::<u32>().read_unaligned()) * 0x0000_0001_0000_0001),
            _ => (0..bytes / 8).all(|k| full(word(8 * k))),
        }
    }
}

/// Copies a power of two of at most 32 bytes.
///
/// # Safety
/// As for `copy_nonoverlapping`.
#[inline(always)]
pub unsafe fn copy_small(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise. Constant lengths make plain moves of what would be calls.
    unsafe {
        match bytes {
            1 => *to = *from,
            2 => std::ptr::copy_nonoverlapping(from, to, 2),
            4 => std::ptr::copy_nonoverlapping(from, to, 4),
            8 => std::ptr::copy_nonoverlapping(from, to, 8),
            16 => std::ptr::copy_nonoverlapping(from, to, 16),
            _ => std::ptr::copy_nonoverlapping(from, to, bytes),
        }
    }
}

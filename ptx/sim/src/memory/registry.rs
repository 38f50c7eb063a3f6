//! Allocations, and copies between them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{OnceLock, RwLock};

use super::arena::{Arena, PAGE, State};
use super::residence::Residence;

/// What an allocation was made by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cuMemAlloc` and its kin.
    Device,
    /// `cuMemAllocManaged`.
    Managed,
    /// `cuMemHostAlloc`.
    Host,
    /// `cuMemHostRegister`: the caller's own memory.
    Registered,
    /// A module's variables.
    Module,
}

/// A live allocation.
#[derive(Clone, Copy, Debug)]
pub struct Allocation {
    pub base: u64,
    pub size: usize,
    pub kind: Kind,
    pub device: i32,
}

/// The arena is full.
#[derive(Debug)]
pub struct OutOfMemory;

/// All simulated memory.
pub struct Memory {
    device: Arena,
    /// Managed and page-locked memory: device address and host address are the same.
    host: Arena,
    registry: RwLock<Registry>,
}

#[derive(Default)]
struct Registry {
    live: BTreeMap<u64, Allocation>,
    /// Next fresh page of the device and the host arena.
    fresh: [usize; 2],
    /// Freed page ranges, oldest first; used again only when nothing fresh is left, so that stale pointers are caught.
    freed: [VecDeque<(usize, usize)>; 2],
}

/// Before and behind each allocation at least so many bytes belong to nobody. Also the alignment of allocations: no more than
/// the driver promises in practice, so that nobody relies on more.
const RED_ZONE: usize = 512;

/// What lies before an allocation. Managed memory begins with a page, because it comes and goes by pages.
const fn lead(kind: Kind) -> usize {
    if matches!(kind, Kind::Managed) { PAGE } else { RED_ZONE }
}

/// Bytes of whole pages that an allocation takes.
const fn extent(size: usize, kind: Kind) -> usize {
    (lead(kind) + size + RED_ZONE).next_multiple_of(PAGE)
}

/// Addresses of each arena. Far more than the memory that is ever in use.
const ARENA: usize = 1 << 37;

/// The memory of this process.
pub fn memory() -> &'static Memory {
    static MEMORY: OnceLock<Memory> = OnceLock::new();
    MEMORY.get_or_init(|| Memory {
        device: Arena::new(ARENA, false),
        host: Arena::new(ARENA, true),
        registry: RwLock::default(),
    })
}

impl Memory {
    /// The arena that an address is in, and its offset there.
    #[inline(always)]
    pub fn locate(&self, address: u64) -> Option<(&Arena, usize)> {
        if let Some(offset) = self.device.offset(address) {
            return Some((&self.device, offset));
        }
        self.host.offset(address).map(|offset| (&self.host, offset))
    }

    const fn is_host(kind: Kind) -> bool {
        matches!(kind, Kind::Managed | Kind::Host)
    }

    /// Allocates. Device memory starts unwritten (and full of 0xCD); the host may write its own unseen, so that counts as
    /// written.
    pub fn allocate(&self, size: usize, kind: Kind, device: i32) -> Result<u64, OutOfMemory> {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        let which = usize::from(Self::is_host(kind));
        let arena = if which == 1 { &self.host } else { &self.device };
        let pages = extent(size, kind);
        let start = if registry.fresh[which] + pages <= arena.size {
            let start = registry.fresh[which];
            registry.fresh[which] += pages;
            start
        } else {
            let freed = &mut registry.freed[which];
            let at = freed.iter().position(|&(_, len)| len >= pages).ok_or(OutOfMemory)?;
            let (start, len) = freed[at];
            if len == pages {
                freed.remove(at);
            } else {
                freed[at] = (start + pages, len - pages);
            }
            start
        };
        let offset = start + lead(kind);
        let state = if which == 1 { State::Written } else { State::Unwritten };
        arena.fill_state(offset, size, state);
        if which == 0 {
            arena.set_owner(start, pages, device);
            // SAFETY: inside the arena, and nobody has the address yet.
            unsafe { arena.data(offset).write_bytes(0xCD, size) };
        }
        let base = arena.base + offset as u64;
        registry.live.insert(base, Allocation { base, size, kind, device });
        Ok(base)
    }

    /// Makes the host's own memory accessible to kernels.
    pub fn register(&self, base: u64, size: usize) {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        registry.live.insert(base, Allocation { base, size, kind: Kind::Registered, device: 0 });
    }

    /// Ends an allocation or registration. `false` if there is none that starts there.
    pub fn free(&self, base: u64) -> bool {
        let mut registry = self.registry.write().unwrap_or_else(|e| e.into_inner());
        let Some(allocation) = registry.live.remove(&base) else { return false };
        if allocation.kind == Kind::Registered {
            return true;
        }
        let which = usize::from(Self::is_host(allocation.kind));
        let arena = if which == 1 { &self.host } else { &self.device };
        let start = (base - arena.base) as usize - lead(allocation.kind);
        let pages = extent(allocation.size, allocation.kind);
        arena.release(start, pages);
        registry.freed[which].push_back((start, pages));
        true
    }

    /// The allocation that an address is in.
    pub fn find(&self, address: u64) -> Option<Allocation> {
        let registry = self.registry.read().unwrap_or_else(|e| e.into_inner());
        let (_, allocation) = registry.live.range(..=address).next_back()?;
        (address < allocation.base + allocation.size.max(1) as u64).then_some(*allocation)
    }

    /// The allocation that holds the whole range.
    pub fn find_range(&self, address: u64, len: usize) -> Option<Allocation> {
        let allocation = self.find(address)?;
        (address + len as u64 <= allocation.base + allocation.size as u64).then_some(allocation)
    }

    /// The pages that a range of managed memory touches, each with its first address.
    pub fn managed_pages(&self, address: u64, len: usize) -> impl Iterator<Item = (u64, &Residence)> {
        let offset = (address - self.host.base) as usize;
        let pages = offset / PAGE..(offset + len).div_ceil(PAGE);
        pages.map(|page| (self.host.base + (page * PAGE) as u64, &self.host.page(page * PAGE).residence))
    }

    /// Where the page of an address is, if it is in managed memory whose pages move.
    pub fn residence(&self, address: u64) -> Option<&Residence> {
        let residence = &self.host.page(self.host.offset(address)?).residence;
        residence.is_somewhere().then_some(residence)
    }

    /// The live allocations of a kind.
    pub fn all_of(&self, kind: Kind) -> Vec<Allocation> {
        let registry = self.registry.read().unwrap_or_else(|e| e.into_inner());
        registry.live.values().filter(|a| a.kind == kind).copied().collect()
    }

    /// What is near an address that is in no allocation.
    pub fn describe(&self, address: u64) -> String {
        let registry = self.registry.read().unwrap_or_else(|e| e.into_inner());
        let before = registry.live.range(..=address).next_back().map(|(_, a)| *a);
        let after = registry.live.range(address..).next().map(|(_, a)| *a);
        let end = |a: Allocation| a.base + a.size as u64;
        if let Some(a) = before.filter(|&a| address < end(a)) {
            return format!(
                "byte {} of an allocation of {} bytes at {:#x}",
                address - a.base,
                a.size,
                a.base
            );
        }
        let behind = before.map(|a| (address - end(a), a)).filter(|&(distance, _)| distance < 1 << 30);
        let ahead = after.map(|a| (a.base - address, a)).filter(|&(distance, _)| distance < 1 << 30);
        match (behind, ahead) {
            (Some((distance, a)), other) if other.is_none_or(|(d, _)| distance <= d) => {
                format!(
                    "{distance} bytes behind the end of an allocation of {} bytes at {:#x}",
                    a.size, a.base
                )
            }
            (_, Some((distance, a))) => {
                format!("{distance} bytes before an allocation of {} bytes at {:#x}", a.size, a.base)
            }
            _ => "near no allocation".to_owned(),
        }
    }

    /// Where the bytes of a valid range really are.
    fn pointer(&self, address: u64) -> *mut u8 {
        self.locate(address).map_or(address as *mut u8, |(arena, offset)| arena.data(offset))
    }

    /// Marks a range as written.
    pub fn mark_written(&self, address: u64, len: usize) {
        if let Some((arena, offset)) = self.locate(address) {
            arena.fill_state(offset, len, State::Written);
        }
    }

    /// Copies between any two addresses, host memory included. Unwritten bytes stay unwritten at the destination.
    ///
    /// # Safety
    /// Both ranges are valid: inside allocations, or host memory that the caller vouches for.
    pub unsafe fn copy(&self, dst: u64, src: u64, len: usize) {
        if len == 0 {
            return;
        }
        // SAFETY: the caller's promise; states lie as the data do.
        unsafe {
            std::ptr::copy(self.pointer(src), self.pointer(dst), len);
            match (self.locate(dst), self.locate(src)) {
                (Some((to, at)), Some((from, from_at))) if !std::ptr::eq(to, &raw const self.host) => {
                    std::ptr::copy(from.state(from_at), to.state(at), len);
                }
                (Some((to, at)), _) => to.fill_state(at, len, State::Written),
                _ => {}
            }
        }
    }

    /// Fills `count` elements with `pattern`, little endian.
    ///
    /// # Safety
    /// The range is valid.
    pub unsafe fn fill(&self, dst: u64, pattern: &[u8], count: usize) {
        let to = self.pointer(dst);
        for k in 0..count {
            // SAFETY: the caller's promise.
            unsafe {
                std::ptr::copy_nonoverlapping(pattern.as_ptr(), to.add(k * pattern.len()), pattern.len())
            };
        }
        if count > 0 {
            self.mark_written(dst, count * pattern.len());
        }
    }
}

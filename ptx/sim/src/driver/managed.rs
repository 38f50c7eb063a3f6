//! Unified memory hints and memory pools.

use std::ffi::{c_int, c_uint, c_void};

use super::execute::Operation;
use super::stream::LEGACY;
use super::{Driver, Handle, Outcome, Status, api, put};
use crate::log::Location;
use crate::memory::{ACCESSED_BY_DEVICE, Kind, PREFERS_DEVICE, PREFERS_HOST, memory};

/// The device number that means the host.
const HOST: c_int = -1;

/// Flags of `cuMemAllocManaged` and `cuStreamAttachMemAsync`.
pub const ATTACH_GLOBAL: c_uint = 1;
pub const ATTACH_HOST: c_uint = 2;
const ATTACH_SINGLE: c_uint = 4;

/// Values of `CUmem_advise`.
const SET_READ_MOSTLY: c_uint = 1;
const UNSET_READ_MOSTLY: c_uint = 2;
const SET_PREFERRED_LOCATION: c_uint = 3;
const UNSET_PREFERRED_LOCATION: c_uint = 4;
const SET_ACCESSED_BY: c_uint = 5;
const UNSET_ACCESSED_BY: c_uint = 6;

/// `CUmemLocation`.
#[repr(C)]
struct MemLocation {
    kind: c_uint,
    id: c_int,
}

/// Kinds of a `CUmemLocation`.
const OF_DEVICE: c_uint = 1;
const OF_HOST: c_uint = 2;
const OF_HOST_NUMA: c_uint = 3;
const OF_HOST_NUMA_CURRENT: c_uint = 4;

impl MemLocation {
    /// What the first versions of the functions have in its place: a device's number, or [`HOST`].
    const fn of(device: c_int) -> Self {
        Self { kind: if device == HOST { OF_HOST } else { OF_DEVICE }, id: device }
    }
}

impl Driver {
    /// The range must be in one managed allocation (device attribute PAGEABLE_MEMORY_ACCESS is 0, so no other memory will do). It
    /// need not be aligned: it is rounded to pages.
    fn check_managed(&self, address: u64, len: usize) -> Outcome {
        let allocation = memory().find_range(address, len).ok_or(Status::INVALID_VALUE)?;
        if allocation.kind == Kind::Managed && len > 0 { Ok(()) } else { Err(Status::INVALID_VALUE) }
    }

    /// Where a location is. The host has one NUMA node.
    fn locate(&self, location: &MemLocation) -> Outcome<Location> {
        match (location.kind, location.id) {
            (OF_DEVICE, device) => self.check_device(device).map(|()| Location::Device(device)),
            (OF_HOST | OF_HOST_NUMA_CURRENT, _) | (OF_HOST_NUMA, 0) => Ok(Location::Host),
            _ => Err(Status::INVALID_VALUE),
        }
    }

    /// Devices without CONCURRENT_MANAGED_ACCESS take no part in migration.
    fn check_migration(&self) -> Outcome {
        if self.config.concurrent_managed_access { Ok(()) } else { Err(Status::INVALID_DEVICE) }
    }

    /// The device of the stream must have CONCURRENT_MANAGED_ACCESS even for a prefetch to the host. No kind of graph node is a
    /// prefetch, so it cannot be captured.
    fn prefetch(&mut self, address: u64, len: usize, to: &MemLocation, stream: Handle) -> Outcome {
        let stream = self.stream(stream)?;
        self.check_managed(address, len)?;
        let to = self.locate(to)?;
        self.check_migration()?;
        self.forbid_on_capturing(stream)?;
        self.submit(stream, Operation::Prefetch { address, len, to })?;
        match to {
            Location::Device(_) => self.counters().prefetched_to_device += len as u64,
            Location::Host => self.counters().prefetched_to_host += len as u64,
        }
        Ok(())
    }

    /// Advice that decides whether a kernel's access makes a page move is kept. What is to be read mostly migrates here as all
    /// else does.
    fn advise(&mut self, address: u64, len: usize, advice: c_uint, location: &MemLocation) -> Outcome {
        self.current()?;
        self.check_managed(address, len)?;
        let location = match advice {
            SET_READ_MOSTLY | UNSET_READ_MOSTLY | UNSET_PREFERRED_LOCATION => Location::Host, // ignored
            SET_ACCESSED_BY if !matches!(location.kind, OF_DEVICE | OF_HOST) => {
                return Err(Status::INVALID_VALUE);
            }
            SET_PREFERRED_LOCATION | SET_ACCESSED_BY | UNSET_ACCESSED_BY => self.locate(location)?,
            _ => return Err(Status::INVALID_VALUE),
        };
        let on_device = location != Location::Host;
        if on_device && advice != UNSET_ACCESSED_BY {
            self.check_migration()?;
        }
        for (_, residence) in memory().managed_pages(address, len) {
            match advice {
                SET_PREFERRED_LOCATION => {
                    residence.advise(PREFERS_HOST, !on_device);
                    residence.advise(PREFERS_DEVICE, on_device);
                }
                UNSET_PREFERRED_LOCATION => residence.advise(PREFERS_HOST | PREFERS_DEVICE, false),
                SET_ACCESSED_BY if on_device => residence.advise(ACCESSED_BY_DEVICE, true),
                UNSET_ACCESSED_BY if on_device => residence.advise(ACCESSED_BY_DEVICE, false),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The only pool there is.
const DEFAULT_POOL: usize = 0xCDA0;

api! {
    fn cuMemPrefetchAsync(d, address: u64, len: usize, device: c_int, stream: Handle) {
        d.prefetch(address, len, &MemLocation::of(device), stream)
    }

    fn cuMemPrefetchAsync_v2(
        d, address: u64, len: usize, location: MemLocation, flags: c_uint, stream: Handle,
    ) {
        if flags != 0 {
            return Err(Status::INVALID_VALUE);
        }
        d.prefetch(address, len, &location, stream)
    }

    fn cuMemAdvise(d, address: u64, len: usize, advice: c_uint, device: c_int) {
        d.advise(address, len, advice, &MemLocation::of(device))
    }

    fn cuMemAdvise_v2(d, address: u64, len: usize, advice: c_uint, location: MemLocation) {
        d.advise(address, len, advice, &location)
    }

    // Checked, and then without effect: who may access what is not looked at.
    fn cuStreamAttachMemAsync(d, stream: Handle, address: u64, len: usize, flags: c_uint) {
        let id = d.stream(stream)?;
        let allocation = memory().find(address).ok_or(Status::INVALID_VALUE)?;
        let whole = allocation.base == address && (len == 0 || len == allocation.size);
        let single_to_null = flags == ATTACH_SINGLE && d.streams[&id].kind == LEGACY;
        let known = matches!(flags, ATTACH_GLOBAL | ATTACH_HOST | ATTACH_SINGLE);
        if allocation.kind != Kind::Managed || !whole || !known || single_to_null {
            return Err(Status::INVALID_VALUE);
        }
        Ok(())
    }

    fn cuDeviceGetDefaultMemPool(d, into: *mut Handle, device: c_int) {
        d.check_device(device)?;
        put(into, DEFAULT_POOL as Handle)
    }

    fn cuDeviceGetMemPool(d, into: *mut Handle, device: c_int) {
        d.check_device(device)?;
        put(into, DEFAULT_POOL as Handle)
    }

    fn cuDeviceSetMemPool(d, device: c_int, _pool: Handle) {
        d.check_device(device)
    }

    fn cuMemPoolSetAttribute(d, _pool: Handle, _attribute: c_uint, _value: *mut c_void) {
        d.require_init()
    }

    fn cuMemPoolGetAttribute(d, _pool: Handle, attribute: c_uint, value: *mut c_void) {
        d.require_init()?;
        match attribute {
            1..=3 => put(value.cast(), 1 as c_int),
            5..=8 => put(value.cast(), d.allocated),
            _ => put(value.cast(), 0u64),
        }
    }

    fn cuMemPoolTrimTo(d, _pool: Handle, _keep: usize) {
        d.require_init()
    }
}

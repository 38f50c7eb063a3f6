//! Allocation, and questions about memory.

use std::ffi::{c_int, c_uint, c_void};

use super::execute::Operation;
use super::managed::{ATTACH_GLOBAL, ATTACH_HOST};
use super::state::current_stack;
use super::{Driver, Handle, Outcome, Status, api, put};
use crate::memory::{Allocation, Kind, memory};

impl Driver {
    pub fn allocate(&mut self, size: usize, kind: Kind) -> Outcome<u64> {
        let context = self.current()?;
        let device = self.contexts[&context].device;
        if size == 0 {
            return Err(Status::INVALID_VALUE);
        }
        let moves = kind == Kind::Managed && self.config.concurrent_managed_access;
        let at_host = moves || kind == Kind::Host;
        let (used, limit) = match at_host {
            true => (self.host_allocated, self.config.host_memory),
            false => (self.allocated, self.config.memory),
        };
        if used.saturating_add(size as u64) > limit {
            return Err(Status::OUT_OF_MEMORY);
        }
        let address = memory().allocate(size, kind, device).map_err(|_| Status::OUT_OF_MEMORY)?;
        self.owners.insert(address, context);
        if moves {
            self.place_managed(address, size);
        }
        if at_host {
            self.host_allocated += size as u64;
        } else {
            self.allocated += size as u64;
            self.make_room_for_own();
        }
        if kind != Kind::Module {
            self.counters().allocations += 1;
        }
        Ok(address)
    }

    /// Ends an allocation that is known to be there.
    pub fn release(&mut self, address: u64) {
        let moves = memory().residence(address).is_some();
        if let Some(allocation) = memory().find(address)
            && memory().free(address)
        {
            self.owners.remove(&address);
            self.forget_pages(address, allocation.size);
            if moves || allocation.kind == Kind::Host {
                self.host_allocated -= allocation.size as u64;
            } else {
                self.allocated -= allocation.size as u64;
            }
            if allocation.kind != Kind::Module {
                self.counters().frees += 1;
            }
        }
    }

    /// The allocation that starts at an address, of one of these kinds.
    fn owned(&self, address: u64, kinds: &[Kind]) -> Outcome<Allocation> {
        memory()
            .find(address)
            .filter(|a| a.base == address && kinds.contains(&a.kind))
            .ok_or(Status::INVALID_VALUE)
    }

    /// Frees after all work of the context, as the driver does.
    fn free_now(&mut self, address: u64, kinds: &[Kind]) -> Outcome {
        let context = self.current()?;
        if address == 0 {
            return Ok(());
        }
        self.forbid_unsafe_in_capture()?;
        self.owned(address, kinds)?;
        self.finish_context(context)?;
        self.release(address);
        Ok(())
    }
}

/// Flags of `cuMemHostAlloc`.
const PORTABLE: c_uint = 1;
const DEVICE_MAP: c_uint = 2;
const WRITE_COMBINED: c_uint = 4;

const OWNED_BY_DEVICE: [Kind; 2] = [Kind::Device, Kind::Managed];

api! {
    fn cuMemAlloc_v2(d, into: *mut u64, size: usize) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Device)?;
        put(into, address)
    }

    fn cuMemAllocManaged(d, into: *mut u64, size: usize, flags: c_uint) {
        d.current()?;
        if !matches!(flags, ATTACH_GLOBAL | ATTACH_HOST) {
            return Err(Status::INVALID_VALUE);
        }
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Managed)?;
        put(into, address)
    }

    fn cuMemAllocPitch_v2(d, into: *mut u64, pitch: *mut usize, width: usize, height: usize, _element: c_uint) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let row = width.next_multiple_of(512);
        let address = d.allocate(row * height, Kind::Device)?;
        put(pitch, row)?;
        put(into, address)
    }

    fn cuMemAllocAsync(d, into: *mut u64, size: usize, stream: Handle) {
        d.stream(stream)?;
        let address = d.allocate(size, Kind::Device)?;
        put(into, address)
    }

    fn cuMemAllocFromPoolAsync(d, into: *mut u64, size: usize, _pool: Handle, stream: Handle) {
        d.stream(stream)?;
        let address = d.allocate(size, Kind::Device)?;
        put(into, address)
    }

    fn cuMemFree_v2(d, address: u64) {
        d.free_now(address, &OWNED_BY_DEVICE)
    }

    fn cuMemFreeAsync(d, address: u64, stream: Handle) {
        let stream = d.stream(stream)?;
        d.owned(address, &OWNED_BY_DEVICE)?;
        d.submit(stream, Operation::Free(address)).map(drop)
    }

    fn cuMemHostAlloc(d, into: *mut *mut c_void, size: usize, flags: c_uint) {
        d.current()?;
        if flags > PORTABLE | DEVICE_MAP | WRITE_COMBINED {
            return Err(Status::INVALID_VALUE);
        }
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Host)?;
        put(into, address as *mut c_void)
    }

    fn cuMemAllocHost_v2(d, into: *mut *mut c_void, size: usize) {
        d.current()?;
        d.forbid_unsafe_in_capture()?;
        let address = d.allocate(size, Kind::Host)?;
        put(into, address as *mut c_void)
    }

    fn cuMemFreeHost(d, address: *mut c_void) {
        d.free_now(address as u64, &[Kind::Host])
    }

    fn cuMemHostRegister_v2(d, address: *mut c_void, size: usize, _flags: c_uint) {
        d.current()?;
        if memory().find_range(address as u64, size).is_some() {
            return Err(Status::HOST_MEMORY_ALREADY_REGISTERED);
        }
        memory().register(address as u64, size);
        Ok(())
    }

    fn cuMemHostUnregister(d, address: *mut c_void) {
        let context = d.current()?;
        d.owned(address as u64, &[Kind::Registered]).map_err(|_| Status::HOST_MEMORY_NOT_REGISTERED)?;
        d.finish_context(context)?;
        memory().free(address as u64);
        Ok(())
    }

    fn cuMemHostGetDevicePointer_v2(d, into: *mut u64, address: *mut c_void, _flags: c_uint) {
        d.current()?;
        memory().find(address as u64).ok_or(Status::INVALID_VALUE)?;
        put(into, address as u64)
    }

    fn cuMemHostGetFlags(d, flags: *mut c_uint, address: *mut c_void) {
        d.current()?;
        let allocation = memory().find(address as u64).ok_or(Status::INVALID_VALUE)?;
        if allocation.kind != Kind::Host {
            return Err(Status::INVALID_VALUE);
        }
        put(flags, PORTABLE | DEVICE_MAP)
    }

    fn cuMemGetInfo_v2(d, free: *mut usize, total: *mut usize) {
        d.current()?;
        put(free, d.config.memory.saturating_sub(d.allocated + d.managed_on_device()) as usize)?;
        put(total, d.config.memory as usize)
    }

    fn cuMemGetAddressRange_v2(d, base: *mut u64, size: *mut usize, address: u64) {
        d.current()?;
        let allocation = memory().find(address).ok_or(Status::NOT_FOUND)?;
        if !base.is_null() {
            put(base, allocation.base)?;
        }
        if size.is_null() { Ok(()) } else { put(size, allocation.size) }
    }

    fn cuPointerGetAttribute(d, data: *mut c_void, attribute: c_uint, address: u64) {
        d.require_init()?;
        let a = memory().find(address).ok_or(Status::INVALID_VALUE)?;
        let device_memory = matches!(a.kind, Kind::Device | Kind::Managed | Kind::Module);
        match attribute {
            1 => put(data.cast(), current_stack(|stack| stack.last().copied().unwrap_or(0))),
            2 => put(data.cast(), if device_memory { 2u32 } else { 1 }),
            // The address as kernels of the current context see it.
            3 => {
                let context = d.current()?;
                let own = d.contexts[&context].device as u32 == a.device as u32;
                if own || a.kind != Kind::Device { put(data.cast(), address) } else { Err(Status::INVALID_VALUE) }
            }
            4 if a.kind == Kind::Device => Err(Status::INVALID_VALUE),
            4 => put(data.cast(), address),
            8 => put(data.cast(), c_uint::from(a.kind == Kind::Managed)),
            9 => put(data.cast(), a.device as c_int),
            11 => put(data.cast(), a.base),
            12 => put(data.cast(), a.size),
            13 => put(data.cast(), 1u8),
            _ => Err(Status::NOT_SUPPORTED),
        }
    }
}

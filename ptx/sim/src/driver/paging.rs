//! Where managed memory is: pages come to a device by prefetches and page faults, and leave it when something else needs the room,
//! those first that came first. Kernels move the pages that they touch themselves; that those make others leave shows after the
//! kernel.

use std::collections::HashSet;

use super::Driver;
use super::state::this_thread;
use crate::log::Location;
use crate::memory::{Kind, PAGE, memory};

impl Driver {
    /// Puts new managed memory into the host's: who fills it there is not seen.
    pub fn place_managed(&mut self, address: u64, len: usize) {
        for (_, residence) in memory().managed_pages(address, len) {
            residence.move_to(Location::Host);
        }
    }

    /// Moves the pages of a range that are elsewhere. Returns their bytes.
    pub fn migrate(&mut self, address: u64, len: usize, to: Location, thread: u64) -> u64 {
        let mut moved = 0;
        self.forget_pages(address, len);
        for (page, residence) in memory().managed_pages(address, len) {
            moved += if residence.move_to(to) { PAGE as u64 } else { 0 };
            if to != Location::Host {
                self.on_device.push_back(page);
            }
        }
        self.make_room(thread);
        moved
    }

    /// Pages that a kernel has fetched count as its device's from now on.
    pub fn note_faults(&mut self, device: i32, thread: u64) {
        let known: HashSet<u64> = self.on_device.iter().copied().collect();
        for allocation in memory().all_of(Kind::Managed) {
            for (page, residence) in memory().managed_pages(allocation.base, allocation.size) {
                let here = residence.is_somewhere() && residence.is_at_hand(device);
                if here && !known.contains(&page) {
                    self.on_device.push_back(page);
                }
            }
        }
        self.make_room(thread);
    }

    /// Sends pages to the host until those that are left fit beside what is allocated on the device.
    fn make_room(&mut self, thread: u64) {
        let room = self.config.memory.saturating_sub(self.allocated);
        while self.managed_on_device() > room {
            let page = self.on_device.pop_front().expect("some are there");
            if let Some(residence) = memory().residence(page) {
                residence.move_to(Location::Host);
            }
            self.counters_of(thread).managed_evictions += PAGE as u64;
        }
    }

    /// The same, after an allocation on the device.
    pub fn make_room_for_own(&mut self) {
        self.make_room(this_thread());
    }

    /// The pages of a range are on no device any more.
    pub fn forget_pages(&mut self, address: u64, len: usize) {
        let end = address + len as u64;
        self.on_device.retain(|&page| page + PAGE as u64 <= address || page >= end);
    }

    /// Bytes of managed pages in device memory.
    pub fn managed_on_device(&self) -> u64 {
        (self.on_device.len() * PAGE) as u64
    }
}

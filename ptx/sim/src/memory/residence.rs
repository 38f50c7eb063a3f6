//! Where a page of memory is. Kernels look at it with each access, so it lies beside the page's lock.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crate::log::Location;

/// Where one page is, and what the program advised about it. All zeros: wherever it is, all devices reach it.
#[derive(Default)]
pub struct Residence {
    /// One more than the device whose memory it is in; [`HOST`] for managed memory that is not on a device.
    place: AtomicU32,
    /// [`PREFERS_HOST`], [`PREFERS_DEVICE`] and [`ACCESSED_BY_DEVICE`].
    advice: AtomicU8,
}

const HOST: u32 = u32::MAX;

/// The preferred location is the host: who can reach the page there does not make it move.
pub const PREFERS_HOST: u8 = 1;
/// The preferred location is a device: the page comes to it, mapped or not.
pub const PREFERS_DEVICE: u8 = 4;
/// Devices have the page mapped wherever it is. Which devices is not kept: all.
pub const ACCESSED_BY_DEVICE: u8 = 2;

const fn place(location: Location) -> u32 {
    match location {
        Location::Host => HOST,
        Location::Device(device) => device as u32 + 1,
    }
}

impl Residence {
    /// Whether there is a place at all.
    pub fn is_somewhere(&self) -> bool {
        self.place.load(Ordering::Relaxed) != 0
    }

    /// Whether kernels on a device reach the page just so. Memory of another device is not mapped without peer access
    /// (`cuCtxEnablePeerAccess`), and managed memory that is elsewhere has to come.
    #[inline(always)]
    pub fn is_at_hand(&self, device: i32) -> bool {
        let now = self.place.load(Ordering::Relaxed);
        now == 0 || now == place(Location::Device(device))
    }

    /// Whether devices that touch the page reach it in the host's memory and leave it there.
    pub fn stays_at_host(&self) -> bool {
        let advice = self.advice.load(Ordering::Relaxed);
        let mapped = advice & PREFERS_HOST != 0
            || advice & (ACCESSED_BY_DEVICE | PREFERS_DEVICE) == ACCESSED_BY_DEVICE;
        mapped && self.place.load(Ordering::Relaxed) == HOST
    }

    /// Moves the page. Whether it was elsewhere.
    pub fn move_to(&self, location: Location) -> bool {
        let to = place(location);
        self.place.swap(to, Ordering::Relaxed) != to
    }

    /// Sets or takes back an advice.
    pub fn advise(&self, advice: u8, set: bool) {
        if set {
            self.advice.fetch_or(advice, Ordering::Relaxed);
        } else {
            self.advice.fetch_and(!advice, Ordering::Relaxed);
        }
    }

    /// The page is nobody's again.
    pub fn clear(&self) {
        self.place.store(0, Ordering::Relaxed);
        self.advice.store(0, Ordering::Relaxed);
    }
}

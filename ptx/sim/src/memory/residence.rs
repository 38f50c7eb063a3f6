//! Where a page of managed memory is. Kernels look at it with each access, so it lies beside the page's lock.

use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use crate::log::Location;

/// Where one page is, and what the program advised about it. All zeros: not managed memory that moves.
#[derive(Default)]
pub struct Residence {
    place: AtomicU16,
    /// [`PREFERS_HOST`] and [`ACCESSED_BY_DEVICE`].
    advice: AtomicU8,
}

/// `place` of a page in the host's memory; on device d it is d more than the next number.
const HOST: u16 = 1;

/// The preferred location is the host: who can reach the page there does not make it move.
pub const PREFERS_HOST: u8 = 1;
/// Devices have the page mapped wherever it is. Which devices is not kept: all.
pub const ACCESSED_BY_DEVICE: u8 = 2;

const fn place(location: Location) -> u16 {
    match location {
        Location::Host => HOST,
        Location::Device(device) => HOST + 1 + device as u16,
    }
}

impl Residence {
    pub fn is_managed(&self) -> bool {
        self.place.load(Ordering::Relaxed) != 0
    }

    /// Whether a device has to reach or fetch the page from elsewhere.
    #[inline(always)]
    pub fn is_far_from(&self, device: i32) -> bool {
        let now = self.place.load(Ordering::Relaxed);
        now != 0 && now != place(Location::Device(device))
    }

    /// Whether devices that touch the page reach it in the host's memory and leave it there.
    pub fn stays_at_host(&self) -> bool {
        self.place.load(Ordering::Relaxed) == HOST && self.advice.load(Ordering::Relaxed) != 0
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

//! Where an access to global memory goes: alignment, bounds, the device's reach, written or not.

use std::sync::atomic::Ordering;

use super::access::misaligned;
use super::warp::Context;
use crate::fault::{FaultKind, Step, raise};
use crate::log::Location;
use crate::memory::{Arena, PAGE, State, all_at_least, memory};

/// Where an access is, once it is known to be aligned, allocated and within the device's reach.
pub enum Place<'a> {
    Arena(&'a Arena, usize),
    /// Host memory registered by the program: nothing is known of its bytes.
    Registered(*mut u8),
}

#[inline(always)]
pub fn place(lane: usize, address: u64, bytes: usize, read: bool, c: &Context<'_>) -> Step<Place<'static>> {
    if address & (bytes as u64 - 1) != 0 {
        return misaligned("global", lane, address, bytes);
    }
    let Some((arena, offset)) = memory().locate(address) else {
        if memory().find_range(address, bytes).is_some() {
            return Ok(Place::Registered(address as *mut u8));
        }
        let verb = if read { "reads" } else { "writes" };
        let text = format!("{verb} {bytes} bytes at {address:#x}, {}", memory().describe(address));
        return raise(FaultKind::OutOfBounds, lane, text);
    };
    if !arena.page(offset).residence.is_at_hand(c.launch.checks.device) {
        fetch(lane, address, bytes, read, c)?;
    }
    let wanted = if read && c.launch.checks.uninitialized { State::Written } else { State::Unwritten };
    // SAFETY: the arena has a state for each of its bytes, and an aligned access stays in a page.
    if unsafe { all_at_least(arena.state(offset), bytes, wanted) } {
        return Ok(Place::Arena(arena, offset));
    }
    bad_state(arena, lane, address, offset, bytes, read, wanted)
}

/// A page that is elsewhere. One of managed memory comes, unless advice lets the device reach it where it is.
#[cold]
fn fetch(lane: usize, address: u64, bytes: usize, read: bool, c: &Context<'_>) -> Step {
    if let Some(residence) = memory().residence(address) {
        if residence.stays_at_host() {
            c.launch.managed_remote.fetch_add(bytes as u64, Ordering::Relaxed);
        } else if residence.move_to(Location::Device(c.launch.checks.device)) {
            c.launch.managed_faults.fetch_add(PAGE as u64, Ordering::Relaxed);
        }
        return Ok(());
    }
    let verb = if read { "reads" } else { "writes" };
    let text = format!(
        "{verb} {bytes} bytes at {address:#x} of another device without peer access: {}",
        memory().describe(address)
    );
    raise(FaultKind::OutOfBounds, lane, text)
}

/// Says which byte is free or unwritten.
#[cold]
fn bad_state<T>(
    arena: &Arena,
    lane: usize,
    address: u64,
    offset: usize,
    bytes: usize,
    read: bool,
    wanted: State,
) -> Step<T> {
    let verb = if read { "reads" } else { "writes" };
    // SAFETY: as in `place`.
    let states = unsafe { std::slice::from_raw_parts(arena.state(offset), bytes) };
    let free = states.iter().position(|&state| state == State::Free as u8);
    let unwritten = states.iter().position(|&state| state < wanted as u8);
    let k = free.or(unwritten).unwrap_or(0) as u64;
    let which = if k == 0 { String::new() } else { format!("; its byte {k} is") };
    let comma = if k == 0 { ", " } else { " " };
    let near = memory().describe(address + k);
    let text = format!("{verb} {bytes} bytes at {address:#x}{which}{comma}{near}");
    match free {
        Some(_) => raise(FaultKind::OutOfBounds, lane, text),
        None => raise(FaultKind::Uninitialized, lane, format!("{text}: never written")),
    }
}

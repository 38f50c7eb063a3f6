//! `ld` and `st`: from the instruction to the state space that it reaches, and between bytes and registers.

use super::lanes::{Class, Reg, Registers, WARP};
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::{Access, AddressSpace};
use crate::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, State, WINDOW_SIZE};
use crate::parse::Space;

/// The bytes of one access of each lane; 32 is the widest (`.v8.b32`).
pub type Data = [[u8; 32]; WARP];

impl Warp {
    pub(super) fn load(&mut self, c: &mut Context<'_>, access: &Access, mask: u32) -> Step {
        let mut addresses = self.addresses(&access.address);
        let bytes = access.size * access.registers.len();
        let mut data: Data = [[0; 32]; WARP];
        for (space, mask) in self.split(access.space, &mut addresses, mask) {
            match space {
                Space::Global | Space::Const => {
                    self.read_global(c, &addresses, mask, bytes, access.order, &mut data)?
                }
                Space::Shared => {
                    self.to_cluster(c, &mut addresses, mask)?;
                    self.read_shared(c, &addresses, mask, bytes, access.order, &mut data)?
                }
                Space::Local => self.read_local(c, &addresses, mask, bytes, &mut data)?,
                Space::Param => read_param(c, &addresses, mask, bytes, &mut data)?,
            }
        }
        for (k, register) in access.registers.iter().enumerate() {
            if let Some(register) = register {
                scatter(
                    &mut self.registers,
                    *register,
                    k * access.size,
                    access.size,
                    access.signed,
                    mask,
                    &data,
                );
            }
        }
        Ok(())
    }

    pub(super) fn store(&mut self, c: &mut Context<'_>, access: &Access, mask: u32) -> Step {
        let mut addresses = self.addresses(&access.address);
        let bytes = access.size * access.registers.len();
        let mut data: Data = [[0; 32]; WARP];
        for (k, register) in access.registers.iter().enumerate() {
            let register = register.expect("a source");
            gather(&self.registers, register, k * access.size, access.size, mask, &mut data);
        }
        for (space, mask) in self.split(access.space, &mut addresses, mask) {
            match space {
                Space::Global => self.write_global(c, &addresses, mask, bytes, access.order, &data)?,
                Space::Shared => {
                    self.to_cluster(c, &mut addresses, mask)?;
                    self.write_shared(c, &addresses, mask, bytes, access.order, &data)?
                }
                Space::Local => self.write_local(c, &addresses, mask, bytes, &data)?,
                Space::Const | Space::Param => {
                    let text = "parameters and constants cannot be written".into();
                    return raise(FaultKind::OutOfBounds, mask.trailing_zeros() as usize, text);
                }
            }
        }
        Ok(())
    }

    /// The state spaces of the lanes' addresses; generic ones are turned into offsets of their windows.
    pub(super) fn split(
        &self,
        space: AddressSpace,
        addresses: &mut [u64; WARP],
        mask: u32,
    ) -> impl Iterator<Item = (Space, u32)> + use<> {
        let some: fn(&(Space, u32)) -> bool = |(_, mask)| *mask != 0;
        if let AddressSpace::In(space) = space {
            return [(space, mask), (space, 0), (space, 0), (space, 0)].into_iter().filter(some);
        }
        let mut masks = [(Space::Global, 0), (Space::Shared, 0), (Space::Local, 0), (Space::Param, 0)];
        for lane in lanes(mask) {
            let address = &mut addresses[lane];
            let (which, window) = if address.wrapping_sub(SHARED_WINDOW) < WINDOW_SIZE {
                (1, SHARED_WINDOW)
            } else if address.wrapping_sub(LOCAL_WINDOW) < WINDOW_SIZE {
                (2, LOCAL_WINDOW)
            } else if address.wrapping_sub(PARAM_WINDOW) < WINDOW_SIZE {
                (3, PARAM_WINDOW)
            } else {
                (0, 0)
            };
            *address -= window;
            masks[which].1 |= 1 << lane;
        }
        masks.into_iter().filter(some)
    }

    /// The place of a lane's access in the block's local memory.
    fn local_at(&self, c: &Context<'_>, lane: usize, address: u64, bytes: usize) -> Step<usize> {
        let size = c.launch.kernel.local_size as usize;
        if !address.is_multiple_of(bytes as u64) {
            return misaligned("local", lane, address, bytes);
        }
        if address as usize + bytes > size {
            let text = format!("{bytes} bytes at local offset {address:#x} of {size}");
            return raise(FaultKind::OutOfBounds, lane, text);
        }
        Ok((self.index * WARP + lane) * size + address as usize)
    }

    fn read_local(&self, c: &Context<'_>, a: &[u64; WARP], mask: u32, bytes: usize, data: &mut Data) -> Step {
        for lane in lanes(mask) {
            let at = self.local_at(c, lane, a[lane], bytes)?;
            if c.block.local_state[at..at + bytes].iter().any(|&s| s != State::Written as u8) {
                let text = format!("{bytes} bytes at local offset {:#x} were never written", a[lane]);
                return raise(FaultKind::Uninitialized, lane, text);
            }
            data[lane][..bytes].copy_from_slice(&c.block.local[at..at + bytes]);
        }
        Ok(())
    }

    fn write_local(
        &self,
        c: &mut Context<'_>,
        a: &[u64; WARP],
        mask: u32,
        bytes: usize,
        data: &Data,
    ) -> Step {
        for lane in lanes(mask) {
            let at = self.local_at(c, lane, a[lane], bytes)?;
            c.block.local[at..at + bytes].copy_from_slice(&data[lane][..bytes]);
            c.block.local_state[at..at + bytes].fill(State::Written as u8);
        }
        Ok(())
    }
}

/// Raises a misalignment.
#[cold]
pub fn misaligned<T>(space: &str, lane: usize, address: u64, bytes: usize) -> Step<T> {
    let text = format!(
        "an access of {bytes} bytes at {space} address {address:#x}, which is not a multiple of {bytes}"
    );
    raise(FaultKind::Misaligned, lane, text)
}

fn read_param(c: &Context<'_>, a: &[u64; WARP], mask: u32, bytes: usize, data: &mut Data) -> Step {
    let params = c.launch.params;
    for lane in lanes(mask) {
        if !a[lane].is_multiple_of(bytes as u64) {
            return misaligned("parameter", lane, a[lane], bytes);
        }
        let Some(from) = params.get(a[lane] as usize..a[lane].saturating_add(bytes as u64) as usize) else {
            let text = format!("{bytes} bytes at offset {} of {} parameter bytes", a[lane], params.len());
            return raise(FaultKind::OutOfBounds, lane, text);
        };
        data[lane][..bytes].copy_from_slice(from);
    }
    Ok(())
}

/// Bytes to a register, extended to its width.
fn scatter(r: &mut Registers, reg: Reg, at: usize, size: usize, signed: bool, mask: u32, data: &Data) {
    fn part<const N: usize>(data: &[u8; 32], at: usize) -> [u8; N] {
        data[at..at + N].try_into().expect("N bytes")
    }
    let index = usize::from(reg.index);
    macro_rules! fill {
        ($file:ident, $to:ty, $from:ty, $via:ty) => {{
            let file = &mut r.$file[index];
            for lane in 0..WARP {
                if mask >> lane & 1 != 0 {
                    file[lane] = <$from>::from_le_bytes(part(&data[lane], at)) as $via as $to;
                }
            }
        }};
    }
    match (reg.class, size, signed) {
        (Class::B64, 8, _) => fill!(b64, u64, u64, u64),
        (Class::B64, 4, false) => fill!(b64, u64, u32, u32),
        (Class::B64, 4, true) => fill!(b64, u64, i32, i64),
        (Class::B64, 2, false) => fill!(b64, u64, u16, u16),
        (Class::B64, 2, true) => fill!(b64, u64, i16, i64),
        (Class::B64, _, false) => fill!(b64, u64, u8, u8),
        (Class::B64, _, true) => fill!(b64, u64, i8, i64),
        (Class::B128, ..) => fill!(b128, u128, u128, u128),
        (_, 4, _) => fill!(b32, u32, u32, u32),
        (_, 2, false) => fill!(b32, u32, u16, u16),
        (_, 2, true) => fill!(b32, u32, i16, i32),
        (_, _, false) => fill!(b32, u32, u8, u8),
        (_, _, true) => fill!(b32, u32, i8, i32),
    }
}

/// A register's low bytes.
pub(super) fn gather(r: &Registers, reg: Reg, at: usize, size: usize, mask: u32, data: &mut Data) {
    let index = usize::from(reg.index);
    macro_rules! take {
        ($file:ident, $to:ty) => {{
            let file = &r.$file[index];
            for lane in 0..WARP {
                if mask >> lane & 1 != 0 {
                    data[lane][at..at + size_of::<$to>()].copy_from_slice(&(file[lane] as $to).to_le_bytes());
                }
            }
        }};
    }
    match (reg.class, size) {
        (Class::B64, 8) => take!(b64, u64),
        (Class::B64, 4) => take!(b64, u32),
        (Class::B64, 2) => take!(b64, u16),
        (Class::B64, _) => take!(b64, u8),
        (Class::B128, _) => take!(b128, u128),
        (_, 4) => take!(b32, u32),
        (_, 2) => take!(b32, u16),
        (_, _) => take!(b32, u8),
    }
}

//! Tensor maps and the bulk copies that use them, in tile mode (PTX ISA §5.5).

use super::bulk::Store;
use super::warp::{Context, Warp, lanes};
use crate::fault::{FaultKind, Step, raise};
use crate::isa::TensorCopy;
use crate::memory::{PARAM_WINDOW, WINDOW_SIZE};

/// How 16-byte chunks of shared memory are permuted (§5.5.7): bits 4… of an address are xor-ed with bits 7….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swizzle {
    None,
    B32,
    B64,
    B128,
}

impl Swizzle {
    /// Where the chunk at an address goes.
    pub const fn apply(self, address: usize) -> usize {
        let bits = match self {
            Self::None => 0,
            Self::B32 => 1,
            Self::B64 => 3,
            Self::B128 => 7,
        };
        address ^ (address >> 7 & bits) << 4
    }

    /// The longest row, in bytes.
    pub const fn span(self) -> usize {
        match self {
            Self::None => usize::MAX,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }
}

/// What `cuTensorMapEncodeTiled` encodes. The 128 bytes of the real thing are secret; these are ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    pub element: usize,
    pub rank: usize,
    pub address: u64,
    /// Elements, innermost first.
    pub dims: [u64; 5],
    /// Bytes; of the innermost dimension the element.
    pub strides: [u64; 5],
    pub tile: [u32; 5],
    pub swizzle: Swizzle,
}

const MAGIC: u32 = 0x5458_7470;

impl TensorMap {
    pub fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        let mut at = 0;
        let mut put = |data: &[u8]| {
            bytes[at..at + data.len()].copy_from_slice(data);
            at += data.len();
        };
        put(&MAGIC.to_le_bytes());
        put(&[self.element as u8, self.rank as u8, self.swizzle as u8, 0]);
        put(&self.address.to_le_bytes());
        for k in 0..5 {
            put(&self.dims[k].to_le_bytes());
            put(&self.strides[k].to_le_bytes());
            put(&(self.tile[k] as u16).to_le_bytes());
        }
        bytes
    }

    pub fn decode(bytes: &[u8; 128]) -> Option<Self> {
        fn int(bytes: &[u8]) -> u64 {
            bytes.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte))
        }
        if int(&bytes[..4]) != MAGIC.into() {
            return None;
        }
        let swizzle = [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128];
        let part = |k: usize, from: usize, to: usize| int(&bytes[16 + 18 * k + from..16 + 18 * k + to]);
        Some(Self {
            element: bytes[4].into(),
            rank: bytes[5].into(),
            swizzle: *swizzle.get(usize::from(bytes[6]))?,
            address: int(&bytes[8..16]),
            dims: std::array::from_fn(|k| part(k, 0, 8)),
            strides: std::array::from_fn(|k| part(k, 8, 16)),
            tile: std::array::from_fn(|k| part(k, 16, 18) as u32),
        })
    }

    /// Bytes of a tile.
    fn tile_bytes(&self) -> usize {
        self.tile[..self.rank].iter().product::<u32>() as usize * self.element
    }

    /// For each row of the tile at some coordinates: where the part inside the tensor lies in global memory, its length in
    /// bytes, and its offset in the row. Rows outside have length 0.
    fn rows(&self, start: &[i64]) -> Vec<(u64, usize, usize)> {
        let row_elements = i64::from(self.tile[0]);
        let first = start[0].clamp(0, self.dims[0] as i64);
        let last = (start[0] + row_elements).clamp(0, self.dims[0] as i64);
        let rows: usize = self.tile[1..self.rank].iter().product::<u32>() as usize;
        let place = |row: usize| {
            let mut rest = row;
            let mut address = self.address.wrapping_add_signed(first * self.element as i64);
            let mut inside = first < last;
            for (k, first) in start.iter().enumerate().skip(1) {
                let coordinate = first + (rest % self.tile[k] as usize) as i64;
                rest /= self.tile[k] as usize;
                inside &= (0..self.dims[k] as i64).contains(&coordinate);
                address = address.wrapping_add_signed(coordinate.wrapping_mul(self.strides[k] as i64));
            }
            let len = if inside { (last - first) as usize * self.element } else { 0 };
            (address, len, (first - start[0]).max(0) as usize * self.element)
        };
        (0..rows).map(place).collect()
    }
}

impl Warp {
    /// The map and the coordinates of a lane's copy, and the offset of its tile in shared memory.
    fn tensor(
        &self,
        c: &mut Context<'_>,
        copy: &TensorCopy,
        lane: usize,
    ) -> Step<(TensorMap, Vec<i64>, usize)> {
        let address = self.addresses(&copy.map)[lane];
        let mut bytes = [0; 128];
        // A generic address: of a parameter only inside their window; an offset of `.param` space itself is none (§9.7.9.25.5).
        let offset = address.wrapping_sub(PARAM_WINDOW);
        if offset < WINDOW_SIZE {
            let offset = offset as usize;
            let Some(params) = c.launch.params.get(offset..offset + 128) else {
                let text = format!("a tensor map at parameter offset {offset:#x}, outside the parameters");
                return raise(FaultKind::OutOfBounds, lane, text);
            };
            bytes.copy_from_slice(params);
        } else {
            self.read_global_range(c, lane, address, &mut bytes)?;
        }
        let Some(map) = TensorMap::decode(&bytes) else {
            let text = format!("there is no tensor map at {address:#x}");
            return raise(FaultKind::IllegalOperand, lane, text);
        };
        if map.rank != copy.coordinates.len() || !address.is_multiple_of(64) {
            let text = format!("a map of rank {} at {address:#x} (a multiple of 64 is wanted)", map.rank);
            return raise(FaultKind::IllegalOperand, lane, text);
        }
        let coordinate = |&c: &u16| i64::from(self.registers.b32[usize::from(c)][lane] as i32);
        let start = copy.coordinates.iter().map(coordinate).collect();
        let at = self.addresses(&copy.shared)[lane];
        if !at.is_multiple_of(128) {
            return super::access::misaligned("shared", lane, at, 128);
        }
        let at = self.shared_range(c, lane, at, map.tile_bytes())?;
        Ok((map, start, at))
    }

    pub(super) fn tensor_load(&mut self, c: &mut Context<'_>, copy: &TensorCopy, mask: u32) -> Step {
        for lane in lanes(mask) {
            let (map, start, at) = self.tensor(c, copy, lane)?;
            let row_bytes = map.tile[0] as usize * map.element;
            // What lies outside the tensor is zero.
            let mut tile = vec![0; map.tile_bytes()];
            for (row, (address, len, skip)) in map.rows(&start).into_iter().enumerate() {
                let from = row * row_bytes + skip;
                self.read_global_range(c, lane, address, &mut tile[from..from + len])?;
            }
            let pieces = match map.swizzle {
                Swizzle::None => vec![(at, tile)],
                swizzle => {
                    let chunk = |(k, chunk): (usize, &[u8])| (swizzle.apply(at + 16 * k), chunk.to_vec());
                    tile.chunks(16).enumerate().map(chunk).collect()
                }
            };
            self.issue_load(c, copy.mbarrier.as_ref(), copy.blocks, lane, pieces)?;
        }
        Ok(())
    }

    pub(super) fn tensor_store(&mut self, c: &mut Context<'_>, copy: &TensorCopy, mask: u32) -> Step {
        for lane in lanes(mask) {
            let (map, start, at) = self.tensor(c, copy, lane)?;
            let row_bytes = map.tile[0] as usize * map.element;
            let mut tile = vec![0; map.tile_bytes()];
            let mut from = Vec::new();
            for (k, chunk) in tile.chunks_mut(16).enumerate() {
                let at = map.swizzle.apply(at + 16 * k);
                self.begin_async_read(c, lane, at, chunk.len())?;
                chunk.copy_from_slice(&c.block.shared.data[at..at + chunk.len()]);
                from.push((at, chunk.len()));
            }
            let rows = map.rows(&start).into_iter().enumerate().filter(|(_, (_, len, _))| *len > 0);
            let piece = |(row, (address, len, skip)): (usize, (u64, usize, usize))| {
                let from = row * row_bytes + skip;
                (address, tile[from..from + len].to_vec())
            };
            let pieces = rows.map(piece).collect();
            self.stores.uncommitted.push(Store { lane, pieces, from });
        }
        Ok(())
    }
}
